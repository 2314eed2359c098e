"""Keys in files: whole, fenced off from other users, and never mistaken for one another."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from seed.wire.keys import (
    KeyFileError,
    KeyPair,
    _complaint,
    public_text,
    read_pair,
    read_public,
    write_pair,
)
from tests.seed.entries import idle_pipe

READERS: dict[str, Callable[[Path], object]] = {"secret": read_pair, "public": read_public}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    pair = KeyPair.new()
    secret, public = write_pair(tmp_path / "worker.1", pair)
    assert (secret.name, public.name) == ("worker.1.key", "worker.1.pub")
    assert read_pair(secret) == pair
    assert read_public(public) == pair.public
    assert pair.secret not in public.read_text() + repr(pair)
    assert pair != KeyPair.new()


# From the start, else somebody could have opened it in between.
def test_a_secret_is_its_owners_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[str, bool, int]] = []

    def watched(path: Path, flags: int, wanted: int = 0o777) -> int:
        descriptor = real(path, flags, wanted)
        opened.append((Path(path).suffix, flags & os.O_EXCL > 0, mode(Path(path))))
        return descriptor

    real = os.open
    monkeypatch.setattr(os, "open", watched)
    before = os.umask(0)
    try:
        secret, public = write_pair(tmp_path / "a", KeyPair.new())
    finally:
        os.umask(before)
    assert opened == [(".pub", True, 0o644), (".key", True, 0o600)]
    assert (mode(secret), mode(public)) == (0o600, 0o644)


# Who may write to a public key may let themselves in under its name.
@pytest.mark.parametrize(
    ("kind", "bits", "fine", "remedy"),
    [*(("secret", bits, 0o400, "chmod 600") for bits in (0o640, 0o604, 0o620, 0o602, 0o610, 0o644)),
     *(("public", bits, 0o664, ".* chmod 644") for bits in (0o646, 0o666, 0o602))],
)  # fmt: skip
def test_a_key_that_others_can_use_is_refused(
    tmp_path: Path, kind: str, bits: int, fine: int, remedy: str
) -> None:
    secret, public = write_pair(tmp_path / "a", KeyPair.new())
    path = secret if kind == "secret" else public
    path.chmod(bits)
    with pytest.raises(KeyFileError, match=rf"mode {bits:04o}\): {remedy} {path}"):
        READERS[kind](path)
    path.chmod(fine)
    READERS[kind](path)


# So a Secret is mounted in a pod with fsGroup, where nobody can change its mode.
@pytest.mark.parametrize(
    ("bits", "owner", "in_group", "read_only", "fine"),
    [
        (0o440, 0, True, True, True),
        (0o640, 0, True, True, True),
        (0o440, 0, True, False, False),
        (0o440, 0, False, True, False),
        (0o440, 1234, True, True, False),
        (0o444, 0, True, True, False),
        (0o460, 0, True, True, False),
        (0o644, 0, True, True, False),
    ],
)
def test_a_secret_for_the_own_group_on_a_read_only_mount(
    bits: int, owner: int, in_group: bool, read_only: bool, fine: bool
) -> None:
    group = os.getegid() if in_group else max([os.getegid(), *os.getgroups()]) + 1
    form = os.stat_result((stat.S_IFREG | bits, 0, 0, 1, owner, group, 0, 0, 0, 0))
    complaint = _complaint(Path("a.key"), "secret", form, read_only=read_only)
    assert (complaint == "") is fine
    assert fine or "chmod 600 a.key, or a copy of it where that cannot be" in complaint


@pytest.mark.parametrize("there", ["a.key", "a.pub"])
def test_nothing_is_overwritten(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("mine")
    with pytest.raises(KeyFileError, match="is there already"):
        write_pair(tmp_path / "a", KeyPair.new())
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "mine"


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"no/a\.pub: cannot be written"):
        write_pair(tmp_path / "no" / "a", KeyPair.new())
    with pytest.raises(KeyFileError, match=r"a\.pub: cannot be read"):
        read_public(tmp_path / "a.pub")


# Whoever puts a secret where public keys belong has given it away, and must hear of it.
def test_one_kind_is_no_other(tmp_path: Path) -> None:
    secret, public = write_pair(tmp_path / "a", KeyPair.new())
    public.chmod(0o600)
    with pytest.raises(KeyFileError, match="expected a public key, found a secret one"):
        read_public(secret)
    with pytest.raises(KeyFileError, match="expected a secret key, found a public one"):
        read_pair(public)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"# nothing\n",
        b"public " + b"a" * 39,
        b"public " + b"a" * 41,
        b"public " + b'"' * 40,
        b"a" * 40,
        b"\xff\xfe" * 100,
        (public_text(KeyPair.new().public, "a") + public_text(KeyPair.new().public, "b")).encode(),
    ],
    ids=range(8),
)
def test_what_is_no_key_is_refused(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "a.pub"
    path.write_bytes(text)
    with pytest.raises(KeyFileError, match="found no key there"):
        read_public(path)


# Opening a pipe, or reading it, waits for whoever writes to it.
def test_a_pipe_is_no_key_file(tmp_path: Path) -> None:
    with idle_pipe(tmp_path / "odd"):
        for read in READERS.values():
            with pytest.raises(KeyFileError, match=r"odd: cannot be read \(expected a regular"):
                read(tmp_path / "odd")


@pytest.mark.parametrize("target", ["/dev/zero", "/dev/null", "."])
def test_no_device_and_no_folder_is_a_key_file(tmp_path: Path, target: str) -> None:
    (tmp_path / "odd").symlink_to(target)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for read in READERS.values():
        with pytest.raises(KeyFileError, match=r"odd: cannot be read \(expected a regular") as seen:
            read(tmp_path / "odd")
        # Nothing that may pass.
        assert seen.value.errno is None
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# Z85 has many characters that mean something elsewhere, that of comments included.
def test_any_key_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "a.pub"
    key = "%nSc00.-:+0=^!/0*?&<0>()[0]{}@0%$#.00000"
    path.write_text(public_text(key, "a"))
    assert read_public(path) == key


@pytest.mark.parametrize("kind", READERS)
def test_a_damaged_key_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a"
    # One more than five characters can stand for.
    path.write_text(f"{kind} %nSc1{'0' * 35}\n")
    path.chmod(0o600)
    with pytest.raises(KeyFileError, match=r"a: the key in it is damaged; copy the file again"):
        READERS[kind](path)
