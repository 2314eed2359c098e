"""A small process that starts the environment server's, and a new one when that crashes.

It imports next to nothing and runs no environment, so that no environment can end it.
"""

from __future__ import annotations

import faulthandler
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from io import FileIO

from envservers.supervision.diagnosis import describe, diagnose
from envservers.supervision.forwarding import Forwarding
from envservers.supervision.processes import (
    Parent,
    adopt_orphans,
    continue_with_end_of_parent,
    end_descendants,
    forget_signals_in_forks,
)
from envservers.supervision.recovery import Restarts, jitter
from envservers.supervision.shared_state import (
    CrashReport,
    Patience,
    SharedState,
    StepTimer,
    Supervision,
)
from envservers.supervision.signals import STOP_SIGNALS, Signals
from envservers.supervision.warden import watch_over
from seed.wire.terminal import printable

_EXIT_STOPPED, _EXIT_CRASH = 0, 1
_CHECK_INTERVAL_S = 1.0
_LONGEST_STACKS_BYTES = 65_536


def supervise(
    work: Callable[[Supervision], int],
    step_timeout_s: float,
    *,
    starter: int | None = None,
    once: bool = False,
    jitter: Callable[[], float] = jitter,
    patience: Patience | None = None,
) -> int:
    """Runs `work` in a forked process until that ends with an exit code of its own choice.

    It returns twice: in the forked process with what `work` returned, and in this one with the
    exit code that the last such process has chosen. A process that ends otherwise, by a signal
    say, is followed by another one, later each time. Whatever processes `work` has started end
    with it.

    Args:
        work: The environment server.
        step_timeout_s: How long an environment may take for a step; 0 for ever.
        starter: Process id of the process that has started this one, if that is known: it may
            have ended already.
        once: Whether to end with that process.
        jitter: A factor for every wait before a restart.
        patience: How long processes wait for each other.
    """
    parent = Parent(starter)
    if once:
        continue_with_end_of_parent()
    if once and parent.has_ended():
        return _EXIT_STOPPED
    # In the background, who only touches the terminal would stop this process and all others.
    for number in (signal.SIGTTIN, signal.SIGTTOU):
        signal.signal(number, signal.SIG_IGN)
    with _open_stacks() as stacks, Signals() as signals, Forwarding() as output:
        shared = SharedState.shared()
        supervision = Supervision(
            shared, StepTimer(step_timeout_s, stacks, shared), supervisor=os.getpid(),
            jitter=jitter, patience=patience or Patience(),
        )  # fmt: skip
        return _Supervisor(work, supervision, stacks, signals, output, parent, once).run()


class _Supervisor:
    def __init__(
        self,
        work: Callable[[Supervision], int],
        supervision: Supervision,
        stacks: FileIO,
        signals: Signals,
        output: Forwarding,
        starter: Parent,
        once: bool,
    ) -> None:
        self._work, self._stacks, self._signals = work, stacks, signals
        self._output, self._starter, self._once = output, starter, once
        self._supervision, self._patience = supervision, supervision.patience
        self._restarts = Restarts(supervision.jitter)
        self._asked_s: float | None = None
        # time.monotonic() by which the child must have ended.
        self._deadline_s = math.inf
        # time.monotonic() at which it was last found to have been stopped and continued.
        self._continued_s = -math.inf
        # The warden, whose only child is the environment server.
        self._child: int | None = None

    def run(self) -> int:
        shared = self._supervision.shared
        adopt_orphans()
        while True:
            born_s = time.monotonic()
            shared.begin()
            if not self._start():
                code = self._work(self._supervision)
                if not shared.renewing:
                    shared.exit_code = code
                return code
            self._wait()
            if shared.exit_code is not None:
                return shared.exit_code
            if self._must_end():
                return _EXIT_STOPPED
            if shared.renewing:
                self._supervision.crash = None
                continue
            crash = self._supervision.crash = self._diagnose()
            if crash.kind == "stopped":
                continue
            explained = crash.group is not None or crash.kind == "was killed"
            pause_s = self._restarts.pause_s(time.monotonic() - born_s, explained=explained)
            if pause_s is None:
                _say("its process has crashed too often")
                return _EXIT_CRASH
            if not self._pause(pause_s):
                return _EXIT_STOPPED

    def _start(self) -> bool:
        """Forks; False in what becomes the environment server."""
        self._stacks.seek(0)
        self._stacks.truncate()
        sys.stdout.flush()
        sys.stderr.flush()
        self._deadline_s = math.inf
        # A request to stop must not reach the child before it has its own handlers.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        child = os.fork()
        if not child:
            self._signals.restore()
            self._starter.close()
            watch_over(self._supervision)
            # Ctrl-C in a terminal comes to all processes, and is passed on from the supervisor.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            self._output.enter()
            faulthandler.enable(self._stacks)
            forget_signals_in_forks()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        self._child = child
        return bool(child)

    def _wait(self) -> None:
        """Returns once the child has ended, and all that it has started."""
        assert self._child is not None
        checked_s = time.monotonic()
        while not os.waitpid(self._child, os.WNOHANG)[0]:
            self._listen(_CHECK_INTERVAL_S)
            now_s = time.monotonic()
            if now_s - checked_s >= self._patience.stopped_s:
                self._continued_s = now_s
            checked_s = now_s
            self._bound(now_s)
        self._child = None
        end_descendants()
        self._output.forward_rest()

    def _bound(self, now_s: float) -> None:
        """Gives a child that is to end a deadline, and kills it after that."""
        shared = self._supervision.shared
        if self._deadline_s == math.inf:
            if self._once and shared.starter_ended:
                self._deadline_s = now_s + self._patience.orphans_close_s
            elif self._must_end() or shared.ending or shared.exit_code is not None:
                self._deadline_s = now_s + self._patience.close_s
        elif now_s >= self._deadline_s and self._child is not None:
            os.kill(self._child, signal.SIGKILL)

    def _must_end(self) -> bool:
        orphaned = self._once and self._supervision.shared.starter_ended
        return self._asked_s is not None or orphaned

    def _listen(self, timeout_s: float) -> None:
        """Waits for output, signals, and the end of the child or the starter; acts on them."""
        files = [*self._output.descriptors, *self._starter.descriptors]
        requests = self._signals.wait(timeout_s, files)
        self._output.forward()
        for number in requests:
            self._ask(number)
        self._supervision.shared.starter_ended = self._starter.has_ended()

    def _ask(self, number: int) -> None:
        now_s = time.monotonic()
        if self._asked_s is None:
            self._asked_s = now_s
            self._supervision.shared.asked = True
            if self._child is not None:
                os.kill(self._child, signal.SIGTERM)
        elif now_s - self._asked_s >= self._patience.same_request_s:
            # An environment may hang, and nobody wants to wait for it.
            end_descendants()
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    def _pause(self, pause_s: float) -> bool:
        """Waits; False where there is a reason to end meanwhile."""
        deadline_s = time.monotonic() + pause_s
        while not self._must_end() and (left_s := deadline_s - time.monotonic()) > 0:
            self._listen(min(left_s, _CHECK_INTERVAL_S))
        return not self._must_end()

    def _diagnose(self) -> CrashReport:
        """How the child ended, told on stderr too."""
        self._stacks.seek(0)
        stacks = self._stacks.read(_LONGEST_STACKS_BYTES).decode(errors="replace")
        shared = self._supervision.shared
        continued_ago_s = time.monotonic() - self._continued_s
        timeout_s = self._supervision.step_timer.timeout_s
        crash = diagnose(
            shared.wait_status, stacks, (shared.running[0], shared.running[1]),
            was_stopped=continued_ago_s < timeout_s + self._patience.stopped_s,
        )  # fmt: skip
        _say(describe(crash))
        return crash


def _open_stacks() -> FileIO:
    """A file for this process and those it forks, in memory where that can be had (Linux).

    It has no buffer: what this process reads there, another one has written.
    """
    if sys.platform == "linux":
        return os.fdopen(os.memfd_create("stacks"), "w+b", buffering=0)
    import tempfile

    return tempfile.TemporaryFile(buffering=0)


def _say(line: str) -> None:
    print(f"seed-envserver: {printable(line, lines=True)}", file=sys.stderr, flush=True)
