"""CURVE keys in files: what `seed-keys` writes, and both sides of a connection read. No torch here.

A file holds one key, on a line `secret KEY` or `public KEY`; other lines are comments. A public key
follows from its secret one, so a secret file stands for the pair.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import zmq

from seed.wire.terminal import printable

SECRET_SUFFIX, PUBLIC_SUFFIX = ".key", ".pub"
_SECRET_MODE, _PUBLIC_MODE = 0o600, 0o644
_LONGEST_FILE_BYTES = 4096
# Z85 has neither blanks nor quotation marks.
_LINE = re.compile(r"(secret|public) ([0-9A-Za-z.\-:+=^!/*?&<>()\[\]{}@%$#]{40})")


class KeyFileError(ValueError):
    """A key file that cannot be used; its text names the file, what is wrong and the remedy.

    Attributes:
        errno: Why the file could not be read; None where what it is or holds is wrong.
    """

    def __init__(self, text: str, errno: int | None = None) -> None:
        super().__init__(printable(text))
        self.errno = errno


@dataclass(frozen=True)
class KeyPair:
    """A public key and its secret one, each 40 characters of Z85."""

    public: str
    secret: str = field(repr=False)

    @staticmethod
    def new() -> KeyPair:
        """A pair that nobody has had before."""
        public, secret = zmq.curve_keypair()
        return KeyPair(public.decode(), secret.decode())

    @property
    def secret_text(self) -> str:
        """What a secret key's file holds."""
        return f"# Secret key of seed-rl: for its owner's eyes only.\nsecret {self.secret}\n"


def public_text(key: str, name: str) -> str:
    """What a public key's file holds."""
    return f"# Public key of seed-rl: {printable(name)}\npublic {key}\n"


def read_pair(path: Path) -> KeyPair:
    """The pair of the secret key in a file.

    Raises:
        KeyFileError: where there is none, or where others than the file's owner may read it, but
            for a secret that Kubernetes has mounted for a group.
    """
    secret = _read(path, "secret")
    return KeyPair(zmq.curve_public(secret.encode()).decode(), secret)


def read_public(path: Path) -> str:
    """The public key in a file.

    Raises:
        KeyFileError: where there is none, or where everyone may write to the file.
    """
    return _read(path, "public")


def write_pair(base: Path, pair: KeyPair) -> tuple[Path, Path]:
    """Writes `base`.key and `base`.pub, which must not be there yet; returns the two paths.

    The secret file is its owner's alone from the moment at which it appears.

    Raises:
        KeyFileError: where a file is there already or cannot be written.
    """
    secret_path = base.with_name(base.name + SECRET_SUFFIX)
    public_path = base.with_name(base.name + PUBLIC_SUFFIX)
    _create(public_path, public_text(pair.public, base.name), _PUBLIC_MODE)
    try:
        _create(secret_path, pair.secret_text, _SECRET_MODE)
    except KeyFileError:
        public_path.unlink()
        raise
    return secret_path, public_path


def _complaint(
    path: Path, kind: Literal["secret", "public"], form: os.stat_result, *, read_only: bool
) -> str:
    """What is wrong with a file's mode; empty where nothing is.

    Args:
        path: The file's.
        kind: What it holds.
        form: Its mode, owner and group.
        read_only: Whether nobody can write there, as the mount does not let them.
    """
    mode = form.st_mode
    if kind == "secret" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        if read_only and _is_for_own_group(form):
            return ""
        text = f"others than its owner may use it (mode {stat.S_IMODE(mode):04o}): chmod 600 {path}"
        return f"{text}, or a copy of it where that cannot be, as in a mount of Kubernetes"
    if mode & stat.S_IWOTH:
        return f"everyone may put a key of theirs there (mode {stat.S_IMODE(mode):04o}): " + (
            f"look at the key in it, then chmod 644 {path}"
        )
    return ""


def _is_for_own_group(form: os.stat_result) -> bool:
    """Whether root lets this process's group read a file, and nobody else.

    So Kubernetes mounts a Secret in a pod with `fsGroup`, whatever its `defaultMode`.
    """
    mode = stat.S_IMODE(form.st_mode) & (stat.S_IRWXG | stat.S_IRWXO)
    groups = {os.getegid(), *os.getgroups()}
    return mode == stat.S_IRGRP and form.st_uid == 0 and form.st_gid in groups


def _create(path: Path, text: str, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        raise KeyFileError(f"{path}: is there already; choose another name, or delete it") from None
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be written ({error.strerror})") from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink()
        raise KeyFileError(f"{path}: cannot be written ({error.strerror})") from None


def _read(path: Path, kind: Literal["secret", "public"]) -> str:
    try:
        form, read_only, content = _read_regular(path)
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be read ({error.strerror})", error.errno) from None
    if content is None:
        raise KeyFileError(f"{path}: cannot be read (expected a regular file)")
    text = content.decode(errors="replace")
    found = [match for line in text.splitlines() if (match := _LINE.fullmatch(line.strip()))]
    if len(found) != 1:
        raise KeyFileError(f"{path}: expected a {kind} key of seed-keys, found no key there")
    if found[0][1] != kind:
        raise KeyFileError(f"{path}: expected a {kind} key, found a {found[0][1]} one")
    if complaint := _complaint(path, kind, form, read_only=read_only):
        raise KeyFileError(f"{path}: {complaint}")
    key = found[0][2]
    if not _stands_for_bytes(key):
        raise KeyFileError(f"{path}: the key in it is damaged; copy the file again")
    return key


def _read_regular(path: Path) -> tuple[os.stat_result, bool, bytes | None]:
    """A file's form, whether its mount is read-only, and the beginning of what it holds.

    That is None where it is no regular file.

    Never waits, as opening or reading a pipe would until somebody writes to it.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        form = os.fstat(descriptor)
        read_only = bool(os.fstatvfs(descriptor).f_flag & os.ST_RDONLY)
        regular = stat.S_ISREG(form.st_mode)
        return form, read_only, os.read(descriptor, _LONGEST_FILE_BYTES) if regular else None
    finally:
        os.close(descriptor)


def _stands_for_bytes(key: str) -> bool:
    """Whether 40 characters are Z85; ZeroMQ takes no five of them that stand for over 32 bits."""
    try:
        zmq.curve_public(key.encode())
    except zmq.ZMQError:
        return False
    return True
