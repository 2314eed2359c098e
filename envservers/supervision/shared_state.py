"""What an environment server and the process that watches over it know of each other.

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
from dataclasses import dataclass, field
from datetime import timedelta
from io import FileIO

from envservers.supervision.recovery import Cells
from seed.wire.limits import MAX_ENVS_PER_SERVER

NOBODY = -1
_REARM_INTERVAL_S = 1.0
_MOST_PULSES = 2**30
_CELLS = 6  # of 4 bytes each
_STARTER_ENDED = 4 * _CELLS
_WAS_MADE = _STARTER_ENDED + 1
_RENEWING = _WAS_MADE + 1
_ENDING = _RENEWING + 1
_ASKED = _ENDING + 1
_COUNTS = _STARTER_ENDED + 16
_SIZE_BYTES = _COUNTS + MAX_ENVS_PER_SERVER


class SharedState:
    """A little memory that outlives the process that writes it.

    Attributes:
        running: The group and the index that are being stepped, `NOBODY` for none.
        faults: By environment of the server, how often it failed since it last ran well; for a
            group that fails as a whole, at its first environment.

    What is noted of the environment, as the learner names it, is forgotten where it names another.
    """

    def __init__(self, memory: mmap.mmap | bytearray | None = None) -> None:
        """Empty notes, in memory of this process alone where none is given."""
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
        """With what the process has decided to end; None where it has decided nothing."""
        return self._cells[2] if self._cells[2] != NOBODY else None

    @exit_code.setter
    def exit_code(self, code: int) -> None:
        self._cells[2] = code

    @property
    def wait_status(self) -> int | None:
        """How the process has ended; None where nobody was left to see it."""
        return self._cells[4] if self._cells[4] != NOBODY else None

    @wait_status.setter
    def wait_status(self, status: int) -> None:
        self._cells[4] = status

    @property
    def starter_ended(self) -> bool:
        """Whether the process that started the supervisor has ended."""
        return bool(self._view[_STARTER_ENDED])

    @starter_ended.setter
    def starter_ended(self, ended: bool) -> None:
        self._view[_STARTER_ENDED] = ended

    @property
    def was_made(self) -> bool:
        """Whether the environment has been made at least once, in whichever process."""
        return bool(self._view[_WAS_MADE])

    @was_made.setter
    def was_made(self, made: bool) -> None:
        self._view[_WAS_MADE] = made

    @property
    def renewing(self) -> bool:
        """Whether the process ends so that another one goes on: this is no bad end."""
        return bool(self._view[_RENEWING])

    @renewing.setter
    def renewing(self, renewing: bool) -> None:
        self._view[_RENEWING] = renewing

    @property
    def ending(self) -> bool:
        """Whether the process is about to end, whyever: all that is left is to close."""
        return bool(self._view[_ENDING])

    @ending.setter
    def ending(self, ending: bool) -> None:
        self._view[_ENDING] = ending

    @property
    def asked(self) -> bool:
        """Whether the supervisor has been asked to end.

        A signal alone asks for nothing: environments send some to their own process, or block them.
        """
        return bool(self._view[_ASKED])

    @asked.setter
    def asked(self, asked: bool) -> None:
        self._view[_ASKED] = asked

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
        """Nothing is known of the environments any more."""
        self._view[_COUNTS:] = bytes(MAX_ENVS_PER_SERVER)
        self.was_made = False


class StepTimer:
    """Ends the process, with all stacks written down, where it is not set back in time.

    It works below Python: also where an environment holds the interpreter's lock for ever. It works
    in this process, though, which an environment may stop, or make another program of: `pulse` is
    for who watches from outside.

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
        self.timeout_s, self._stacks, self._notes = timeout_s, stacks, shared or SharedState()
        on = timeout_s > 0 and stacks is not None
        self.interval_s = min(_REARM_INTERVAL_S, timeout_s / 4) if on else math.inf
        self.due_s = 0.0 if on else math.inf

    def set_back(self) -> None:
        """Begins the timeout again, if that is due."""
        now_s = time.monotonic()
        if now_s >= self.due_s and self._stacks is not None:
            self._notes.pulse = self._notes.pulse % _MOST_PULSES + 1
            faulthandler.dump_traceback_later(self.timeout_s, exit=True, file=self._stacks)
            self.due_s = now_s + self.interval_s

    def stop(self) -> None:
        """Nothing is stepped any more. How long closing may take is for the supervisor to see."""
        self._notes.pulse = 0
        if self._stacks is not None:
            faulthandler.cancel_dump_traceback_later()
        self.due_s = math.inf

    def note_late(self) -> None:
        """Writes what it would have, in place of a process that cannot."""
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


@dataclass
class Supervision:
    """What an environment server gets from its supervisor; by default, there is none.

    Attributes:
        notes: Written for the supervisor.
        step_timer: Ends this process where an environment hangs.
        server_id: The number in HELLO; the same in all processes of one supervisor.
        crash: The process before this one, where it came to a bad end.
        supervisor: Process id of the supervisor.
        parent: Process id of the one that stands between this process and its supervisor.
    """

    shared: SharedState = field(default_factory=SharedState)
    step_timer: StepTimer = field(default_factory=StepTimer)
    server_id: int = field(default_factory=lambda: secrets.randbits(64))
    crash: CrashReport | None = None
    supervisor: int | None = None
    parent: int | None = None

    def is_abandoned(self) -> bool:
        """Whether nobody watches over this process any more."""
        return self.parent is not None and os.getppid() != self.parent
