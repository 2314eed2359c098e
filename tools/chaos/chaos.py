"""When faults happen, and when a training has recovered from them."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

from tools.chaos.faults import KINDS, Fault
from tools.chaos.training import Server, Training

RECOVERY_LIMIT_S = 60.0
_START_LIMIT_S = 300.0
_LOOK_INTERVAL_S = 0.05
_SHORTEST_S = 0.3


class Unready(Exception):
    """A training that did not begin."""


def wait_until_ready(training: Training) -> None:
    """Looks at a training until every environment server has given unrolls.

    Raises:
        Unready: where that has not come after five minutes.
    """
    while len(training.made_s) < len(training.servers):
        training.look()
        if training.now_s() > _START_LIMIT_S:
            count = f"{len(training.made_s)} of {len(training.servers)}"
            raise Unready(
                f"only {count} environment servers gave unrolls within {_START_LIMIT_S:g} s"
            )
        time.sleep(_LOOK_INTERVAL_S)


def is_back(training: Training, servers: Sequence[int], since_s: float) -> bool:
    """Whether every environment of these servers has given an unroll that was made since then."""
    return all(training.made_s.get(server, -1.0) > since_s for server in servers)


class Chaos:
    """Gives a training faults at random, by a seed, and waits for its recovery from each.

    Attributes:
        faults: All so far, in the order in which they began.
    """

    def __init__(
        self,
        training: Training,
        kinds: Sequence[str],
        *,
        faults_per_minute: float,
        longest_s: float,
        seed: int,
    ) -> None:
        """Each kind comes as often as the others.

        Times between faults are exponential, the logarithm of durations is even up to `longest_s`.
        """
        self.faults: list[Fault] = []
        self._training = training
        self._kinds = list(kinds)
        self._per_s = faults_per_minute / 60
        self._longest_s = max(longest_s, _SHORTEST_S)
        self._chance = random.Random(seed)
        self._deck: list[str] = []
        self._open: list[Fault] = []

    def run(self, seconds: float, most_faults: int | None = None) -> None:
        """Begins faults for so long, then waits until the last has been recovered from.

        It ends earlier once there have been `most_faults`, where that is given.

        Raises:
            Unready: where the training has not begun after five minutes.
        """
        wait_until_ready(self._training)
        end_s = self._training.now_s() + seconds
        due_s = self._training.now_s()
        while True:
            self._training.look()
            self._settle()
            now_s = self._training.now_s()
            over = now_s >= end_s or len(self.faults) == most_faults
            if over and not self._open:
                return
            if not over and now_s >= due_s and self._begin():
                due_s += self._chance.expovariate(self._per_s)
            time.sleep(_LOOK_INTERVAL_S)

    def _begin(self) -> bool:
        """Begins the next fault; False where it must wait for the recovery from others."""
        if not self._deck:
            self._deck = self._chance.sample(self._kinds, len(self._kinds))
        kind = KINDS[self._deck[-1]]
        busy = {server for fault in self._open for server in fault.servers}
        free = [server for server in self._training.servers if server.index not in busy]
        if not free or (kind.all_servers and busy):
            return False
        victim = self._chance.choice(free)
        hit = self._training.servers if kind.all_servers else [victim]
        duration_s = 0.0
        if kind.end is not None:
            duration_s = _SHORTEST_S * (self._longest_s / _SHORTEST_S) ** self._chance.random()
        fault = Fault(
            self._deck.pop(), tuple(server.index for server in hit), duration_s,
            self._training.now_s(),
        )  # fmt: skip
        self.faults.append(fault)
        self._open.append(fault)
        kind.begin(self._training, victim, self._chance)
        if kind.end is None:
            fault.ended_s = self._training.now_s()
        return True

    def _settle(self) -> None:
        """Ends faults whose time is over; closes those that were recovered from, or never will."""
        now_s = self._training.now_s()
        for fault in list(self._open):
            end = KINDS[fault.kind].end
            if fault.ended_s is None:
                if end is not None and now_s >= fault.began_s + fault.duration_s:
                    end(self._training, self._victim(fault), self._chance)
                    fault.ended_s = self._training.now_s()
            elif is_back(self._training, fault.servers, fault.ended_s):
                fault.recovered_s = now_s
                self._open.remove(fault)
            elif now_s > fault.ended_s + RECOVERY_LIMIT_S:
                self._open.remove(fault)

    def _victim(self, fault: Fault) -> Server:
        return self._training.servers[fault.servers[0]]
