"""Processes that answer through pipes."""

from __future__ import annotations

from multiprocessing.connection import Connection

import pytest

from tools.bench.piped_processes import PipedProcesses
from tools.bench.processes import ProcessFailed


def add(pipe: Connection, number: int) -> None:
    """Answers with sums, until it is told to be silent."""
    while (message := pipe.recv()) != "silence":
        pipe.send(message + number)


def test_all_or_some_answer_every_message() -> None:
    with PipedProcesses(2, add, 10) as processes:
        assert processes.ask("adding", [1, 2]) == [12, 12]
        assert processes.ask("adding", [3], count=1) == [13]
        # The first ends; the second still answers.
        processes.tell("silence", count=1)
        with pytest.raises(ProcessFailed, match="adding failed; its reason is above"):
            processes.ask("adding", [4])
        started = list(processes._processes)
    assert not any(process.is_alive() for process in started)
