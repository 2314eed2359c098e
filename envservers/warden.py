"""A process between the supervisor and the environment server, which leaves nothing behind.

Environments start processes of their own. Whoever is killed, the supervisor, the environment server
or both, this process is there to end them; where it is killed itself, the supervisor is.
"""

from __future__ import annotations

import os
import signal

from envservers.processes import Parent, adopt_orphans, end_descendants, end_with
from envservers.signals import STOP_SIGNALS, Signals
from envservers.supervision import Supervision

_CHECK_INTERVAL_S = 1.0
# What a terminal that is closed or a scheduler sends to all of a group. It ends the supervisor.
_IGNORED = (signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def watch_over(supervision: Supervision) -> None:
    """Forks, and returns in the new process alone, with requests to stop held back.

    The calling process, which the supervisor has forked, waits for the end of that one, notes how
    it came to it, and ends with all that is left below it.
    """
    assert supervision.supervisor is not None
    supervisor = Parent(supervision.supervisor)
    adopt_orphans()
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
    while not supervisor.has_ended():
        # Orphans of environments, which have become children of this process, end here too.
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == worker:
            supervision.notes.wait_status = status
            return
        if pid:
            continue
        if signal.SIGTERM in signals.wait(_CHECK_INTERVAL_S, supervisor.descriptors):
            os.kill(worker, signal.SIGTERM)
    os.kill(worker, signal.SIGKILL)
