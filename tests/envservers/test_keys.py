"""The command `seed-keys`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from envservers.keys import find_publishing_tree, main
from seed.wire.keys import read_pair


def test_makes_a_pair_and_lists_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", str(tmp_path / "worker")]) == 0
    assert "worker.key: secret" in capsys.readouterr().out
    # It is not overwritten.
    before = (tmp_path / "worker.key").read_bytes()
    assert main(["new", str(tmp_path / "worker")]) == 2
    assert "is there already" in capsys.readouterr().err
    assert (tmp_path / "worker.key").read_bytes() == before
    (tmp_path / "notes.txt").write_text("no key")
    assert main(["list", str(tmp_path)]) == 0
    pair = read_pair(tmp_path / "worker.key")
    out = capsys.readouterr().out
    assert out == f"{pair.public}  worker  secret\n{pair.public}  worker  public\n"
    assert pair.secret not in out


@pytest.mark.parametrize("name", ["worker.key", "worker.pub", "", "no/such/folder"])
def test_refuses_names_that_cannot_be(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new", name]) == 2
    assert capsys.readouterr().err.startswith("seed-keys: ")
    assert not list(tmp_path.iterdir())


def test_says_what_is_wrong_with_the_keys_of_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("good", "open"):
        main(["new", str(tmp_path / name)])
    (tmp_path / "open.key").chmod(0o644)
    (tmp_path / "torn.pub").write_text("public abc")
    capsys.readouterr()
    assert main(["list", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert out.count("good") == 2
    assert f"chmod 600 {tmp_path / 'open.key'}" in err
    assert "torn.pub: expected a public key" in err
    assert main(["list", str(tmp_path / "nowhere")]) == 2


# A name of a file can be anything, and whoever brings a public key chooses it.
def test_names_of_files_are_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (b"\x1b[2J", b"bad\xff", "\u202edne\u200b\x9b".encode()):
        path = tmp_path / os.fsdecode(name)
        main(["new", str(path)])
        path.with_name(path.name + "-torn.pub").write_text("public abc")
    main(["list", str(tmp_path)])
    out, err = capsys.readouterr()
    assert (out + err).replace("\n", "").isprintable()
    for shown in (r"\x1b[2J", r"bad\udcff", r"\u202edne\u200b\x9b"):
        assert f"{shown}.key: secret" in out
        assert f"  {shown}  secret\n" in out
        assert f"{shown}-torn.pub: expected a public key" in err


@pytest.mark.parametrize("redirection", [">/dev/full 2>&1", "<&- >&- 2>&-"])
@pytest.mark.parametrize(
    ("arguments", "code"), [("--version", 0), ("list /nowhere", 2), ("new", 2)]
)
def test_keys_that_cannot_be_printed_change_no_exit_code(
    redirection: str, arguments: str, code: int
) -> None:
    command = f"exec '{sys.executable}' -m envservers.keys {arguments} {redirection}"
    assert subprocess.run(["sh", "-c", command], timeout=60, check=False).returncode == code


# Patterns of a list of ignored files, as git itself takes them.
IGNORED = ["*.key", "keys/", "keys", "/keys/", "*.k*", "learner.key", "# keys\n\n*.key\n"]
PUBLISHED = ["", "*.pub", "# *.key", "other/", "!*.key", "learner.key/"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "checkout"
    (tree / "keys").mkdir(parents=True)
    (tree / ".git" / "info").mkdir(parents=True)
    return tree


def test_a_secret_is_published_unless_a_list_ignores_it(tree: Path) -> None:
    secret = tree / "keys" / "learner.key"
    for where in (".gitignore", ".git/info/exclude"):
        for patterns in IGNORED + PUBLISHED:
            (tree / where).write_text(patterns)
            found = find_publishing_tree(secret)
            assert found == (None if patterns in IGNORED else tree.resolve()), patterns
    # A list is about what is beside it.
    for patterns, ignored in (("keys/", False), ("*.key", True)):
        (tree / "keys" / ".gitignore").write_text(patterns)
        assert (find_publishing_tree(secret) is None) == ignored
    (tree / "keys" / ".gitignore").unlink()
    # Submodules and further work trees have a file for their repository.
    shutil.rmtree(tree / ".git")
    assert find_publishing_tree(secret) is None
    (tree / ".git").write_text("gitdir: /elsewhere")
    assert find_publishing_tree(secret) == tree.resolve()


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_git_says_the_same(tree: Path) -> None:
    shutil.rmtree(tree / ".git")
    subprocess.run(["git", "init", "-q", str(tree)], check=True)
    (tree / "keys" / "learner.key").touch()
    command = ["git", "-C", str(tree), "check-ignore", "-q", "keys/learner.key"]
    for patterns in IGNORED + PUBLISHED:
        (tree / ".gitignore").write_text(patterns)
        ignored = subprocess.run(command, check=False).returncode == 0
        assert ignored == (patterns in IGNORED), patterns


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
