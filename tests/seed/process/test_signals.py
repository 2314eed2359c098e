"""How the learner's process is asked to end, and when it does so at once."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from seed.process import signals as module
from seed.process.signals import SIGNALS, Signals


class Left(Exception):
    """Stands for the end of the process."""


@pytest.fixture(autouse=True)
def handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Gives the process its handlers back, and leaves it by an exception."""

    def leave(code: int) -> None:
        raise Left(code)

    before = {number: signal.getsignal(number) for number in SIGNALS}
    monkeypatch.setattr(os, "_exit", leave)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


CODES = [
    (signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGHUP, 75),
]  # fmt: skip


@pytest.mark.parametrize(("number", "code"), CODES)
def test_a_signal_asks_for_an_end(
    number: int, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Between two signals anything may take its time.
    monkeypatch.setattr(module, "_SAME_REQUEST_S", 3600.0)
    signals = Signals()
    signals.began()
    assert (signals.stop_requested, signals.exit_code) == (False, 0)
    # A signal of a process manager may come twice.
    for _ in range(2):
        signal.raise_signal(number)
        assert (signals.stop_requested, signals.exit_code) == (True, code)


# Also where standard error is on a full disk, or nobody reads it any more.
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(("number", "code"), CODES)
def test_with_nothing_to_save_a_signal_ends_the_process(
    number: int, code: int, full: bool, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def fail(descriptor: int, text: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    if full:
        monkeypatch.setattr(os, "write", fail)
    Signals()
    with pytest.raises(Left, match=str(code)):
        signal.raise_signal(number)
    said = "" if full else "seed-learner: stopped before the training began\n"
    assert capfd.readouterr().err == said


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_request_ends_the_process(
    first: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    signals = Signals()
    signals.began()
    signal.raise_signal(first)
    monkeypatch.setattr(module, "_SAME_REQUEST_S", 0.0)
    # Of a terminal that closes while the checkpoint is being written: no second request.
    signal.raise_signal(signal.SIGHUP)
    assert signals.exit_code == (130 if first == signal.SIGINT else 75)
    with pytest.raises(Left, match=str(128 + signal.SIGTERM)):
        signal.raise_signal(signal.SIGTERM)
    assert "by a second signal" in capfd.readouterr().err


# As `nohup` starts a process.
def test_a_hangup_that_is_ignored_stays_so() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signals = Signals()
    signals.began()
    signal.raise_signal(signal.SIGHUP)
    assert not signals.stop_requested


def test_nothing_changes_an_exit_code_that_is_decided() -> None:
    signals = Signals()
    signals.began()
    signal.raise_signal(signal.SIGTERM)
    signals.over()
    for number in SIGNALS:
        signal.raise_signal(number)
    assert signals.exit_code == 75


# What it imports takes seconds, and requests come meanwhile.
def test_it_is_ready_before_anything_large_is_imported() -> None:
    program = "import sys, seed.__main__; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
