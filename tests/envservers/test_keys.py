"""The command `seed-keys`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from envservers.keys import main
from seed.wire.keys import read_pair


def test_makes_a_pair_and_lists_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", str(tmp_path / "worker")]) == 0
    assert "worker.key: secret" in capsys.readouterr().out
    (tmp_path / "notes.txt").write_text("no key")
    assert main(["list", str(tmp_path)]) == 0
    pair = read_pair(tmp_path / "worker.key")
    out = capsys.readouterr().out
    assert out == f"{pair.public}  worker  secret\n{pair.public}  worker  public\n"
    assert pair.secret not in out


def test_refuses_to_overwrite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", str(tmp_path / "worker")]) == 0
    before = (tmp_path / "worker.key").read_bytes()
    assert main(["new", str(tmp_path / "worker")]) == 2
    assert "is there already" in capsys.readouterr().err
    assert (tmp_path / "worker.key").read_bytes() == before


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


def test_needs_no_torch() -> None:
    code = "import sys, envservers.keys\nsys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("redirection", [">/dev/full 2>&1", "<&- >&- 2>&-"])
@pytest.mark.parametrize(
    ("arguments", "code"), [("--version", 0), ("list /nowhere", 2), ("new", 2)]
)
def test_keys_that_cannot_be_printed_change_no_exit_code(
    redirection: str, arguments: str, code: int
) -> None:
    command = f"exec '{sys.executable}' -m envservers.keys {arguments} {redirection}"
    assert subprocess.run(["sh", "-c", command], timeout=60, check=False).returncode == code
