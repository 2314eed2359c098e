"""Who may connect to a learner that has keys: an allow-list, and the thread that answers by it.

ZeroMQ asks before any message of a connection is read (CURVE with ZAP). It asks once for each
connection, so what arrives later is held against the allow-list again (`seed.inference.admission`).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import stat
import threading
import time
from pathlib import Path

import zmq
from zmq.auth import Authenticator

from seed.config.schema import ConfigError, InferenceConfig
from seed.process.phases import Phases
from seed.process.rates import LimitedLog
from seed.wire.keys import PUBLIC_SUFFIX, KeyFileError, KeyPair, public_text, read_pair, read_public
from seed.wire.terminal import printable

log = logging.getLogger(__name__)

_DOMAIN = "seed-rl"
_POLL_MS = 200
_REFRESH_S = 1.0
_LOCAL_NAME = "local"
_NAMES_TOLD = 20
# What is not there, or is not for this process; any other error may pass.
_SETTLED = frozenset({
    errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EISDIR, errno.ELOOP, errno.ENXIO,
})  # fmt: skip
_PATIENCE_S = 30.0


class AllowList:
    """The public keys that may connect: those of a folder's files, and some that have no file.

    The authenticator's thread refreshes it, others read `names`. Where the folder is not there,
    closed to this process or open to everyone, or a file in it is, it allows nobody. A failure that
    may pass (too many open files, a file server that does not answer) revokes nobody for 30 s.

    Attributes:
        names: What each allowed key is called: its file's name, without the suffix.
    """

    def __init__(self, folder: Path) -> None:
        """Reads the folder once.

        Raises:
            ConfigError: where the folder or a key in it cannot be read, or anyone may add to it.
        """
        self._folder = folder
        self._without_file: dict[str, str] = {}
        self._seen: object = None
        self._refused = LimitedLog(log)
        self._unreadable = LimitedLog(log)
        # Since when something could not be read that may be readable again.
        self._failing_since_s: float | None = None
        try:
            self._seen = mode, _ = self._look()
            self.names = {read_public(path): path.stem for path in self._files()}
        except (OSError, KeyFileError) as error:
            raise ConfigError(f"inference.allowed_keys = {str(folder)!r}: {error}") from None
        if complaint := self._complaint(mode):
            raise ConfigError(f"inference.allowed_keys = {str(folder)!r}: {complaint}")

    def add(self, key: str, name: str) -> None:
        """Allows a key that has no file, for as long as this process lives."""
        self._without_file[key] = name
        self.names = {**self.names, key: name}

    def refresh(self, now_s: float) -> None:
        """Reads the folder again if it has changed or could not be read; `now_s` is monotonic."""
        since_s = self._failing_since_s
        patient = since_s is None or now_s - since_s < _PATIENCE_S
        failures: list[Exception] = []
        seen: object
        try:
            seen = mode, _ = self._look()
            if seen == self._seen:
                return
            names = self._read(mode, now_s, patient, failures)
        except OSError as error:
            seen, names = error.errno, {}
            if error.errno not in _SETTLED:
                failures.append(error)
                names = self.names if patient else {}
            elif seen != self._seen:
                log.error("inference.allowed_keys: %s; no key in it is allowed now", error)
        # What has failed is unlike anything seen: the next look leads to another attempt.
        self._seen = None if failures else seen
        self._note(failures, now_s)
        self._allow({**self._without_file, **names})

    def _read(
        self, mode: int, now_s: float, patient: bool, failures: list[Exception]
    ) -> dict[str, str]:
        """Keys and names in the folder; adds to `failures` what could not be read for now.

        Args:
            mode: The folder's.
            now_s: Monotonic time.
            patient: Whether a file that could not be read for now counts as it was.
            failures: Gets one for each such file.
        """
        if complaint := self._complaint(mode):
            log.error("inference.allowed_keys: %s; no key in it is allowed now", complaint)
            return {}
        names: dict[str, str] = {}
        for path in self._files():
            try:
                names[read_public(path)] = path.stem
            except KeyFileError as error:
                if error.errno is None or error.errno in _SETTLED:
                    text = f"inference.allowed_keys: {error}; it allows nobody"
                    self._unreadable.warn(text, now_s)
                    continue
                failures.append(error)
                if patient:
                    names |= {key: name for key, name in self.names.items() if name == path.stem}
        return names

    def _note(self, failures: list[Exception], now_s: float) -> None:
        """Counts the time for which something could not be read."""
        if not failures:
            self._failing_since_s = None
        elif self._failing_since_s is None:
            self._failing_since_s = now_s
            text = (
                f"inference.allowed_keys: {failures[0]}; whom it allowed is allowed for "
                f"{_PATIENCE_S:g} s more, unless it can be read again"
            )
            self._unreadable.warn(text, now_s)

    def _allow(self, names: dict[str, str]) -> None:
        """Makes these the allowed keys; logs what is new."""
        for what, keys in (("allowed", names), ("revoked", self.names)):
            other = self.names if keys is names else names
            changed = sorted(name for key, name in keys.items() if key not in other)
            if changed:
                more = len(changed) - _NAMES_TOLD
                rest = f" and {more} more" if more > 0 else ""
                names_told = ", ".join(map(printable, changed[:_NAMES_TOLD]))
                log.info("keys %s: %s%s", what, names_told, rest)
        self.names = names

    def callback(self, domain: str, key: bytes) -> bool:
        """Whether a key in Z85 may connect; pyzmq's authenticator calls it by this name."""
        name = self.names.get(key.decode())
        if name is None:
            text = f"refused a connection with an unknown key: {key.decode()}"
            self._refused.warn(text, time.monotonic())
        return name is not None

    def _complaint(self, mode: int) -> str:
        """What is wrong with the folder's mode; empty where nothing is."""
        if not mode & stat.S_IWOTH:
            return ""
        return (
            f"everyone on this machine may add keys to it (mode {stat.S_IMODE(mode):04o}): "
            f"chmod 755 {self._folder}; in a mount of Kubernetes name {self._folder / '..data'}"
        )

    def _files(self) -> list[Path]:
        return sorted(path for path in self._folder.iterdir() if path.suffix == PUBLIC_SUFFIX)

    def _look(self) -> tuple[int, list[tuple[str, int, int, int, int]]]:
        """What changes when a key is added, removed, replaced or opened: the folder's mode first.

        Raises:
            OSError: where the folder cannot be read, or its file system fails.
        """
        mode = self._folder.stat().st_mode
        seen: list[tuple[str, int, int, int, int]] = []
        for path in self._files():
            try:
                stats = path.stat()
            except OSError as error:
                if error.errno not in _SETTLED:
                    raise
                # A file that goes while it is looked at takes no other key with it.
                continue
            form = stats.st_mode, stats.st_mtime_ns, stats.st_size, stats.st_ino
            seen.append((path.name, *form))
        return mode, seen


class Authentication:
    """The learner's key, its allow-list, and the handler that ZeroMQ asks (ZAP).

    The handler has its place from the start, so nobody gets in before the thread serves it, nor
    after the thread has ended.

    Attributes:
        context: ZeroMQ's context in which the handler answers; sockets in it are protected.
        allowed: The allow-list.
        public_key: The learner's own public key.
        phases: The thread's signs of life.
    """

    def __init__(self, pair: KeyPair, allowed: AllowList) -> None:
        """The handler has its place; nobody is let in before `run`.

        Args:
            pair: The learner's key.
            allowed: Whose keys are let in.
        """
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.allowed = allowed
        self.public_key = pair.public
        self.phases = Phases()
        self._secret = pair.secret
        self._handler = Authenticator(self.context)
        self._handler.configure_curve_callback(_DOMAIN, allowed)
        self._handler.start()

    def protect(self, socket: zmq.Socket[bytes]) -> None:
        """Lets only allowed keys connect to a socket of `context` that is about to be bound."""
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt_string(zmq.CURVE_SECRETKEY, self._secret)
        socket.setsockopt_string(zmq.ZAP_DOMAIN, _DOMAIN)
        # Without it, whoever connects while there is no handler would be let in.
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)

    def run(self, stop: threading.Event) -> None:
        """Answers ZeroMQ and keeps the allow-list fresh until `stop` is set."""
        loop = asyncio.new_event_loop()
        next_refresh_s = time.monotonic() + _REFRESH_S
        try:
            while not stop.is_set():
                self.phases.enter("waiting")
                if self._handler.zap_socket.poll(_POLL_MS):
                    self.phases.enter("answering")
                    request = self._handler.zap_socket.recv_multipart()
                    loop.run_until_complete(self._handler.handle_zap_message(request))
                now_s = time.monotonic()
                if now_s >= next_refresh_s:
                    self.phases.enter("refreshing")
                    self.allowed.refresh(now_s)
                    next_refresh_s = time.monotonic() + _REFRESH_S
        finally:
            self._handler.stop()
            loop.close()
            self.phases.leave()


def make_authentication(config: InferenceConfig) -> Authentication | None:
    """What the keys of a configuration ask for; None where it has none.

    Raises:
        ConfigError: where a key cannot be used.
    """
    if not config.secret_key:
        return None
    try:
        pair = read_pair(Path(config.secret_key))
    except KeyFileError as error:
        raise ConfigError(f"inference.secret_key = {config.secret_key!r}: {error}") from None
    return Authentication(pair, AllowList(Path(config.allowed_keys)))


def hand_over(authentication: Authentication) -> tuple[int, int]:
    """Open files with a new key pair that is allowed, and with the learner's public key.

    They are for local environment servers, which inherit them. Neither is ever on a disk, in an
    environment variable or on a command line; other users cannot open them.
    """
    pair = KeyPair.new()
    authentication.allowed.add(pair.public, _LOCAL_NAME)
    return (
        _file_in_memory("key", pair.secret_text),
        _file_in_memory("learner-key", public_text(authentication.public_key, "learner")),
    )


def _file_in_memory(name: str, text: str) -> int:
    descriptor = os.memfd_create(f"seed-rl-{name}")
    os.fchmod(descriptor, 0o600)
    os.write(descriptor, text.encode())
    return descriptor
