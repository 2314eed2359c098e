"""ipc:// addresses: what both sides take them for, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest

from seed.wire.ipc import LONGEST_PATH_BYTES, absolute, complaint, path_of


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("ipc:///tmp/a b.sock", "/tmp/a b.sock"),
        ("ipc://one.sock", "one.sock"),
        ("ipc://@name", "@name"),
        ("ipc://", ""),
        ("ipc://*", None),
        ("tcp://127.0.0.1:1", None),
    ],
)
def test_the_path_in_an_address(address: str, path: str | None) -> None:
    assert path_of(address) == path


def test_a_relative_path_is_one_of_the_folder_at_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("ipc://a/one.sock") == f"ipc://{tmp_path}/a/one.sock"
    for address in ("ipc:///a", "ipc://@a", "ipc://*", "ipc://", "tcp://127.0.0.1:1"):
        assert absolute(address) == address
    # Its length is that of the whole.
    assert complaint("ipc://one.sock") == ""
    assert "has 1" in complaint("ipc://" + "a" * 107)


@pytest.mark.parametrize(
    ("address", "word"),
    [
        ("ipc://", "expected a path"),
        ("ipc://@", "expected a path"),
        ("ipc:///tmp/a\nb", "printed"),
        ("ipc:///tmp/\u202e", "printed"),
        ("ipc:///tmp/\udcff", "printed"),
        ("ipc:///" + "a" * LONGEST_PATH_BYTES, "has 108 bytes, and the system takes 107"),
        ("ipc:///" + "ä" * 60, "has 121 bytes"),
        *((address, "") for address in (
            "ipc:///tmp/a b.sock", "ipc:///tmp/ä", "ipc://@a", "ipc://*", "tcp://127.0.0.1:1",
            "ipc:///" + "a" * (LONGEST_PATH_BYTES - 1),
        )),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_path(address: str, word: str) -> None:
    said = complaint(address)
    assert word in said
    assert bool(said) == bool(word)
