"""The parent and the descendants of a process, as the system knows them (Linux).

Elsewhere a process polls whether its parent has ended, and finds no descendants.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import time

from envservers.supervision.signals import STOP_SIGNALS

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_END_PATIENCE_S = 2.0
_END_INTERVAL_S = 0.005

_is_fork = False


class Parent:
    """The process that started this one, and whether it has ended.

    The system tells of its end by a file that becomes readable, and not by a signal, as that comes
    where only the thread has ended that started this process.

    Attributes:
        pid: Its process id.
    """

    def __init__(self, pid: int | None = None) -> None:
        """Of the process id that is given, or the one that is this process's parent by now."""
        self.pid = os.getppid() if pid is None else pid
        self._descriptor: int | None = None
        if sys.platform == "linux":
            # Old kernels and sandboxes have none, and the number may be none of a process. It is
            # looked for every now and then, anyway.
            with contextlib.suppress(OSError, OverflowError):
                self._descriptor = os.pidfd_open(self.pid)

    def has_ended(self) -> bool:
        """Whether it has ended, and this process has another parent."""
        return os.getppid() != self.pid

    @property
    def descriptors(self) -> list[int]:
        """What becomes readable when it ends."""
        return [] if self._descriptor is None or self.has_ended() else [self._descriptor]

    def close(self) -> None:
        """Gives the file back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def end_with(parent: int) -> None:
    """Has the system kill this process when its parent ends, whatever it is about."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def continue_with_end_of_parent() -> None:
    """Has the system go on with this process when its parent ends, if it has been stopped."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGCONT)


def adopt_orphans() -> None:
    """Makes this process the parent of what its descendants leave behind, so that it finds it."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_descendants() -> None:
    """Kills all processes below this one, whatever group or session they are in, and reaps them."""
    deadline_s = time.monotonic() + _END_PATIENCE_S
    while True:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        left = descendants(os.getpid())
        if not left or time.monotonic() >= deadline_s:
            return
        for pid in left:
            # It may have ended by now, or belong to another user.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_END_INTERVAL_S)


def descendants(pid: int) -> list[int]:
    """The children of a process, their children, and so on."""
    if sys.platform != "linux":
        return []
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            children.setdefault(_parent_of(name), []).append(int(name))
    found = children.get(pid, [])
    for child in found:
        found.extend(children.get(child, ()))
    return found


def _parent_of(name: str) -> int:
    """The parent's process id; 0 where the process has ended meanwhile."""
    try:
        with open(f"/proc/{name}/stat", "rb") as stat:
            # The command may have blanks and brackets in it: what counts is behind the last one.
            return int(stat.read().rpartition(b")")[2].split()[1])
    except (OSError, IndexError):
        return 0


def forget_signals_in_forks() -> None:
    """Gives processes that are forked from this one the signals' own effects again.

    An environment that forks a helper ends it by SIGTERM; with this process's handler it would
    live on. `end_fork` ends it where it comes back from the environment.
    """

    def hold_back() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)

    def go_on() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def begin() -> None:
        global _is_fork
        _is_fork = True
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        # Its own stacks would be taken for those of this process.
        faulthandler.enable(2)
        go_on()

    os.register_at_fork(before=hold_back, after_in_parent=go_on, after_in_child=begin)


def end_fork() -> None:
    """Ends this process if an environment has forked it, which only has work for one."""
    if _is_fork:
        os._exit(0)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
