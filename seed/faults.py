"""What environment servers report of environments that fail: counted, and told in the log.

The log is for people: however many environments fail, it gets a few lines of it, and nothing in
them that a terminal would obey.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from seed.wire.messages import Fault

log = logging.getLogger(__name__)

_TRACEBACK_INTERVAL_S = 10.0
_LINE_INTERVAL_S = 1.0
_SILENCE_S = 10.0


def printable(text: str, *, lines: bool = False) -> str:
    """The text with all that a terminal would not just print escaped; `lines` keeps line ends."""
    return "".join(
        letter
        if letter.isprintable() or (lines and letter == "\n")
        else letter.encode("unicode_escape", "surrogatepass").decode("ascii")
        for letter in text
    )


class FaultLog:
    """Counts faults and tells of them. Owned by the inference thread; others may read the counts.

    Attributes:
        total: Faults so far, of all environment servers.
        num_quarantined: Environments of the present sessions that stay down.
    """

    def __init__(self) -> None:
        """No faults yet."""
        self.total = 0
        self.num_quarantined = 0
        # By session: env_ids of those that are quarantined.
        self._quarantined: dict[int, set[int]] = {}
        # By server_id: time.monotonic() of its last traceback in the log. Few, as old ones go.
        self._tracebacks_s: dict[int, float] = {}
        self._last_line_s = self._last_traceback_s = -float("inf")
        self._untold = 0

    def note(
        self, server_id: int, name: str, fault: Fault, env_ids: Iterable[int], now_s: float
    ) -> None:
        """Takes in one FAULT, which concerns these environments, at `time.monotonic()`."""
        if fault.quarantined:
            of_session = self._quarantined.setdefault(fault.session, set())
            known = len(of_session)
            of_session.update(env_ids)
            self.num_quarantined += len(of_session) - known
        if fault.repeated:
            return
        self.total += 1
        if self._may_show_traceback(server_id, now_s):
            self._tell(_sentence(name, fault), now_s, _indented(fault.traceback))
        elif now_s >= self._last_line_s + _LINE_INTERVAL_S:
            self._tell(f"{_sentence(name, fault)}; {_last_line(fault.traceback)}", now_s)
        else:
            self._untold += 1

    def forget(self, session: int) -> None:
        """The session has ended, and what was quarantined in it has gone."""
        self.num_quarantined -= len(self._quarantined.pop(session, ()))

    def tell_rest(self, now_s: float) -> None:
        """Says how many faults were not told one by one, once there has been silence for long."""
        if self._untold and now_s >= self._last_line_s + _SILENCE_S:
            self._tell("environments fail", now_s)

    def _tell(self, text: str, now_s: float, traceback: str = "") -> None:
        untold, self._untold, self._last_line_s = self._untold, 0, now_s
        more = f" (faults not shown since: {untold})" if untold else ""
        log.warning("%s%s%s", text, more, traceback)

    def _may_show_traceback(self, server_id: int, now_s: float) -> bool:
        self._tracebacks_s = {
            server: shown_s
            for server, shown_s in self._tracebacks_s.items()
            if now_s < shown_s + _TRACEBACK_INTERVAL_S
        }
        if server_id in self._tracebacks_s or now_s < self._last_traceback_s + _LINE_INTERVAL_S:
            return False
        self._tracebacks_s[server_id] = self._last_traceback_s = now_s
        return True


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
