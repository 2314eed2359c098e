"""A small process that starts the environment server's, and another one when that comes to grief.

It imports next to nothing and runs no environment, so that it stands whatever these do.
"""

from __future__ import annotations

import contextlib
import faulthandler
import math
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from io import FileIO

from envservers.recovery import FORGIVEN_AFTER_S, MAX_FAULTS, backoff_s, jitter
from envservers.supervision import NOBODY, Casualty, Notes, StepTimer, Supervision
from seed.wire.terminal import printable

_EXIT_STOPPED, _EXIT_CRASH = 0, 1
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Process managers signal a process and its group, which is one request that arrives twice.
_SAME_REQUEST_S = 1.0
_STARTER_CHECK_INTERVAL_S = 1.0
# So late for the next such check, this process has not run in between: a scheduler stopped it.
_STOPPED_S = 3.0
_LONGEST_STACKS_BYTES = 65_536
_PR_SET_PDEATHSIG = 1


def supervise(work: Callable[[Supervision], int], step_timeout_s: float) -> int:
    """Runs `work` in a forked process until that ends with an exit code of its own choice.

    It returns twice: in the forked process with what `work` returned, and in this one with the
    exit code that the last such process has noted. A process that ends otherwise, by a signal
    say, is followed by another one, later each time.

    Args:
        work: The environment server.
        step_timeout_s: How long an environment may take for a step; 0 for ever.
    """
    with _open_stacks() as stacks, _Signals() as signals:
        return _Supervisor(work, step_timeout_s, stacks, signals).run()


class _Signals:
    """Requests to stop and ends of children, as something to wait for."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        for end in (self._reader, self._writer):
            os.set_blocking(end, False)
        self._wake_fd = signal.set_wakeup_fd(self._writer)
        self._handlers = {
            number: signal.signal(number, lambda number, frame: None)
            for number in (*_STOP_SIGNALS, signal.SIGCHLD)
        }

    def __enter__(self) -> _Signals:
        return self

    def __exit__(self, *exception: object) -> None:
        self.restore()

    def restore(self) -> None:
        """Leaves signals as they were before."""
        if self._handlers:
            signal.set_wakeup_fd(self._wake_fd)
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            self._handlers = {}
            os.close(self._reader)
            os.close(self._writer)

    def wait(self, timeout_s: float) -> list[int]:
        """The requests to stop that have come; returns at once where something has happened."""
        if not select.select([self._reader], [], [], timeout_s)[0]:
            return []
        return [number for number in os.read(self._reader, 4096) if number in _STOP_SIGNALS]


class _Supervisor:
    def __init__(
        self,
        work: Callable[[Supervision], int],
        step_timeout_s: float,
        stacks: FileIO,
        signals: _Signals,
    ) -> None:
        self._work, self._stacks, self._signals = work, stacks, signals
        self._supervision = Supervision(
            Notes.shared(), StepTimer(step_timeout_s, stacks), supervisor=os.getpid()
        )
        self._starter = os.getppid()
        self._asked_s: float | None = None
        self._ends_in_a_row = 0
        # time.monotonic() at which it was last found to have been stopped and continued.
        self._continued_s = -math.inf
        self._step_timeout_s = step_timeout_s
        self._child: int | None = None

    def run(self) -> int:
        notes = self._supervision.notes
        while True:
            born_s = time.monotonic()
            notes.begin()
            if not self._start():
                code = self._work(self._supervision)
                if not notes.renewing:
                    notes.exit_code = code
                return code
            status = self._wait()
            if notes.exit_code is not None:
                return notes.exit_code
            if self._asked_s is not None:
                return _EXIT_STOPPED
            if notes.renewing:
                self._supervision.casualty = None
                continue
            casualty = self._supervision.casualty = self._inquest(status)
            if casualty.kind == "stopped":
                continue
            if time.monotonic() - born_s >= FORGIVEN_AFTER_S:
                self._ends_in_a_row = 0
            self._ends_in_a_row += 1
            if casualty.group is None and self._ends_in_a_row >= MAX_FAULTS:
                _say("its process has come to a bad end too often")
                return _EXIT_CRASH
            if not self._pause(backoff_s(self._ends_in_a_row) * jitter()):
                return _EXIT_STOPPED

    def _start(self) -> bool:
        """Forks; False in the child."""
        self._stacks.seek(0)
        self._stacks.truncate()
        sys.stdout.flush()
        sys.stderr.flush()
        # A request to stop must not come to the child before it has its own ways with signals.
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
        child = os.fork()
        if not child:
            self._signals.restore()
            # Ctrl-C in a terminal comes to both processes, and is passed on from the supervisor.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            faulthandler.enable(self._stacks)
            _end_with_supervisor()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
        self._child = child
        return bool(child)

    def _wait(self) -> int:
        """The wait status of the child, once it has ended; passes on requests to stop."""
        assert self._child is not None
        checked_s = time.monotonic()
        while True:
            now_s = time.monotonic()
            if now_s - checked_s >= _STOPPED_S:
                self._continued_s = now_s
            checked_s = now_s
            pid, status = os.waitpid(self._child, os.WNOHANG)
            if pid:
                self._child = None
                return status
            for number in self._signals.wait(_STARTER_CHECK_INTERVAL_S):
                self._ask(number)
            self._supervision.notes.starter_ended = os.getppid() != self._starter

    def _ask(self, number: int) -> None:
        now_s = time.monotonic()
        if self._asked_s is None:
            self._asked_s = now_s
            if self._child is not None:
                os.kill(self._child, signal.SIGTERM)
        elif now_s - self._asked_s >= _SAME_REQUEST_S:
            # An environment may hang, and nobody wants to wait for it.
            if self._child is not None:
                os.kill(self._child, signal.SIGKILL)
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def _pause(self, pause_s: float) -> bool:
        """Waits; False where there was a request to stop."""
        deadline_s = time.monotonic() + pause_s
        while self._asked_s is None and (left_s := deadline_s - time.monotonic()) > 0:
            for number in self._signals.wait(left_s):
                self._ask(number)
        return self._asked_s is None

    def _inquest(self, status: int) -> Casualty:
        """How the child came to its end, told on stderr too."""
        self._stacks.seek(0)
        stacks = self._stacks.read(_LONGEST_STACKS_BYTES).decode(errors="replace")
        code = os.waitstatus_to_exitcode(status)
        # What faulthandler writes first when time is over.
        kind = "hung" if stacks.startswith("Timeout") else "crashed"
        end = f"ended with exit code {code}" if code >= 0 else f"ended by {_signal_name(-code)}"
        group, index = self._supervision.notes.running
        continued_ago_s = time.monotonic() - self._continued_s
        if kind == "hung" and continued_ago_s < self._step_timeout_s + _STOPPED_S:
            # The timer ran on while no environment could.
            kind, group = "stopped", NOBODY
        casualty = Casualty(
            kind,
            group if group != NOBODY else None,
            index if group != NOBODY and index != NOBODY else None,
            f"{stacks}its process {end}" if kind == "crashed" else stacks,
        )
        where = "between two steps" if group == NOBODY else f"in {_unit_name(group, index)}"
        where = where if kind != "stopped" else "for longer than a step may take"
        _say(f"its process {kind} {where} and is started again\n{casualty.text}")
        return casualty


def _unit_name(group: int, index: int) -> str:
    """What was being stepped, for a person."""
    return f"group {group}" if index == NOBODY else f"environment {index} of group {group}"


def _open_stacks() -> FileIO:
    """A file for this process and those it forks, in memory where that can be had (Linux).

    It has no buffer: what this process reads there, another one has written.
    """
    if sys.platform == "linux":
        return os.fdopen(os.memfd_create("stacks"), "w+b", buffering=0)
    import tempfile

    return tempfile.TemporaryFile(buffering=0)


def _end_with_supervisor() -> None:
    """Has the system kill this process when its parent ends, where it can (Linux).

    Elsewhere the environment server notices by itself, once no environment is being stepped.
    """
    if sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _say(line: str) -> None:
    # Nobody may be there to read it, and the disk may be full: it goes on all the same.
    with contextlib.suppress(OSError):
        print(f"seed-envserver: {printable(line, lines=True)}", file=sys.stderr, flush=True)
