"""Bare work runs in several processes at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.bench.bare_work import Pace, Task
from tools.bench.workers import Workers, cost_of
from tools.processes import ProcessFailed

CATCH = str(Path(__file__).parents[3] / "configs" / "catch_vtrace.toml")


def test_the_cost_is_of_all_processes_together() -> None:
    # 100 and 300 steps per second on two cores; 3 CPU seconds for 700 steps.
    cost = cost_of([Pace(100, 1.0, 1.0), Pace(600, 2.0, 2.0)])
    assert cost.core_us == pytest.approx(1e6 * 2 / 400)
    assert cost.cpu_us == pytest.approx(1e6 * 3 / 700)


def test_processes_measure_one_task_after_another(capfd: pytest.CaptureFixture[str]) -> None:
    with Workers(2, [CATCH]) as workers:
        for processes in (None, 1):
            assert workers.measure(Task("stepping", 0.05), processes).core_us > 0
        with pytest.raises(ProcessFailed, match="bare acting failed; its reason is above"):
            workers.measure(Task("acting", 0.05, batch=-1))
        started = list(workers._processes)
    assert not any(process.is_alive() for process in started)
    assert "negative dimensions" in capfd.readouterr().err
