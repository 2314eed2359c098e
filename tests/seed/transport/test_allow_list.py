"""The allow-list: it follows its folder, and what cannot be read or trusted allows nobody."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from seed.config.schema import ConfigError
from seed.transport import authentication as module
from seed.transport.authentication import AllowList
from seed.wire.keys import KeyFileError, KeyPair, read_public, write_pair
from tests.seed.entries import idle_pipe

GOOD, OTHER, STRANGER = (KeyPair.new() for _ in range(3))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, pair in (("good", GOOD), ("other", OTHER)):
        secret, _ = write_pair(tmp_path / name, pair)
        secret.unlink()
    return tmp_path


def test_the_allow_list_follows_its_folder(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    allowed = AllowList(folder)
    assert allowed.names == {GOOD.public: "good", OTHER.public: "other"}
    (folder / "good.pub").rename(folder / "good.pub.off")
    (folder / "torn.pub").write_text("public abc")
    allowed.refresh(0.0)
    assert allowed.names == {OTHER.public: "other"}
    assert "torn.pub: expected a public key" in caplog.text
    assert "keys revoked: good" in caplog.text
    allowed.add(STRANGER.public, "local")
    for path in folder.glob("*.pub"):
        path.unlink()
    allowed.refresh(0.0)
    assert allowed.names == {STRANGER.public: "local"}
    folder.rename(folder.with_name("elsewhere"))
    allowed.refresh(0.0)
    assert allowed.names == {STRANGER.public: "local"}
    assert "no key in it is allowed now" in caplog.text
    folder.with_name("elsewhere").rename(folder)
    (folder / "good.pub.off").rename(folder / "good.pub")
    allowed.refresh(0.0)
    assert GOOD.public in allowed.names


def test_the_log_has_a_few_of_the_names_and_escapes_them(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    for number in range(30):
        secret, _ = write_pair(folder / f"\x1b{number:02}\udcff", KeyPair.new())
        secret.unlink()
    allowed = AllowList(folder)
    for path in folder.glob("*.pub"):
        path.unlink()
    allowed.refresh(0.0)
    text = caplog.messages[-1]
    assert text.startswith(r"keys revoked: \x1b00\udcff, \x1b01\udcff, ")
    assert text.endswith(" and 12 more")
    assert text.isprintable()


def test_a_key_that_is_replaced_in_place_is_noticed(folder: Path) -> None:
    allowed, path = AllowList(folder), folder / "good.pub"
    path.write_text(path.read_text().replace(GOOD.public, STRANGER.public))
    os.utime(path, ns=(1, 1))
    allowed.refresh(0.0)
    assert allowed.names == {STRANGER.public: "good", OTHER.public: "other"}


# Kubernetes mounts a folder that everyone may write to, and in it links to another, which it
# exchanges for a new one.
def test_a_mount_of_kubernetes_is_followed(folder: Path) -> None:
    mount = folder / "mount"
    for name, key in (("..1", "good.pub"), ("..2", "other.pub")):
        (mount / name).mkdir(parents=True)
        (folder / key).rename(mount / name / key)
    (mount / "..data").symlink_to("..1")
    mount.chmod(0o1777)
    with pytest.raises(ConfigError, match=rf"mount of Kubernetes name {mount}/\.\.data"):
        AllowList(mount)
    allowed = AllowList(mount / "..data")
    assert allowed.names == {GOOD.public: "good"}
    (mount / "..new").symlink_to("..2")
    (mount / "..new").rename(mount / "..data")
    allowed.refresh(0.0)
    assert allowed.names == {OTHER.public: "other"}


# A symbolic link to nowhere looks like a file that is deleted between two looks at it.
@pytest.mark.parametrize("target", ["nowhere", "odd.pub", "."], ids=["gone", "loop", "folder"])
def test_a_file_that_is_none_takes_no_key_with_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    allowed = AllowList(folder)
    (folder / "odd.pub").symlink_to(folder / target)
    (folder / "other.pub").rename(folder / "another.pub")
    allowed.refresh(0.0)
    assert allowed.names == {GOOD.public: "good", OTHER.public: "another"}
    # It is nothing that may pass, and would be read again and again.
    monkeypatch.setattr(module, "read_public", lambda path: pytest.fail("it was read"))
    allowed.refresh(0.0)


# It would hold up the authentication thread until somebody writes to it.
def test_a_pipe_allows_nobody_and_holds_nobody_up(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    allowed = AllowList(folder)
    with idle_pipe(folder / "odd.pub"):
        (folder / "other.pub").rename(folder / "another.pub")
        allowed.refresh(0.0)
        assert allowed.names == {GOOD.public: "good", OTHER.public: "another"}
        assert "odd.pub: cannot be read (expected a regular file); it allows nobody" in caplog.text
        with pytest.raises(ConfigError, match=r"odd.pub: cannot be read \(expected a regular"):
            AllowList(folder)


@pytest.mark.parametrize("part", ["folder", "file"])
@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE])
def test_what_cannot_be_read_for_half_a_minute_allows_nobody(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    part: str, number: int,
) -> None:  # fmt: skip
    allowed = AllowList(folder)
    allowed.add(STRANGER.public, "local")
    everybody = dict(allowed.names)
    rest = {STRANGER.public: "local"} if part == "folder" else {
        key: name for key, name in everybody.items() if name != "good"
    }  # fmt: skip
    now_s = 1000.0

    def no_files(path: Path) -> list[Path]:
        raise OSError(number, os.strerror(number))

    def fail_to_read(path: Path) -> str:
        if path.name == "good.pub":
            raise KeyFileError(f"{path}: cannot be read", number)
        return read_public(path)

    def refresh(pause_s: float, works: bool) -> dict[str, str]:
        nonlocal now_s
        now_s += pause_s
        with monkeypatch.context() as patch:
            if not works:
                # So that all is read anew; after a failure it is, without a change.
                os.utime(folder / "other.pub", (now_s, now_s))
                where, name, fail = (
                    (Path, "iterdir", no_files) if part == "folder"
                    else (module, "read_public", fail_to_read)
                )  # fmt: skip
                patch.setattr(where, name, fail)
            allowed.refresh(now_s)
        return allowed.names

    # A success in between, and the time begins anew.
    for works in (False, True, False):
        assert refresh(20.0, works) == everybody
    assert refresh(29.9, False) == everybody
    assert refresh(0.2, False) == rest
    assert refresh(1.0, False) == rest
    assert refresh(1.0, True) == everybody
    assert refresh(1.0, False) == everybody
    # Each time it began.
    assert caplog.text.count("whom it allowed is allowed for 30 s more") == 3


# What is known of the others is in force meanwhile.
def test_a_key_that_cannot_be_read_for_now_is_read_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = AllowList(folder)
    write_pair(folder / "late", STRANGER)
    (folder / "late.pub").replace(folder / "good.pub")
    (folder / "other.pub").unlink()

    def fail(path: Path) -> str:
        raise KeyFileError(f"{path}: cannot be read", errno.EIO)

    with monkeypatch.context() as patch:
        patch.setattr(module, "read_public", fail)
        for _ in range(2):
            allowed.refresh(0.0)
            assert allowed.names == {GOOD.public: "good"}
    allowed.refresh(0.0)
    assert allowed.names == {STRANGER.public: "good"}


@pytest.mark.parametrize(
    ("name", "mode", "rest", "said"),
    [
        ("good.pub", 0o666, {OTHER.public: "other"}, "good.pub: everyone may put a key of theirs"),
        (".", 0o777, {}, "(mode 0777)"),
    ],
    ids=["key", "folder"],
)
def test_what_everyone_can_write_allows_nobody(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    name: str, mode: int, rest: dict[str, str], said: str,
) -> None:  # fmt: skip
    allowed = AllowList(folder)
    before = (folder / name).stat().st_mode
    (folder / name).chmod(mode)
    for _ in range(2):
        allowed.refresh(0.0)
        assert allowed.names == rest
    assert caplog.text.count(said) == 1
    (folder / name).chmod(before)
    allowed.refresh(0.0)
    assert allowed.names == {GOOD.public: "good", OTHER.public: "other"}
    # An unchanged folder is not read again.
    monkeypatch.setattr(module, "read_public", lambda path: pytest.fail("it was read"))
    allowed.refresh(0.0)
