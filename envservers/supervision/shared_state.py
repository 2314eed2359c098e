"""The state that an environment server shares with its supervisor.

The supervisor imports this before it forks: nothing heavy here.
"""

from __future__ import annotations

import faulthandler
import math
import mmap
import os
import secrets
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from io import FileIO

from envservers.supervision.recovery import Cells, jitter
from seed.wire.limits import MAX_ENVS_PER_SERVER

NOBODY = -1
_REARM_INTERVAL_S = 1.0
_MOST_PULSES = 2**30
_CELLS = 6  # of 4 bytes each
_FLAGS = 4 * _CELLS
_COUNTS = _FLAGS + 16
_SIZE_BYTES = _COUNTS + MAX_ENVS_PER_SERVER


class _Flag:
    """A bool in one byte of a SharedState."""

    def __init__(self, place: int) -> None:
        self._place = place

    def __get__(self, shared: SharedState, owner: object = None) -> bool:
        return bool(shared._view[self._place])

    def __set__(self, shared: SharedState, value: bool) -> None:
        shared._view[self._place] = value


class SharedState:
    """A little memory that outlives the process that writes it.

    The faults are those of one environment, as the learner names it.

    Attributes:
        running: The group and the index that are being stepped, `NOBODY` for none.
        faults: By environment of the server, how often it failed since it last ran well; for a
            group that fails as a whole, at its first environment.
        starter_ended: Whether the process that started the supervisor has ended.
        was_made: Whether the environment has been made at least once, in whichever process.
        renewing: Whether the process ends so that a new one goes on, which is no crash.
        ending: Whether the process is about to end: all that is left is to close.
        asked: Whether the supervisor has been asked to end. A signal alone asks for nothing:
            environments send some to their own process, or block them.
    """

    starter_ended, was_made = _Flag(_FLAGS), _Flag(_FLAGS + 1)
    renewing, ending, asked = _Flag(_FLAGS + 2), _Flag(_FLAGS + 3), _Flag(_FLAGS + 4)

    def __init__(self, memory: mmap.mmap | bytearray | None = None) -> None:
        """Empty, in memory of this process alone where none is given."""
        view = memoryview(bytearray(_SIZE_BYTES) if memory is None else memory)
        self._view = view
        self._cells = view[: 4 * _CELLS].cast("i")
        self.running: Cells = self._cells[:2]
        self.faults: Cells = view[_COUNTS:]
        self.begin()

    @staticmethod
    def shared() -> SharedState:
        """SharedState in memory that is shared with processes forked from this one."""
        return SharedState(mmap.mmap(-1, _SIZE_BYTES))

    def begin(self) -> None:
        """A new process is about to write: nothing runs, and it has not left."""
        self._cells[0] = self._cells[1] = self._cells[2] = self._cells[4] = NOBODY
        self._cells[5] = 0
        self.renewing = self.ending = False

    @property
    def exit_code(self) -> int | None:
        """The exit code that the process has chosen; None where it has chosen none."""
        return self._cells[2] if self._cells[2] != NOBODY else None

    @exit_code.setter
    def exit_code(self, code: int) -> None:
        self._cells[2] = code

    @property
    def wait_status(self) -> int | None:
        """What `waitpid` said of the process; None where its parent had ended, too."""
        return self._cells[4] if self._cells[4] != NOBODY else None

    @wait_status.setter
    def wait_status(self, status: int) -> None:
        self._cells[4] = status

    @property
    def pulse(self) -> int:
        """Another number every time that the step timer is set back; 0 while it is off."""
        return self._cells[5]

    @pulse.setter
    def pulse(self, pulse: int) -> None:
        self._cells[5] = pulse

    def keep_faults_of(self, environment: str) -> bool:
        """Forgets the faults unless they are of this environment; whether they were."""
        checksum = zlib.crc32(environment.encode(errors="replace")) >> 1
        known = self._cells[3] == checksum
        if not known:
            self.forget_faults()
            self._cells[3] = checksum
        return known

    def forget_faults(self) -> None:
        """Forgets all faults, and whether environments could be made."""
        self._view[_COUNTS:] = bytes(MAX_ENVS_PER_SERVER)
        self.was_made = False


class StepTimer:
    """Writes all stacks down and ends the process, where it is not set back in time.

    It works below Python: also where an environment holds the interpreter's lock for ever. But it
    works in this process, which an environment may stop or replace by another program: for that,
    the warden watches `pulse` from outside.

    Attributes:
        due_s: `time.monotonic()` at which it is best set back again; infinite where it is off.
        interval_s: Seconds between two times of setting it back.
        timeout_s: After how long it ends the process.
    """

    def __init__(
        self,
        timeout_s: float = 0.0,
        stacks: FileIO | None = None,
        shared: SharedState | None = None,
    ) -> None:
        """Off with a timeout of 0; otherwise armed by the first `set_back`."""
        self.timeout_s, self._stacks, self._shared = timeout_s, stacks, shared or SharedState()
        on = timeout_s > 0 and stacks is not None
        self.interval_s = min(_REARM_INTERVAL_S, timeout_s / 4) if on else math.inf
        self.due_s = 0.0 if on else math.inf

    def set_back(self) -> None:
        """Begins the timeout again, if that is due."""
        now_s = time.monotonic()
        if now_s >= self.due_s and self._stacks is not None:
            self._shared.pulse = self._shared.pulse % _MOST_PULSES + 1
            faulthandler.dump_traceback_later(self.timeout_s, exit=True, file=self._stacks)
            self.due_s = now_s + self.interval_s

    def stop(self) -> None:
        """Turns it off before environments are closed, for which the supervisor has a deadline."""
        self._shared.pulse = 0
        if self._stacks is not None:
            faulthandler.cancel_dump_traceback_later()
        self.due_s = math.inf

    def note_late(self) -> None:
        """Writes a timeout down in place of a process that cannot do it itself."""
        if self._stacks is not None:
            timeout = timedelta(seconds=self.timeout_s)
            self._stacks.write(f"Timeout ({timeout})! Its process does nothing at all\n".encode())


@dataclass(frozen=True)
class CrashReport:
    """An earlier process of the same environment server, and how it came to its end.

    Attributes:
        kind: "hung"; "crashed"; "was killed", from outside and by no doing of an environment; or
            "stopped" where it had been stopped (SIGSTOP) for so long that it looked hung.
        group: What it was stepping; None where nothing.
        index: Which environment of the group; None where the group is stepped as a whole.
        text: The stacks at its end, as far as known.
    """

    kind: str
    group: int | None
    index: int | None
    text: str


@dataclass(frozen=True)
class Patience:
    """How long the processes of an environment server wait for each other, in seconds.

    Attributes:
        close_s: For environments to be closed, or to end a step that nobody waits for any more.
        orphans_close_s: The same where the process that started the supervisor has ended.
        grace_s: For a process that the step timer should have ended, with its stacks.
        stopped_s: So late for its next check, the supervisor was stopped in between.
        same_request_s: Process managers signal a process and its group: one request, twice.
    """

    close_s: float = 5.0
    orphans_close_s: float = 2.0
    grace_s: float = 3.0
    stopped_s: float = 3.0
    same_request_s: float = 1.0


@dataclass
class Supervision:
    """What an environment server gets from its supervisor; by default, there is none.

    Attributes:
        shared: Written for the supervisor.
        step_timer: Ends this process where an environment hangs.
        server_id: The number in HELLO; the same in all processes of one supervisor.
        crash: How the process before this one ended, where it did not choose to.
        supervisor: Process id of the supervisor.
        parent: Process id of the one that stands between this process and its supervisor.
        jitter: A factor for every wait before a restart.
        patience: How long processes wait for each other.
    """

    shared: SharedState = field(default_factory=SharedState)
    step_timer: StepTimer = field(default_factory=StepTimer)
    server_id: int = field(default_factory=lambda: secrets.randbits(64))
    crash: CrashReport | None = None
    supervisor: int | None = None
    parent: int | None = None
    jitter: Callable[[], float] = jitter
    patience: Patience = field(default_factory=Patience)

    def is_abandoned(self) -> bool:
        """Whether the process that watches over this one has ended."""
        return self.parent is not None and os.getppid() != self.parent
