"""Makes one environment and says what its spaces are, in place of whoever wants to know.

An environment does as it likes with the process that makes it: takes its signals, changes its
folder, prints, leaves processes behind, ends it. So the learner starts this program. It makes the
environment in a process forked for that, and answers when that one, and all that it has started,
is no more.

stdin has one line of JSON: `environment`, as `make_sample` takes it, and `timeout_s`, 0 for none.
Its end means that whoever asked is gone. stdout gets one line of JSON: `observation` and `action`,
or `error`, and with it, where the process ended or took too long, `words`: the last lines that were
printed there.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import math
import os
import select
import signal
import sys
import time
from typing import Any, NoReturn

from envservers.supervision.processes import (
    adopt_orphans,
    end_descendants,
    end_with,
    forget_signals_in_forks,
)

_READ_BYTES = 65_536
_KEPT_BYTES, _KEPT_LINES, _LONGEST_LINE = 16_384, 20, 200
_LONGEST_REASON = 2_000
_ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_TICK_S = 0.02
# How long the environment may take to be closed, and its process to end, once its spaces are known.
_CLOSING_S = 3.0
# The process writes down where it hangs, and ends, by itself; after that it is ended from outside.
_GRACE_S = 2.0


def main() -> int:
    """Runs the program; returns its exit code."""
    question = json.loads(sys.stdin.buffer.readline())
    environment, timeout_s = question["environment"], question["timeout_s"] or math.inf
    name = f"environment {environment.get('id')!r}"
    adopt_orphans()
    results, results_of_child = os.pipe()
    words, words_of_child = os.pipe()
    this = os.getpid()
    child = os.fork()
    if not child:
        end_with(this)
        os.close(results)
        os.close(words)
        _move_in(words_of_child)
        _describe(environment, name, timeout_s, results_of_child)
    # Some simulators end what started them.
    for number in _ENDING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    os.close(results_of_child)
    os.close(words_of_child)
    answer = _Watch(name, child, results, words, timeout_s).answer()
    if answer is not None:
        print(json.dumps(answer))
    return 0


def _move_in(output: int) -> None:
    """Gives a forked process a session, an empty input, and this file for all that it prints."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, place in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(descriptor, place)
    # Else what it has printed last would be lost with the process.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def _describe(
    environment: dict[str, Any], name: str, timeout_s: float, results: int
) -> NoReturn:
    """Makes the environment, writes down what is found, and closes it."""
    faulthandler.enable()
    forget_signals_in_forks()
    if timeout_s < math.inf:
        faulthandler.dump_traceback_later(timeout_s, exit=True)
    group, answer = None, dict[str, Any]()
    try:
        from envservers.environments.factory import make_sample

        group = make_sample(environment)
        answer = {"observation": group.observation.to_map(), "action": group.action.to_map()}
    # What third-party code raises has no common class.
    except BaseException as error:
        answer = {"error": _reason(name, error)}
    faulthandler.cancel_dump_traceback_later()
    os.write(results, json.dumps(answer).encode() + b"\n")
    # Some cannot be closed before their first reset, and nothing depends on it.
    with contextlib.suppress(BaseException):
        if group is not None:
            group.close()
    sys.exit()


def _reason(name: str, error: BaseException) -> str:
    """One line about what was raised."""
    from envservers.environments.group import InvalidEnvironment

    text = " ".join(str(error).split())
    known = isinstance(error, InvalidEnvironment)
    if not known:
        text = f"{name} cannot be used: {type(error).__name__}: {text}"
    return text[:_LONGEST_REASON]


class _Watch:
    """One process, and what comes out of the two pipes that it writes to."""

    def __init__(
        self, name: str, child: int, results: int, words: int, timeout_s: float
    ) -> None:
        self._name, self._child, self._results, self._words = name, child, results, words
        self._timeout_s = timeout_s
        self._due_s = time.monotonic() + timeout_s
        self._open = {sys.stdin.fileno(), results, words}
        self._result = self._printed = b""

    def answer(self) -> dict[str, Any] | None:
        """Waits for the process and ends all of it; None where nobody waits for the answer."""
        try:
            end = self._wait()
        finally:
            # Where the system does not know what is below this process, it knows the group.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._child, signal.SIGKILL)
            end_descendants()
        while self._read(0.0):
            pass
        if sys.stdin.fileno() not in self._open:
            return None
        if self._is_known():
            # Just the first: an environment may have forked, and both may come back.
            answer: dict[str, Any] = json.loads(self._result.partition(b"\n")[0])
            return answer
        return {"error": f"{self._name}: {end}", "words": self._last_words()}

    def _wait(self) -> str:
        """Waits until the process has ended or is late; how it has come to its end."""
        last_s = self._due_s + _GRACE_S
        known = False
        while sys.stdin.fileno() in self._open and time.monotonic() < last_s:
            ended, status = os.waitpid(self._child, os.WNOHANG)
            if ended and time.monotonic() < self._due_s:
                return _end_of(os.waitstatus_to_exitcode(status))
            if ended:
                break
            self._read(_TICK_S)
            if not known and self._is_known():
                known, last_s = True, time.monotonic() + _CLOSING_S
        return f"it was not made within {self._timeout_s:g} s (local.step_timeout_s)"

    def _is_known(self) -> bool:
        return b"\n" in self._result

    def _read(self, timeout_s: float) -> bool:
        """Reads what is there, or waits so long for it; whether there was anything."""
        ready = select.select(list(self._open), [], [], timeout_s)[0]
        for source in ready:
            text = os.read(source, _READ_BYTES)
            if not text:
                self._open.discard(source)
            elif source == self._results:
                self._result += text
            elif source == self._words:
                self._printed = (self._printed + text)[-_KEPT_BYTES:]
        return bool(ready)

    def _last_words(self) -> list[str]:
        lines = self._printed.decode(errors="replace").splitlines()
        said = [line[:_LONGEST_LINE] for line in lines if line.strip()]
        return said[-_KEPT_LINES:]


def _end_of(code: int) -> str:
    """How a process has ended that gave no answer."""
    if code >= 0:
        return f"it ended its process with exit code {code}"
    end = f"its process was ended by signal {-code} ({signal.strsignal(-code)})"
    return f"{end}, as where memory runs out" if -code == signal.SIGKILL else end
