"""Lock-step: which STEPs go through the network next where acting waits for the update.

No socket, no thread, no clock. *Cohort* g is group g of every session. Cohorts take strict turns:
each acts as a whole, in the order of env_ids, once all its groups are in, so that no batch depends
on what arrives first. After T rows of every cohort comes the boundary: the rows that end all
unrolls are stored, but not acted on. They are row T of one unroll and row 0 of the next, and the
new weights choose their actions. The loop hands the round's unrolls to the learner, and says when
the next round begins.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from seed.config.schema import InferenceConfig
from seed.inference.batcher import InferenceBatch, Turn, WaitingStep, chunk
from seed.inference.session_table import Session
from seed.process.rates import LimitedLog
from seed.wire.arrays import Int64Array
from seed.wire.terminal import counted, printable

log = logging.getLogger(__name__)

# A session's number, and the group.
_Key: TypeAlias = tuple[int, int]
# Time counts for no longer than this from one look to the next: what came while the whole process
# stood still is not late.
_LONGEST_LOOK_S = 1.0


@dataclass
class _Cohort:
    """The groups of one number.

    Attributes:
        awaited: Those that got actions and have not answered: their sessions, and since when.
        waiting: STEPs whose turn comes next.
        held: STEPs whose rows are stored, and wait for their actions.
    """

    awaited: dict[_Key, tuple[Session, float]] = field(default_factory=dict)
    waiting: dict[_Key, WaitingStep] = field(default_factory=dict)
    held: dict[_Key, WaitingStep] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        return not (self.awaited or self.waiting or self.held)


class Rounds:
    """Rounds of T rows of each environment; the other order of batches is `Batcher`.

    A group joins its cohort with its first STEP, at the cohort's present row: the page that begins
    there is only context of the next one. A group that has not answered `inference.round_wait_s`
    after its actions leaves the round, keeps its session, and joins anew when it answers.
    """

    def __init__(
        self,
        config: InferenceConfig,
        unroll_length: int,
        first_envs: int,
        *,
        drop: Callable[[Int64Array], None],
    ) -> None:
        """Before the first round.

        Args:
            config: Size of batches, and patience.
            unroll_length: T.
            first_envs: Environments for whose first rows the first round waits.
            drop: Called with the env_ids whose histories break, as they have left a round.
        """
        self._max_batch, self._patience_s = config.max_batch, config.round_wait_s
        self._length, self._first_envs = unroll_length, first_envs
        self._drop = drop
        self._cohorts: list[_Cohort] = []
        self._begun = self._over = self._told = False
        # Whose turn it is, and at which row.
        self._turn = self._row = 0
        # What of the turn is still to be run, and whether these rows are in the store already.
        self._running: dict[_Key, WaitingStep] = {}
        self._stored = False
        # Seconds watched, and when that was; before the first round, when it last had more rows.
        self._watched_s, self._looked_s = 0.0, -math.inf
        self._most_rows, self._grown_s = 0, 0.0
        self._log = LimitedLog(log)

    # --- told by the sessions --------------------------------------------------------------------

    def open(self, session: Session) -> None:
        """Makes cohorts for its groups, which they join with their first STEPs."""
        while len(self._cohorts) < len(session.env_ids):
            self._cohorts.append(_Cohort())

    def close(self, session: Session) -> None:
        """Forgets the session and what waits of it; nobody waits for its groups any more."""
        for group in range(len(session.env_ids)):
            self._forget((session.number, group))
        self._skip_empty()

    def add(self, step: WaitingStep) -> bool:
        """Takes in a STEP; whether it replaces an earlier one of its group, which is forgotten."""
        key = step.session.number, step.group
        replaces = self._forget(key)
        self._cohorts[step.group].waiting[key] = step
        if not self._begun and (rows := self._waiting_rows()) > self._most_rows:
            self._most_rows, self._grown_s = rows, self._watched_s
        self._skip_empty()
        return replaces

    def _waiting_rows(self) -> int:
        return sum(len(s.rows.env_ids) for c in self._cohorts for s in c.waiting.values())

    def _forget(self, key: _Key) -> bool:
        """Takes a group out of wherever it is; whether a STEP of it was waiting."""
        cohort = self._cohorts[key[1]]
        cohort.awaited.pop(key, None)
        waited = cohort.waiting.pop(key, None) or cohort.held.pop(key, None)
        if key in self._running:
            waited = self._running.pop(key)
            if not self._running:
                self._advance()
        return waited is not None

    # --- asked by the loop -----------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        """Whether the cohort whose turn it is has all its rows."""
        if self._running or self._over:
            return not self._over
        if not self._begun:
            return self._waiting_rows() >= max(1, self._first_envs)
        if not self._cohorts:
            return False
        cohort = self._cohorts[self._turn]
        resumes = self._row == 0 and bool(cohort.held)
        return resumes or (bool(cohort.waiting) and not cohort.awaited)

    def wait_s(self, now_s: float) -> float:
        """Seconds until a turn is due, if only because the patience with somebody ends."""
        self._watched_s += min(max(0.0, now_s - self._looked_s), _LONGEST_LOOK_S)
        self._looked_s = now_s
        if self.is_full:
            return 0.0
        if self._over or all(cohort.is_empty for cohort in self._cohorts):
            return math.inf
        since_s = self._grown_s
        if self._begun:
            awaited = self._cohorts[self._turn].awaited
            since_s = min((since_s for _, since_s in awaited.values()), default=math.inf)
        return max(0.0, since_s + self._patience_s - self._watched_s)

    def next(self, now_s: float, has_room: Callable[[InferenceBatch], bool]) -> Turn | None:
        """The next rows of the cohort whose turn it is, as many as fit a batch."""
        while not self._running:
            if self.wait_s(now_s) > 0:
                return None
            self._begin_turn(now_s)
        boundary = self._row == self._length
        turn = Turn.of(chunk(self._running.values(), self._max_batch))._replace(
            store=not self._stored, act=not boundary, start=self._row % self._length
        )
        if turn.store and not has_room(turn.batch):
            return None
        cohort = self._cohorts[self._turn]
        for step in turn.steps:
            key = step.session.number, step.group
            del self._running[key]
            if boundary:
                cohort.held[key] = step
            else:
                cohort.awaited[key] = step.session, self._watched_s
        if not self._running:
            self._advance()
            self._skip_empty()
        return turn

    def take_end(self) -> bool:
        """Whether a round has ended; says so once. Nothing is due before `begin`."""
        ended = self._over and not self._told
        self._told |= ended
        return ended

    def begin(self) -> None:
        """Begins the next round, with the rows that are held."""
        self._over = self._told = False
        self._turn = self._row = 0
        self._skip_empty()

    # --- turns -----------------------------------------------------------------------------------

    def _begin_turn(self, now_s: float) -> None:
        """Makes ready what the cohort whose turn it is has; who is late leaves the round."""
        if not self._begun:
            self._begin_first()
        cohort = self._cohorts[self._turn]
        self._stored = self._row == 0 and bool(cohort.held)
        ready: dict[_Key, WaitingStep] = {}
        if self._stored:
            ready, cohort.held = cohort.held, {}
        else:
            self._leave_out_late(cohort, now_s)
            if not cohort.awaited:
                ready, cohort.waiting = cohort.waiting, {}
        self._running = dict(sorted(ready.items(), key=lambda item: item[1].rows.env_ids[0]))
        self._skip_empty()

    def _begin_first(self) -> None:
        self._begun = True
        if (rows := self._waiting_rows()) < self._first_envs:
            log.warning(
                "the first round begins with %d of %d environments, as no more came within "
                "inference.round_wait_s = %g: the run is not reproducible",
                rows, self._first_envs, self._patience_s,
            )  # fmt: skip
        self._skip_empty()

    def _leave_out_late(self, cohort: _Cohort, now_s: float) -> None:
        late = [
            (key, session)
            for key, (session, since_s) in cohort.awaited.items()
            if since_s + self._patience_s <= self._watched_s
        ]
        for key, session in late:
            del cohort.awaited[key]
            env_ids = session.env_ids[key[1]]
            self._drop(env_ids)
            self._log.warn(
                f"{counted(len(env_ids), 'environment')} of {printable(session.hello.name)} left "
                f"the round: no answer within inference.round_wait_s = {self._patience_s:g}",
                now_s,
            )

    def _advance(self) -> None:
        """The next cohort's turn, or the next row of the first one, or the round's end."""
        self._turn += 1
        if self._turn >= len(self._cohorts):
            self._turn, self._row = 0, self._row + 1
        self._over = self._row > self._length

    def _skip_empty(self) -> None:
        """Passes over cohorts of nobody, unless there is nobody at all."""
        if not self._begun or self._running or all(each.is_empty for each in self._cohorts):
            return
        while not self._over and self._cohorts[self._turn].is_empty:
            self._advance()
