"""What is said of a training under faults: figures, a table, and whether that is good enough."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tools.chaos.chaos import RECOVERY_LIMIT_S
from tools.chaos.faults import Fault
from tools.chaos.observing import Growth, Line, growth
from tools.chaos.training import Resume, Training

# After its start a learner grows for other reasons.
_WARM_UP_S = 30.0
# A flipped bit spoils rows that were made about then.
_SPOILED_S = 5.0
# Beyond a checkpoint interval: the time that a checkpoint takes, and a line of metrics.
_SAVING_S = 2.0
_EXIT_ASKED_TO_END = 75


@dataclass(frozen=True)
class Result:
    """All that is known of a training under faults.

    Damaged unrolls, not among the wrong ones, are of an environment server some of whose bits had
    just been flipped. `noticed_s` are the times until an end of a connection noticed that the other
    was gone, `unexpected` the ends of the learner that were no fault's.
    """

    faults: Sequence[Fault]
    unrolls_checked: int
    unrolls_wrong: int
    unrolls_damaged: int
    resumes: Sequence[Resume]
    checkpoint_interval_s: float
    unexpected: Sequence[str]
    noticed_s: Sequence[float]
    growth: Growth | None
    exit_code: int | None
    env_frames: int
    last_return: float | None

    def to_json(self) -> dict[str, Any]:
        """All figures, as JSON takes them."""
        growth = self.growth._asdict() if self.growth is not None else None
        resumes = [resume._asdict() for resume in self.resumes]
        return {**dataclasses.asdict(self), "growth": growth, "resumes": resumes}


def read_result(training: Training, faults: Sequence[Fault], exit_code: int | None) -> Result:
    """What is known of a training that had these faults; its learner has ended with `exit_code`."""
    links = [server.link for server in training.servers]
    wrong = training.wrong()
    flipped_s = [[at_s - training.start_s for at_s in link.flipped_s] for link in links]
    damaged = count_damaged(wrong, flipped_s)
    return Result(
        faults=faults,
        unrolls_checked=training.unrolls_checked,
        unrolls_wrong=len(wrong) - damaged,
        unrolls_damaged=damaged,
        resumes=training.resumes,
        checkpoint_interval_s=training.setup.checkpoint_interval_s,
        unexpected=training.unexpected,
        noticed_s=[seconds for link in links for seconds in link.noticed_s],
        growth=growth(training.samples, _WARM_UP_S),
        exit_code=exit_code,
        env_frames=training.env_frames,
        last_return=training.last_return,
    )


def count_damaged(wrong: Sequence[Line], flipped_s: Sequence[Sequence[float]]) -> int:
    """How many of these wrong unrolls a bit explains that was flipped at a time of their server."""
    return sum(
        any(abs(unroll["made_s"] - at_s) <= _SPOILED_S for at_s in flipped_s[unroll["server"]])
        for unroll in wrong
    )


def find_failures(result: Result) -> list[str]:
    """What must not have happened, in plain words; empty where all is well."""
    failures = list(result.unexpected)
    if result.unrolls_wrong:
        failures.append(f"{result.unrolls_wrong} unrolls were wrong")
    if not result.unrolls_checked:
        failures.append("no unroll was checked")
    failures += [
        f"no recovery within {RECOVERY_LIMIT_S:g} s: {fault.kind} of environment servers "
        f"{', '.join(map(str, fault.servers))} at {fault.began_s:.1f} s"
        for fault in result.faults
        if fault.time_to_recover_s is None
    ]
    failures += [
        f"a killed learner's successor went back {resume.lost_s:.1f} s, with a checkpoint every "
        f"{result.checkpoint_interval_s:g} s"
        for resume in result.resumes
        if resume.lost_s > result.checkpoint_interval_s + _SAVING_S
    ]
    if result.exit_code != _EXIT_ASKED_TO_END:
        failures.append(
            f"the learner ended with exit code {result.exit_code}, expected {_EXIT_ASKED_TO_END}"
        )
    return failures


HEADER = ("fault", "injected", "recovered", "lasted s", "to recover s", "most s")


def make_rows(faults: Sequence[Fault]) -> list[list[str]]:
    """The cells of each kind, and of all."""
    kinds = sorted({fault.kind for fault in faults})
    rows = [_row(kind, [fault for fault in faults if fault.kind == kind]) for kind in kinds]
    return [*rows, _row("all", faults)]


def _row(name: str, faults: Sequence[Fault]) -> list[str]:
    times_s = [f.time_to_recover_s for f in faults if f.time_to_recover_s is not None]
    lasted_s = [f.ended_s - f.began_s for f in faults if f.ended_s is not None]
    medians = [f"{statistics.median(each):.1f}" if each else "-" for each in (lasted_s, times_s)]
    most = f"{max(times_s):.1f}" if times_s else "-"
    return [name, str(len(faults)), str(len(times_s)), *medians, most]


def make_notes(result: Result) -> list[str]:
    """What a person wants to know besides."""
    notes = [
        f"unrolls: {result.unrolls_checked:,} checked, {result.unrolls_wrong} wrong, "
        f"{result.unrolls_damaged} damaged by flipped bits"
    ]
    if result.resumes:
        lost_s = [resume.lost_s for resume in result.resumes]
        notes.append(
            f"learner resumed {len(lost_s)} times; training lost: {_median_and_most(lost_s)} (a "
            f"checkpoint every {result.checkpoint_interval_s:g} s)"
        )
    if result.noticed_s:
        notes.append(f"a lost peer was noticed after: {_median_and_most(result.noticed_s)}")
    if result.growth is not None:
        notes.append(result.growth.text())
    last = "none" if result.last_return is None else f"{result.last_return:.2f}"
    return [*notes, f"return: {last} after {result.env_frames:,} frames"]


def _median_and_most(times_s: Sequence[float]) -> str:
    return f"median {statistics.median(times_s):.1f} s, most {max(times_s):.1f} s"
