"""What becomes of measurements, on a made-up machine of four cores."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tools.bench.bare_work import Kind
from tools.bench.processes import Window
from tools.bench.roofline_figures import (
    IDLE,
    OTHERS,
    Real,
    Repetition,
    core_times_us,
    describe_disturbance,
    format_core_times,
    format_phases,
    format_summary,
    phase_shares,
    summarize,
)
from tools.bench.thread_times import GROUPS, INFERENCE, LEARNER, SERVER_EMULATOR, SERVER_MAIN
from tools.bench.workers import Cost

NONE: frozenset[Kind] = frozenset()
GPU: frozenset[Kind] = frozenset(["acting", "learning"])
CORES = 4
TAKEN = {SERVER_EMULATOR: 1.0, SERVER_MAIN: 0.25, INFERENCE: 0.5, LEARNER: 0.75}


def _repetition(steps_per_s: float, on_gpu: frozenset[Kind] = NONE) -> Repetition:
    """Two of four cores are free for the run in the mean: it takes 2.5, half a core is idle."""
    means = {"inference_batch_mean": 16.0, "inference_share_waiting": 0.25, "fps": 1.0}
    cores = {**dict.fromkeys(GROUPS, 0.0), **TAKEN, OTHERS: 1.0, IDLE: 0.5}
    costs: dict[Kind, Cost] = {
        "stepping": Cost(200.0, 150.0), "acting": Cost(100.0, 75.0), "learning": Cost(500.0, 300.0),
    }  # fmt: skip
    return Repetition(Real(Window(10.0, steps_per_s, 1.0, means), cores), costs, on_gpu)


def _cells(table: str, label: str) -> Sequence[str]:
    return next(line.split() for line in table.splitlines() if line.strip().startswith(label))


def test_the_roofline_is_of_all_work() -> None:
    summary = summarize([_repetition(2000.0)], CORES, frames_per_step=4)
    medians = {name: figure.median for name, figure in summary.items()}
    assert medians["roofline_steps_per_s"] == pytest.approx(CORES / 800e-6)
    assert medians["fraction"] == pytest.approx(2000 / (CORES / 800e-6))
    assert medians["fps"] == 8000
    # By CPU time: 525 of the core-microseconds that other programs left for a step.
    left_us = 1e6 * (3.5 - 0.5) / 2000
    assert medians["cpu_fraction"] == pytest.approx(525 / left_us)
    assert medians["roofline_cpu_steps_per_s"] == pytest.approx(CORES / 525e-6)
    assert medians["cpu_steps_per_s"] == pytest.approx(CORES / left_us * 1e6)


def test_work_of_a_gpu_costs_no_core_time() -> None:
    summary = summarize([_repetition(2000.0, GPU)], CORES, frames_per_step=4)
    assert summary["roofline_steps_per_s"].median == pytest.approx(CORES / 200e-6)
    assert summary["cpu_fraction"].median == pytest.approx(150 / 1500)
    table = format_summary(summary, GPU)
    assert "roofline, cores / (e), steps/s" in table
    assert "l: bare learning, GPU-us per step" in table


def test_repetitions_become_a_median_and_a_range() -> None:
    repetitions = [_repetition(steps_per_s) for steps_per_s in (1000.0, 4000.0, 2000.0)]
    steps = summarize(repetitions, CORES, 1)["steps_per_s"]
    assert (steps.median, steps.low, steps.high) == (2000, 1000, 4000)


def test_core_times_add_up_to_all_cores() -> None:
    repetitions = [_repetition(2000.0)]
    times_us = core_times_us(repetitions)
    assert sum(each.median for each in times_us.values()) == pytest.approx(1e6 * CORES / 2000)
    table = format_core_times(times_us, summarize(repetitions, CORES, 4), NONE)
    assert _cells(table, "environment servers")[2:] == ["625.0", "31.2%", "150.0"]
    assert _cells(table, "emulator threads")[2:] == ["500.0", "25.0%"]
    assert _cells(table, "learner")[1:] == ["375.0", "18.8%", "300.0"]
    assert _cells(table, "all cores")[2:] == ["2,000.0", "100.0%", "525.0"]
    labels = ("environment servers", "inference", "learner", "central", "other", "idle")
    shares = [
        float(cell.rstrip("%"))
        for line in table.splitlines()
        if line.startswith(labels)
        for cell in line.split()
        if cell.endswith("%")
    ]
    assert sum(shares) == pytest.approx(100, abs=0.5)


def test_work_of_a_gpu_does_not_stand_beside_core_times() -> None:
    repetitions = [_repetition(2000.0, GPU)]
    summary = summarize(repetitions, CORES, 4)
    table = format_core_times(core_times_us(repetitions), summary, GPU)
    assert _cells(table, "learner")[1:] == ["375.0", "18.8%"]
    assert _cells(table, "all cores")[2:] == ["2,000.0", "100.0%", "150.0"]


def test_phases_are_times_of_their_threads() -> None:
    shares = phase_shares([_repetition(2000.0)])
    assert list(shares) == ["inference_share_waiting"]
    table = format_phases(shares, 500.0)
    assert _cells(table, "inference: waiting") == ["inference:", "waiting", "25.0%", "125.0"]


def test_other_programs_are_warned_of() -> None:
    busy = _repetition(2000.0)
    assert describe_disturbance([busy]).startswith("other programs took up to 25% of the cores")
    quiet_cores = {**busy.real.cores, OTHERS: 0.1, IDLE: 1.4}
    quiet = busy._replace(real=busy.real._replace(cores=quiet_cores))
    assert describe_disturbance([quiet]) == ""
    assert describe_disturbance([quiet, busy])
