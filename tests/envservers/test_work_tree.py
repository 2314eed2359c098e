"""Which secret files `git add .` would publish, as git itself says too."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from envservers.keys import main
from envservers.work_tree import find_publishing_tree

IGNORED = ["*.key", "keys/", "keys", "/keys/", "*.k*", "learner.key", "# keys\n\n*.key\n"]
PUBLISHED = ["", "*.pub", "# *.key", "other/", "!*.key", "learner.key/"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "checkout"
    (tree / "keys").mkdir(parents=True)
    (tree / ".git" / "info").mkdir(parents=True)
    return tree


@pytest.mark.parametrize("patterns", IGNORED + PUBLISHED)
@pytest.mark.parametrize("where", [".gitignore", ".git/info/exclude"])
def test_a_secret_is_published_unless_it_is_ignored(tree: Path, patterns: str, where: str) -> None:
    (tree / where).write_text(patterns)
    found = find_publishing_tree(tree / "keys" / "learner.key")
    assert found == (None if patterns in IGNORED else tree.resolve())


@pytest.mark.parametrize(("patterns", "ignored"), [("*.key", True), ("keys/", False)])
def test_a_list_is_about_what_is_beside_it(tree: Path, patterns: str, ignored: bool) -> None:
    (tree / "keys" / ".gitignore").write_text(patterns)
    found = find_publishing_tree(tree / "keys" / "learner.key")
    assert found == (None if ignored else tree.resolve())


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
@pytest.mark.parametrize("patterns", IGNORED + PUBLISHED)
def test_git_says_the_same(tree: Path, patterns: str) -> None:
    shutil.rmtree(tree / ".git")
    subprocess.run(["git", "init", "-q", str(tree)], check=True)
    (tree / ".gitignore").write_text(patterns)
    (tree / "keys" / "learner.key").touch()
    command = ["git", "-C", str(tree), "check-ignore", "-q", "keys/learner.key"]
    assert (subprocess.run(command, check=False).returncode == 0) == (patterns in IGNORED)


# As submodules and further work trees have it.
def test_a_work_tree_may_have_a_file_for_its_repository(tree: Path) -> None:
    shutil.rmtree(tree / ".git")
    assert find_publishing_tree(tree / "keys" / "learner.key") is None
    (tree / ".git").write_text("gitdir: /elsewhere")
    assert find_publishing_tree(tree / "keys" / "learner.key") == tree.resolve()


def test_whoever_makes_keys_there_is_told(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tree)
    assert main(["new", "keys/learner"]) == 0
    said = capsys.readouterr().err
    assert said.startswith(f"seed-keys: keys/learner.key is in the git work tree {tree}, ")
    assert said.endswith(f"add *.key to {tree / '.gitignore'}\n")
    (tree / ".gitignore").write_text("*.key\n")
    assert main(["new", "keys/worker"]) == 0
    assert capsys.readouterr().err == ""


def test_this_project_ignores_keys() -> None:
    root = Path(__file__).parents[2]
    patterns = (root / ".gitignore").read_text().splitlines()
    assert {"*.key", "keys/"} <= set(patterns)
