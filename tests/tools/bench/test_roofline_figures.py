"""What becomes of measurements, on a made-up machine of four cores."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tools.bench.bare_work import Kind
from tools.bench.roofline_figures import (
    IDLE,
    OTHERS,
    Real,
    Repetition,
    core_times_us,
    describe_disturbance,
    make_rows,
    phase_shares,
    summarize,
)
from tools.bench.thread_times import GROUPS, INFERENCE, LEARNER, SERVER_EMULATOR, SERVER_MAIN
from tools.bench.workers import Cost
from tools.watching import Window

NONE: frozenset[Kind] = frozenset()
GPU: frozenset[Kind] = frozenset(["acting", "learning"])
CORES = 4
TAKEN = {SERVER_EMULATOR: 1.0, SERVER_MAIN: 0.25, INFERENCE: 0.5, LEARNER: 0.75}


def _repetition(steps_per_s: float, on_gpu: frozenset[Kind] = NONE) -> Repetition:
    """The run takes 2.5 of four cores in the mean, other programs one; half a core is idle."""
    means = {"inference_batch_mean": 16.0, "inference_share_waiting": 0.25, "fps": 1.0}
    cores = {**dict.fromkeys(GROUPS, 0.0), **TAKEN, OTHERS: 1.0, IDLE: 0.5}
    costs: dict[Kind, Cost] = {
        "stepping": Cost(200.0, 150.0), "acting": Cost(100.0, 75.0), "learning": Cost(500.0, 300.0),
    }  # fmt: skip
    return Repetition(Real(Window(10.0, steps_per_s, 1.0, means), cores), costs, on_gpu)


def _rows(repetitions: Sequence[Repetition], on_gpu: frozenset[Kind]) -> dict[str, list[str]]:
    figures = {
        "summary": summarize(repetitions, CORES, frames_per_step=4),
        "core_us_per_step": core_times_us(repetitions), "phase_shares": phase_shares(repetitions),
    }  # fmt: skip
    return {label: cells for label, *cells in make_rows(figures, on_gpu)}


def test_the_roofline_is_of_all_work_and_work_of_a_gpu_costs_no_core_time() -> None:
    for on_gpu, bare_us, bare_cpu_us in ((NONE, 800, 525), (GPU, 200, 150)):
        summary = summarize([_repetition(2000.0, on_gpu)], CORES, frames_per_step=4)
        medians = {name: figure.median for name, figure in summary.items()}
        # By CPU time: of the core-microseconds that other programs left for a step.
        left_us = 1e6 * (3.5 - 0.5) / 2000
        for name, value in {
            "roofline_steps_per_s": 1e6 * CORES / bare_us, "fraction": 2000 * bare_us / 1e6 / CORES,
            "fps": 8000, "cpu_fraction": bare_cpu_us / left_us,
            "roofline_cpu_steps_per_s": 1e6 * CORES / bare_cpu_us,
            "cpu_steps_per_s": 1e6 * CORES / left_us,
        }.items():  # fmt: skip
            assert medians[name] == pytest.approx(value), name
    rows = _rows([_repetition(2000.0, GPU)], GPU)
    assert "roofline, cores / (e), steps/s" in rows
    assert rows["l: bare learning, GPU-us per step"] == ["500.0", "300.0", ""]
    repetitions = [_repetition(steps_per_s) for steps_per_s in (1000.0, 4000.0, 2000.0)]
    assert _rows(repetitions, NONE)["the run, steps/s"][0] == "2,000 (1,000–4,000)"


def test_core_times_add_up_to_all_cores_and_phases_to_their_threads_time() -> None:
    repetitions = [_repetition(2000.0)]
    times_us = core_times_us(repetitions)
    assert sum(each.median for each in times_us.values()) == pytest.approx(1e6 * CORES / 2000)
    rows = _rows(repetitions, NONE)
    of_cores = {label.partition(",")[0]: cells[1:] for label, cells in rows.items()
                if label.endswith(", core-us per step") and cells[2]}  # fmt: skip
    assert of_cores["environment servers"] == ["625.0", "31.2%"]
    assert of_cores["emulator threads"] == ["500.0", "25.0%"]
    assert of_cores["learner"] == ["375.0", "18.8%"]
    assert of_cores["all cores"] == ["2,000.0", "100.0%"]
    top = ("environment servers", INFERENCE, LEARNER, OTHERS, IDLE)
    assert sum(float(of_cores[name][1][:-1]) for name in top) == pytest.approx(100, abs=0.5)
    assert rows["inference: waiting, us per step"] == ["125.0", "", "25.0%"]
    assert list(phase_shares(repetitions)) == ["inference_share_waiting"]


def test_other_programs_are_warned_of() -> None:
    busy = _repetition(2000.0)
    assert describe_disturbance([busy])[1].startswith("other programs took up to 25% of the cores")
    quiet_cores = {**busy.real.cores, OTHERS: 0.1, IDLE: 1.4}
    quiet = busy._replace(real=busy.real._replace(cores=quiet_cores))
    assert describe_disturbance([quiet]) == []
    assert describe_disturbance([quiet, busy])
