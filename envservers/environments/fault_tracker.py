"""Counts a group's faults: which environments run, which are down, what the learner is told."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable

from envservers.environments.group import InvalidRow
from envservers.supervision.processes import end_fork
from envservers.supervision.recovery import Recovery
from envservers.supervision.shared_state import NOBODY, Supervision
from seed.wire.messages import Fault

# What an environment may raise: SystemExit of sys.exit, CancelledError of asyncio, panics of Rust
# and its own KeyboardInterrupt are no Exception. Requests to stop are not raised.
ENVIRONMENT_ERRORS = (BaseException,)
_MAX_TRACEBACKS = 64


class FaultTracker:
    """The faults of one group's units: its environments, or the group where it is one object.

    Every unit is down at first.

    Attributes:
        down: Units that do not run.
        ready_s: `clock` at which there is something to step: 0 where a unit runs, infinite where
            all are in quarantine.
    """

    def __init__(
        self,
        supervision: Supervision,
        group: int,
        first_env: int,
        num_units: int,
        *,
        whole: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Goes on from the faults of an earlier process.

        Args:
            supervision: Where faults, and what is being stepped, are written down.
            group: The group's number.
            first_env: Its first environment's number in the environment server.
            num_units: Its units.
            whole: Whether its one unit is the group.
            clock: Seconds that only go forward.
        """
        shared = supervision.shared
        self.down = set(range(num_units))
        self.ready_s = 0.0
        self._group, self._whole, self._clock = group, whole, clock
        self._shared, self._running = shared, shared.running
        self._step_timer = supervision.step_timer
        self._units = [
            Recovery(shared.faults, first_env + unit, supervision.jitter)
            for unit in range(num_units)
        ]
        # Units that run, but have faults which are not forgiven yet.
        self._on_trial: set[int] = set()
        self._unsent: list[Fault] = []
        self._steps = 0
        self._find_ready()

    @property
    def is_quarantined(self) -> bool:
        """Whether all units stay down."""
        return self.ready_s == math.inf

    @property
    def was_made(self) -> bool:
        """Whether the environment can be made here: one of any group, of any process, has been.

        If so, that another one cannot be made is a fault, and no mistake in the configuration.
        """
        return self._shared.was_made

    def enter(self, unit: int) -> None:
        """Before a unit's code runs, which may hang or end the process."""
        end_fork()
        self._running[1] = NOBODY if self._whole else unit
        self._running[0] = self._group
        # Asked here first, as this is done for every environment in every step.
        if time.monotonic() >= self._step_timer.due_s:
            self._step_timer.set_back()

    def end_step(self) -> None:
        """After the group has been stepped."""
        end_fork()
        self._running[0] = NOBODY
        self._steps += 1
        if self._on_trial:
            now_s = self._clock()
            self._on_trial -= {
                unit for unit in self._on_trial if self._units[unit].forgive(now_s, self._steps)
            }

    def startable(self) -> list[int]:
        """Units that are down and may be started now."""
        now_s = self._clock()
        return [unit for unit in sorted(self.down) if now_s >= self._units[unit].due_s]

    def start(self, unit: int) -> None:
        """After the unit has been made."""
        end_fork()
        self._shared.was_made = True
        self._units[unit].start(self._clock(), self._steps)
        self.down.discard(unit)
        self._on_trial.add(unit)
        self.ready_s = 0.0

    def fail(self, unit: int, error: BaseException, remark: str = "") -> None:
        """After the unit has failed; the remark comes before the traceback."""
        end_fork()
        recovery = self._units[unit]
        recovery.fail(self._clock())
        self.down.add(unit)
        self._on_trial.discard(unit)
        self._find_ready()
        kind = error.kind if isinstance(error, InvalidRow) else "raised"
        # Not for all of a thousand environments that fail together.
        shown = len(self._unsent) < _MAX_TRACEBACKS
        text = remark + "".join(traceback.format_exception(error)) if shown else remark
        self._unsent.append(self._fault(unit, kind, text, repeated=False))

    def take_faults(self) -> list[Fault]:
        """The faults since the last call, without a session."""
        faults, self._unsent = self._unsent, []
        return faults

    def quarantined_faults(self) -> list[Fault]:
        """A fault for each unit that stays down, for a new session."""
        staying = [unit for unit in sorted(self.down) if self._units[unit].quarantined]
        return [self._fault(unit, "quarantined", "", repeated=True) for unit in staying]

    def _fault(self, unit: int, kind: str, text: str, *, repeated: bool) -> Fault:
        recovery = self._units[unit]
        index = None if self._whole else unit
        return Fault(
            0, self._group, index, kind, recovery.restarts, recovery.quarantined, repeated, text
        )

    def _find_ready(self) -> None:
        all_down = len(self.down) == len(self._units)
        self.ready_s = min(unit.due_s for unit in self._units) if all_down else 0.0
