"""Entry points whose output goes nowhere end as they would: endings and outputs.

What the commands import takes seconds, so a program stands for it: what is tested is all around.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.waiting import DEADLINE_S

# In place of `seed.run.main` and `seed.run.evaluate`: prints as they do, then ends as it is told.
PROGRAM = """
import logging, os, signal, sys, time, types
from seed import __main__

def main(signals=None):
    logging.basicConfig(level=logging.INFO)
    for _ in range(200):
        logging.info("a line of the log" * 10)
        print("a result" * 10)
        print("a refusal" * 10, file=sys.stderr)
    {ending}

def signal_twice():
    signals._SAME_REQUEST_S = 0.0
    for _ in range(2):
        signal.raise_signal(signal.SIGTERM)

def wait_for_signal(signals):
    signals.began()
    signal.raise_signal(signal.SIGTERM)
    return signals.exit_code

from seed.process import signals
for name in ("seed.run.main", "seed.run.evaluate"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].main = main
sys.exit(__main__.{entry}())
"""
ENDINGS = [
    ("learner", "return 0", 0),
    ("learner", "return 2", 2),
    ("learner", "return 77", 77),
    ("learner", "return 78", 78),
    ("learner", "sys.exit(0)", 0),
    ("learner", "raise OSError('a crash')", 1),
    ("learner", "raise ModuleNotFoundError('torch', name='torch')", 2),
    # While it starts; while it trains; a second time.
    ("learner", "signal.raise_signal(signal.SIGTERM)", 75),
    ("learner", "signal.raise_signal(signal.SIGINT)", 130),
    ("learner", "return wait_for_signal(signals)", 75),
    ("learner", "signals.began(); signal_twice()", 143),
    ("evaluation", "return 0", 0),
    ("evaluation", "return 2", 2),
    ("evaluation", "return 78", 78),
    ("evaluation", "raise KeyboardInterrupt", 130),
]
# One of each kind: a code, two exceptions, a request while it starts and one while it trains.
EVERYWHERE = {
    "return 2", "raise OSError('a crash')", "raise ModuleNotFoundError('torch', name='torch')",
    "signal.raise_signal(signal.SIGTERM)", "return wait_for_signal(signals)",
    "raise KeyboardInterrupt",
}  # fmt: skip


@contextlib.contextmanager
def full_device() -> Iterator[tuple[int, int]]:
    with open("/dev/full", "wb") as file:
        yield file.fileno(), file.fileno()


@contextlib.contextmanager
def pipe_without_reader() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    os.close(reader)
    yield writer, writer
    os.close(writer)


@contextlib.contextmanager
def held_terminal() -> Iterator[tuple[int, int]]:
    """Nobody reads standard error, and nobody ever will."""
    reader, writer = os.pipe()
    with open(os.devnull, "wb") as nowhere:
        yield nowhere.fileno(), writer
    os.close(reader)
    os.close(writer)


@contextlib.contextmanager
def closed() -> Iterator[tuple[int, int]]:
    yield -1, -1


OUTPUTS = (full_device, pipe_without_reader, held_terminal, closed)


# Every ending where nobody reads, and each kind of ending everywhere.
@pytest.mark.parametrize(
    ("entry", "ending", "code", "output"),
    [
        (*ending, output) for ending in ENDINGS for output in OUTPUTS
        if output is held_terminal or ending[1] in EVERYWHERE
    ],
)  # fmt: skip
def test_what_cannot_be_printed_changes_no_exit_code(
    entry: str, ending: str, code: int,
    output: Callable[[], contextlib.AbstractContextManager[tuple[int, int]]],
) -> None:  # fmt: skip
    program = PROGRAM.format(entry=entry, ending=ending)
    with ExitStack() as stack:
        out, err = stack.enter_context(output())
        if out == -1:
            command = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", program]
            ended = subprocess.run(command, timeout=DEADLINE_S, check=False)
        else:
            ended = subprocess.run([sys.executable, "-c", program], stdout=out, stderr=err,
                                   timeout=DEADLINE_S, check=False)  # fmt: skip
    assert ended.returncode == code


@pytest.mark.parametrize("entry", ["learner", "evaluation"])
def test_standard_output_is_for_the_result(entry: str) -> None:
    ending = "os.write(1, b'from C'); subprocess.run(['echo', 'another program'])"
    program = PROGRAM.replace("import logging", "import subprocess, logging")
    code = program.format(entry=entry, ending=ending)
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, timeout=DEADLINE_S, check=False, capture_output=True, text=True)
    assert set(ended.stdout.split("\n")) == {"a result" * 10, ""}
    assert "from C" in ended.stderr
    assert "another program" in ended.stderr
