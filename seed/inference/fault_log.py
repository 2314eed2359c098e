"""What environment servers report of environments that fail: counted, and told in the log.

The log is for people: however many environments fail, it gets a few lines of it, and nothing in
them that a terminal would obey.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from seed.process.rates import RateLimit
from seed.wire.messages import Fault
from seed.wire.terminal import printable

log = logging.getLogger(__name__)

_TRACEBACK_INTERVAL_S = 10.0
_LINE_INTERVAL_S = 1.0
_SILENCE_S = 10.0
# What fails together is given up within seconds, one by one.
_SETTLED_S = 5.0


@dataclass
class _StayDown:
    """What is quarantined of one session, and how many of them have been told."""

    name: str
    num_envs: int
    env_ids: set[int] = field(default_factory=set)
    reason: str = ""
    changed_s: float = math.inf
    num_told: int = 0

    def is_settled(self, now_s: float) -> bool:
        """Whether there is something to tell, and no more of it to be expected at once."""
        return len(self.env_ids) > self.num_told and now_s >= self.changed_s + _SETTLED_S

    def sentence(self) -> str:
        """How many stay down, and why the newest of them does."""
        reason = f"; {self.reason}" if self.reason else ""
        return f"{self.name}: {len(self.env_ids)} of {self.num_envs} environments stay down{reason}"


class FaultLog:
    """Counts faults and tells of them. Owned by the inference thread; others may read the counts.

    Attributes:
        total: Faults so far, of all environment servers.
        num_quarantined: Environments of the present sessions that stay down.
    """

    def __init__(self) -> None:
        self.total = 0
        self.num_quarantined = 0
        self._stay_down: dict[int, _StayDown] = {}
        # Of all environment servers, and by server_id: few, as full ones are forgotten.
        self._tracebacks = RateLimit(_LINE_INTERVAL_S)
        self._tracebacks_of: dict[int, RateLimit] = {}
        # time.monotonic(). Whatever is told keeps the next line away, but no traceback.
        self._last_told_s = -math.inf
        self._untold = 0

    def begin(self, session: int, name: str, num_envs: int) -> None:
        """A session of so many environments begins."""
        self._stay_down[session] = _StayDown(printable(name), num_envs)

    def note(
        self, server_id: int, name: str, fault: Fault, env_ids: Iterable[int], now_s: float
    ) -> None:
        """Takes in one FAULT, which concerns these environments, at `time.monotonic()`."""
        if fault.quarantined:
            self._keep(self._stay_down[fault.session], fault, env_ids, now_s)
        if fault.repeated:
            return
        self.total += 1
        if self._may_show_traceback(server_id, now_s):
            self._tell(_sentence(name, fault), now_s, _indented(fault.traceback))
        elif now_s >= self._last_told_s + _LINE_INTERVAL_S:
            self._tell(f"{_sentence(name, fault)}; {_last_line(fault.traceback)}", now_s)
        else:
            self._untold += 1

    def forget(self, session: int) -> None:
        """The session has ended, and what was quarantined in it has gone."""
        gone = self._stay_down.pop(session, None)
        self.num_quarantined -= len(gone.env_ids) if gone is not None else 0

    def tell_rest(self, now_s: float) -> None:
        """Says how many environments stay down, once that is settled.

        And how many faults were not told one by one, once there has been silence for long.
        """
        for down in self._stay_down.values():
            if down.is_settled(now_s) and now_s >= self._last_told_s + _LINE_INTERVAL_S:
                down.num_told = len(down.env_ids)
                self._tell(down.sentence(), now_s)
        if self._untold and now_s >= self._last_told_s + _SILENCE_S:
            self._tell("environments fail", now_s)

    def _keep(
        self, down: _StayDown, fault: Fault, env_ids: Iterable[int], now_s: float
    ) -> None:
        known = len(down.env_ids)
        down.env_ids.update(env_ids)
        new = len(down.env_ids) - known
        if new:
            self.num_quarantined += new
            down.changed_s, down.reason = now_s, _last_line(fault.traceback)

    def _tell(self, text: str, now_s: float, traceback: str = "") -> None:
        untold, self._untold, self._last_told_s = self._untold, 0, now_s
        more = f" (faults not shown since: {untold})" if untold else ""
        log.warning("%s%s%s", text, more, traceback)

    def _may_show_traceback(self, server_id: int, now_s: float) -> bool:
        self._tracebacks_of = {
            server: limit
            for server, limit in self._tracebacks_of.items()
            if not limit.is_full(now_s)
        }
        if server_id in self._tracebacks_of or not self._tracebacks.take(now_s):
            return False
        limit = self._tracebacks_of[server_id] = RateLimit(_TRACEBACK_INTERVAL_S)
        return limit.take(now_s)


def _sentence(name: str, fault: Fault) -> str:
    if fault.group is None:
        what = "the environment server"
    elif fault.index is None:
        what = f"group {fault.group}"
    else:
        what = f"environment {fault.index} of group {fault.group}"
    then = "quarantined" if fault.quarantined else "it is restarted"
    return (
        f"{printable(name)}: {what} {printable(fault.kind)} "
        f"(restarts before: {fault.restarts}), {then}"
    )


def _indented(traceback: str) -> str:
    lines = printable(traceback.strip(), lines=True).split("\n")
    return "".join(f"\n    {line}" for line in lines)


def _last_line(traceback: str) -> str:
    return printable(traceback.strip().rpartition("\n")[2])
