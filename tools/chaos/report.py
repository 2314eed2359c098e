"""What is said of a training under faults: figures, text, and whether that is good enough."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tools.bench.report import format_table
from tools.chaos.chaos import RECOVERY_LIMIT_S
from tools.chaos.faults import Fault
from tools.chaos.observing import Growth, Line, growth
from tools.chaos.training import Resume, Training

GOOD_RETURN = 0.9
# After its start a learner grows for other reasons.
_WARM_UP_S = 30.0
# A flipped bit spoils rows that were made about then.
_SPOILED_S = 5.0
# Beyond a checkpoint interval: the time that a checkpoint takes, and a line of metrics.
_SAVING_S = 2.0


@dataclass(frozen=True)
class Course:
    """How far a training came.

    Attributes:
        seconds: How long it took.
        env_frames: Frames in its last line of metrics.
        last_return: Mean return of its last 100 episodes; None where there was none.
        good_frames: Frames after which that first was at least `GOOD_RETURN`; None for never.
    """

    seconds: float
    env_frames: int
    last_return: float | None
    good_frames: int | None


@dataclass(frozen=True)
class Result:
    """All that is known of a training under faults.

    Attributes:
        faults: In the order in which they began.
        unrolls_checked: By all learners.
        unrolls_wrong: Of those.
        unrolls_damaged: Wrong ones of an environment server some of whose bits had just been
            flipped; not among `unrolls_wrong`.
        resumes: What each killed learner's successor lost.
        checkpoint_interval_s: The most that it may.
        restarts: Environment servers started anew, by the exit code of the one before.
        unexpected: Ends of the learner that were no fault's.
        noticed_s: Seconds until an end of a connection noticed that the other was gone.
        growth: Of the learner's memory and files.
        exit_code: The learner's, when it was asked to end.
        course: Of the training.
        undisturbed: Of the same training without faults, where there was one.
    """

    faults: Sequence[Fault]
    unrolls_checked: int
    unrolls_wrong: int
    unrolls_damaged: int
    resumes: Sequence[Resume]
    checkpoint_interval_s: float
    restarts: dict[int, int]
    unexpected: Sequence[str]
    noticed_s: Sequence[float]
    growth: Growth | None
    exit_code: int | None
    course: Course
    undisturbed: Course | None = None


def read_result(training: Training, faults: Sequence[Fault], exit_code: int | None) -> Result:
    """What is known of a training that had these faults.

    Args:
        training: Its learner has been stopped.
        faults: In the order in which they began.
        exit_code: The learner's.
    """
    links = [server.link for server in training.servers]
    wrong = training.wrong()
    flipped_s = [[at_s - training.start_s for at_s in link.flipped_s] for link in links]
    damaged = count_damaged(wrong, flipped_s)
    return Result(
        faults=faults,
        unrolls_checked=training.unrolls(),
        unrolls_wrong=len(wrong) - damaged,
        unrolls_damaged=damaged,
        resumes=training.resumes,
        checkpoint_interval_s=training.setup.checkpoint_interval_s,
        restarts=dict(training.restarts),
        unexpected=training.unexpected,
        noticed_s=[seconds for link in links for seconds in link.noticed_s],
        growth=growth(training.samples, _WARM_UP_S),
        exit_code=exit_code,
        course=read_course(training),
    )


def read_course(training: Training) -> Course:
    """How far this training has come by now."""
    return make_course(training.now_s(), training.returns, training.env_frames)


def make_course(seconds: float, returns: Sequence[tuple[int, float]], env_frames: int) -> Course:
    """From the frames and returns of the lines of metrics."""
    good = (frames for frames, mean in returns if mean >= GOOD_RETURN)
    return Course(seconds, env_frames, returns[-1][1] if returns else None, next(good, None))


def count_damaged(wrong: Sequence[Line], flipped_s: Sequence[Sequence[float]]) -> int:
    """How many of these wrong unrolls a flipped bit explains.

    Args:
        wrong: As the learner's log has them.
        flipped_s: When bits were flipped, by environment server; seconds since the start.
    """
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
    if result.exit_code != 75:
        failures.append(f"the learner ended with exit code {result.exit_code}, expected 75")
    return failures


def to_text(result: Result) -> str:
    """The report as a person reads it."""
    lines = [format_faults(result.faults), ""]
    lines.append(
        f"unrolls: {result.unrolls_checked:,} checked, {result.unrolls_wrong} wrong"
        + (f", {result.unrolls_damaged} damaged by flipped bits" if result.unrolls_damaged else "")
    )
    ends = ", ".join(f"{count} with {code}" for code, count in sorted(result.restarts.items()))
    lines.append(f"environment servers started anew, by exit code: {ends or 'none'}")
    if result.resumes:
        lost = [resume.lost_s for resume in result.resumes]
        lines.append(
            f"learner resumed {len(lost)} times; training lost: median "
            f"{statistics.median(lost):.1f} s, most {max(lost):.1f} s (a checkpoint every "
            f"{result.checkpoint_interval_s:g} s)"
        )
    if result.noticed_s:
        lines.append(
            f"a lost peer was noticed after: median {statistics.median(result.noticed_s):.1f} s, "
            f"most {max(result.noticed_s):.1f} s"
        )
    lines += [*_growth_lines(result.growth), *_course_lines(result)]
    return "\n".join(lines)


def format_faults(faults: Sequence[Fault]) -> str:
    """A table with a row for each kind."""
    rows = []
    for kind in sorted({fault.kind for fault in faults}):
        of_kind = [fault for fault in faults if fault.kind == kind]
        times = [f.time_to_recover_s for f in of_kind if f.time_to_recover_s is not None]
        lasted = [f.ended_s - f.began_s for f in of_kind if f.ended_s is not None]
        rows.append((
            kind, str(len(of_kind)), str(len(times)),
            f"{statistics.median(lasted):.1f}" if lasted else "-",
            f"{statistics.median(times):.1f}" if times else "-",
            f"{max(times):.1f}" if times else "-",
        ))  # fmt: skip
    times = [f.time_to_recover_s for f in faults if f.time_to_recover_s is not None]
    rows.append((
        "all", str(len(faults)), str(len(times)), "",
        f"{statistics.median(times):.1f}" if times else "-",
        f"{max(times):.1f}" if times else "-",
    ))  # fmt: skip
    header = ("fault", "injected", "recovered", "lasted s", "to recover s", "most s")
    return format_table(header, rows)


def _growth_lines(growth: Growth | None) -> list[str]:
    if growth is None:
        return []
    return [
        f"learner's memory: {growth.memory_mib:.0f} MiB, {growth.memory_mib_per_min:+.2f} MiB a "
        f"minute over its last {growth.seconds:.0f} s; open files: {growth.open_files_first} then "
        f"{growth.open_files_last}"
    ]


def _course_lines(result: Result) -> list[str]:
    lines = []
    for name, course in (("under faults", result.course), ("undisturbed", result.undisturbed)):
        if course is None:
            continue
        last = "none" if course.last_return is None else f"{course.last_return:.2f}"
        good = "never" if course.good_frames is None else f"after {course.good_frames:,} frames"
        lines.append(
            f"{name}: return {last} after {course.env_frames:,} frames in {course.seconds:.0f} s; "
            f"{GOOD_RETURN} reached {good}"
        )
    return lines


def to_figures(result: Result) -> dict[str, Any]:
    """The report for `--json`."""
    growth = result.growth._asdict() if result.growth is not None else None
    return {
        **dataclasses.asdict(result),
        "growth": growth,
        "resumes": [resume._asdict() for resume in result.resumes],
        "failures": find_failures(result),
    }
