"""What environment servers print, in files that stay small and steer no terminal."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from seed.run.server_log import BoundedLog, ServerOutput
from tests.seed.entries import put


def texts(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in sorted(folder.iterdir())}


def test_the_beginning_and_the_end_of_a_log_are_kept(tmp_path: Path) -> None:
    for number in range(2):
        # It goes on where an earlier process has left off.
        log = BoundedLog(tmp_path / "log", limit_bytes=100)
        log.write(b"%d" % number * 59 + b"\n")
    assert texts(tmp_path) == {
        "log": "(goes on from log.first)\n" + "1" * 59 + "\n", "log.first": "0" * 59 + "\n"
    }  # fmt: skip
    for number in range(2, 9):
        log.write(b"%d" % number * 59 + b"\n")
    kept = texts(tmp_path)
    assert [*kept] == ["log", "log.first", "log.previous"]
    assert kept["log.first"] == "0" * 59 + "\n"
    assert kept["log.previous"].endswith("\n" + "7" * 59 + "\n")
    note = "(goes on from log.previous; lines between log.first and that are dropped)\n"
    assert kept["log"] == note + "8" * 59 + "\n"


# A pipe in its place is not waited for.
@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_what_cannot_be_written_is_counted(tmp_path: Path, kind: str) -> None:
    log, path = BoundedLog(tmp_path / "log"), tmp_path / "log"
    put(path, kind)
    log.write(b"one\n")
    log.write(b"two\n")
    path.unlink() if kind == "pipe" else path.rmdir()
    log.write(b"three\n")
    log.write(b"four\n")
    assert path.read_text() == "\n(8 bytes could not be written here)\nthree\nfour\n"


@pytest.mark.parametrize("where", ["moved", None])
def test_a_folder_that_goes_away_fails_nobody(tmp_path: Path, where: str | None) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    log = BoundedLog(folder / "log", limit_bytes=20)
    log.write(b"one\n")
    if where:
        folder.rename(tmp_path / where)
    else:
        (folder / "log").unlink()
        folder.rmdir()
    for _ in range(9):
        log.write(b"two\n")
    assert not folder.exists()


def test_a_full_disk_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes half a line, then nothing, and later everything."""
    log, write = BoundedLog(tmp_path / "log"), os.write
    room = iter([4, 0, 1000, 1000])

    def write_some(file: int, data: bytes) -> int:
        size = next(room)
        if not size:
            raise OSError(28, "No space left on device")
        return write(file, data[:size])

    monkeypatch.setattr("os.write", write_some)
    for line in (b"first\n", b"second\n", b"third\n", b"fourth\n"):
        log.write(line)
    assert (tmp_path / "log").read_text() == (
        "firs\n(9 bytes could not be written here)\nthird\nfourth\n"
    )


@pytest.mark.parametrize(
    ("pieces", "logged", "last"),
    [([b""], "", ""), ([b"one\ntwo\n\n"], "one\ntwo\n\n", "two"),
     ([b"no end"], "no end\n", "no end"), ([b"a\r\nb\rc\n"], "a\nb\\rc\n", "b\\rc"),
     ([b"\x1b[31m\xff\n"], "\\x1b[31m\\xff\n", "\\x1b[31m\\xff"), (["π\n".encode()], "π\n", "π"),
     # Letters and lines that come in pieces are put together.
     ([b"a \xcf", b"\x80", b" b\n"], "a π b\n", "a π b")],
)  # fmt: skip
def test_lines_are_kept_and_escaped(
    tmp_path: Path, pieces: list[bytes], logged: str, last: str
) -> None:
    output = ServerOutput(BoundedLog(tmp_path / "log"))
    for piece in pieces:
        os.write(output.writer, piece)
        assert len(pieces) == 1 or output.read() == len(piece)
    assert len(pieces) == 1 or output.read() == 0
    output.release_writer()
    output.finish()
    assert ((tmp_path / "log").read_text(), output.last_line) == (logged, last)
    assert output.ended
    assert output.read() == 0


@pytest.mark.parametrize("letter", [b"\x1b", b"\xff", b"x"])
def test_long_lines_of_control_characters_are_bounded(tmp_path: Path, letter: bytes) -> None:
    limit_bytes = 100_000
    output = ServerOutput(BoundedLog(tmp_path / "log", limit_bytes))
    for number in range(200):
        os.write(output.writer, letter * 4095 + b"\n" * (number % 3 == 0))
        output.read()
    output.release_writer()
    output.finish()
    files = sorted(tmp_path.iterdir())
    assert len(files) == 3
    # A line is at most 4 × 4096 bytes long once it is escaped.
    assert all(file.stat().st_size <= limit_bytes for file in files)
    assert all(line.isprintable() for file in files for line in file.read_text().split("\n"))
    assert len(output.last_line) <= 4 * 4096
