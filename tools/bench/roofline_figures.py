"""What `tools.bench.roofline` makes of its measurements: the roofline, and tables.

Every figure comes in two kinds. By the clock: what the machine did, with all programs that ran on
it. By CPU time: bare work and run are counted in the core time that other programs left them, which
says the same on a quiet machine, and still something on a busy one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from tools.bench.bare_work import Kind
from tools.bench.thread_times import GROUPS, SERVER_GROUPS
from tools.bench.workers import Cost
from tools.report import Spread, spread
from tools.watching import Window

IDLE, OTHERS, SERVERS = "idle", "other programs", "environment servers"
LETTERS: dict[Kind, str] = {"stepping": "e", "acting": "i", "learning": "l"}
# Of the cores, from which on figures by the clock say more of other programs than of the run.
_DISTURBING_SHARE = 0.05
_PHASES = ("inference_share_", "learner_share_")


class Real(NamedTuple):
    """The real run's metrics, and the cores taken in the mean by each group of `core_times_us`."""

    window: Window
    cores: dict[str, float]

    def core_us(self, group: str) -> float:
        """Returns the core-microseconds of a group per step of the run."""
        return 1e6 * self.cores[group] / self.window.steps_per_s


class Repetition(NamedTuple):
    """A real run and the bare work measured right after it; a GPU's work costs no core time."""

    real: Real
    costs: dict[Kind, Cost]
    on_gpu: frozenset[Kind]

    @property
    def bare_us(self) -> float:
        """Core-microseconds by the clock of all bare work for one step."""
        return sum(cost.core_us for kind, cost in self.costs.items() if kind not in self.on_gpu)

    @property
    def bare_cpu_us(self) -> float:
        """The same, by CPU time."""
        return sum(cost.cpu_us for kind, cost in self.costs.items() if kind not in self.on_gpu)

    @property
    def all_us(self) -> float:
        """Core-microseconds of all cores per step of the run."""
        return sum(map(self.real.core_us, self.real.cores))

    @property
    def left_us(self) -> float:
        """The same, without what other programs took."""
        return self.all_us - self.real.core_us(OTHERS)


def summarize(
    repetitions: Sequence[Repetition], cores: int, frames_per_step: int
) -> dict[str, Spread]:
    """Returns the figures to quote, by name: medians over the repetitions and their range."""

    def over_all(figure: Callable[[Repetition], float]) -> Spread:
        """Spread of a figure over the repetitions."""
        return spread([figure(each) for each in repetitions])

    costs = {}
    for kind, letter in LETTERS.items():
        costs[f"{letter}_us"] = spread([each.costs[kind].core_us for each in repetitions])
        costs[f"{letter}_cpu_us"] = spread([each.costs[kind].cpu_us for each in repetitions])
    return {
        **costs,
        "inference_batch": over_all(lambda each: each.real.window.means["inference_batch_mean"]),
        "roofline_steps_per_s": over_all(lambda each: 1e6 * cores / each.bare_us),
        "roofline_cpu_steps_per_s": over_all(lambda each: 1e6 * cores / each.bare_cpu_us),
        "steps_per_s": over_all(lambda each: each.real.window.steps_per_s),
        "cpu_steps_per_s": over_all(lambda each: 1e6 * cores / each.left_us),
        "fps": over_all(lambda each: frames_per_step * each.real.window.steps_per_s),
        "cpu_fps": over_all(lambda each: frames_per_step * 1e6 * cores / each.left_us),
        "fraction": over_all(
            lambda each: each.real.window.steps_per_s * each.bare_us / (1e6 * cores)
        ),
        "cpu_fraction": over_all(lambda each: each.bare_cpu_us / each.left_us),
    }


def core_times_us(repetitions: Sequence[Repetition]) -> dict[str, Spread]:
    """Returns where core time went, in core-microseconds per step of the run, by group."""
    return {
        group: spread([each.real.core_us(group) for each in repetitions])
        for group in repetitions[0].real.cores
    }


def phase_shares(repetitions: Sequence[Repetition]) -> dict[str, Spread]:
    """Returns the shares of time that threads spent in each phase, by name of the metric."""
    names = {name for each in repetitions for name in each.real.window.means}
    return {
        name: spread([each.real.window.means.get(name, 0.0) for each in repetitions])
        for name in sorted(names)
        if name.startswith(_PHASES)
    }


HEADER = ("median (low–high)", "by the clock", "by CPU time", "share")


def make_rows(figures: Mapping[str, Any], on_gpu: frozenset[Kind]) -> list[list[str]]:
    """Returns the table's cells: the roofline, the run, its core time, its threads' phases."""
    summary: Mapping[str, Spread] = figures["summary"]
    return [
        *_summary_rows(summary, on_gpu),
        *_core_time_rows(figures["core_us_per_step"]),
        *_phase_rows(figures["phase_shares"], 1e6 / summary["steps_per_s"].median),
    ]


def _summary_rows(summary: Mapping[str, Spread], on_gpu: frozenset[Kind]) -> list[list[str]]:
    """What was measured, and what the roofline is."""
    batch = summary["inference_batch"].text("{:,.1f}")
    works = {"e": "bare step", "i": f"bare acting, batch {batch}", "l": "bare learning"}
    rows = []
    for kind, letter in LETTERS.items():
        times = [summary[f"{letter}_us"], summary[f"{letter}_cpu_us"]]
        unit = "GPU-us" if kind in on_gpu else "core-us"
        label = f"{letter}: {works[letter]}, {unit} per step"
        rows.append([label, *(time.text("{:,.1f}") for time in times), ""])
    terms = " + ".join(letter for kind, letter in LETTERS.items() if kind not in on_gpu)
    for label, name, cpu_name, form in (
        (f"roofline, cores / ({terms}), steps/s", "roofline_steps_per_s",
         "roofline_cpu_steps_per_s", "{:,.0f}"),
        ("the run, steps/s", "steps_per_s", "cpu_steps_per_s", "{:,.0f}"),
        ("the run, frames/s", "fps", "cpu_fps", "{:,.0f}"),
        ("fraction of the roofline", "fraction", "cpu_fraction", "{:.3f}"),
    ):  # fmt: skip
        rows.append([label, summary[name].text(form), summary[cpu_name].text(form), ""])
    return rows


def _core_time_rows(times_us: Mapping[str, Spread]) -> list[list[str]]:
    """Core time per step, and its share of all cores."""
    medians_us = {group: each.median for group, each in times_us.items()}
    all_us = sum(medians_us.values())
    medians_us[SERVERS] = sum(medians_us[group] for group in SERVER_GROUPS)
    medians_us["all cores"] = all_us
    groups = (SERVERS, *GROUPS, IDLE, OTHERS, "all cores")
    return [
        [f"{group}, core-us per step", "", f"{medians_us[group]:,.1f}",
         f"{medians_us[group] / all_us:.1%}"]
        for group in groups
    ]  # fmt: skip


def _phase_rows(shares: Mapping[str, Spread], step_us: float) -> list[list[str]]:
    """What the threads of the central process did with their time, of which a step has so much."""
    rows = []
    for name, share in shares.items():
        thread, _, phase = name.partition("_share_")
        label = f"{thread}: {phase}, us per step"
        rows.append([label, f"{share.median * step_us:,.1f}", "", f"{share.median:.1%}"])
    return rows


def describe_disturbance(repetitions: Sequence[Repetition]) -> list[str]:
    """Returns a warning where other programs took much of the cores, or nothing."""
    share = max(each.real.core_us(OTHERS) / each.all_us for each in repetitions)
    if share <= _DISTURBING_SHARE:
        return []
    return [
        "",
        f"other programs took up to {share:.0%} of the cores beside the run: only the figures by "
        "CPU time can be compared, and idle time is less than it would be",
    ]
