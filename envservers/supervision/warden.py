"""A process between the supervisor and the environment server, which leaves nothing behind.

Environments start processes of their own. Whoever is killed, the supervisor, the environment server
or both, this process is there to end them; where it is killed itself, the supervisor is.
"""

from __future__ import annotations

import math
import os
import signal
import time

from envservers.supervision.processes import (
    Parent,
    adopt_orphans,
    continue_with_end_of_parent,
    end_descendants,
    end_with,
)
from envservers.supervision.shared_state import Supervision
from envservers.supervision.signals import STOP_SIGNALS, Signals

_CHECK_INTERVAL_S = 1.0
# What a terminal that is closed or a scheduler sends to all of a group. It ends the supervisor.
_IGNORED = (signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def watch_over(supervision: Supervision) -> None:
    """Forks, and returns in the new process alone, with requests to stop held back.

    The calling process, which the supervisor has forked, waits for the end of that one, writes down
    how it ended, and ends with all that is left below it.
    """
    assert supervision.supervisor is not None
    supervisor = Parent(supervision.supervisor)
    adopt_orphans()
    # An environment may have stopped the whole group.
    continue_with_end_of_parent()
    signals = Signals()
    # Before there is anything that this process would leave behind.
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in _IGNORED}
    supervision.parent = os.getpid()
    worker = os.fork()
    if not worker:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signals.restore()
        supervisor.close()
        end_with(supervision.parent)
        return
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        _wait_for(worker, supervisor, signals, supervision)
    finally:
        end_descendants()
        os._exit(0)


def _wait_for(worker: int, supervisor: Parent, signals: Signals, supervision: Supervision) -> None:
    """Waits for the end of the process or of the supervisor; passes on requests to stop."""
    watch = _PulseWatch(supervision)
    while not supervisor.has_ended():
        # Orphans of environments, which have become children of this process, end here too.
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == worker:
            supervision.shared.wait_status = status
            return
        if pid:
            continue
        if signal.SIGTERM in signals.wait(_CHECK_INTERVAL_S, supervisor.descriptors):
            os.kill(worker, signal.SIGTERM)
        if watch.is_late(time.monotonic()):
            supervision.step_timer.note_late()
            os.kill(worker, signal.SIGKILL)
    os.kill(worker, signal.SIGKILL)


class _PulseWatch:
    """Finds a step timer that is not set back in time, though its process is not stopped."""

    def __init__(self, supervision: Supervision) -> None:
        self._shared = supervision.shared
        timeout_s = supervision.step_timer.timeout_s
        # It should have ended its process by itself, with the stacks.
        self._patience_s = timeout_s + supervision.patience.grace_s if timeout_s else math.inf
        self._pulse, self._waited_s = 0, 0.0
        self._looked_s = math.inf

    def is_late(self, now_s: float) -> bool:
        """Whether it is late; asked again and again."""
        # No more than it waits: while this process is stopped, others are too.
        passed_s = min(max(now_s - self._looked_s, 0.0), 2 * _CHECK_INTERVAL_S)
        self._looked_s = now_s
        pulse = self._shared.pulse
        self._waited_s = self._waited_s + passed_s if pulse == self._pulse else 0.0
        self._pulse = pulse
        return bool(pulse) and self._waited_s >= self._patience_s
