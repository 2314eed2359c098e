"""What counts as failed, and what a person reads."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from tools.chaos.faults import Fault
from tools.chaos.report import (
    Course,
    Result,
    count_damaged,
    find_failures,
    make_course,
    to_figures,
    to_text,
)
from tools.chaos.training import Resume

KILL = Fault("kill-envserver", (0,), 0.0, 10.0, 10.0, 11.5)
CUT = Fault("cut", (1,), 0.0, 20.0, 20.0, 20.4)
GOOD = Result(
    faults=[KILL, CUT], unrolls_checked=1000, unrolls_wrong=0, unrolls_damaged=0,
    resumes=[Resume(4000, 3.0)], checkpoint_interval_s=5.0, restarts={-9: 1}, unexpected=[],
    noticed_s=[18.0], growth=None, exit_code=75,
    course=Course(60.0, 100_000, 0.95, 40_000), undisturbed=Course(50.0, 100_000, 0.97, 38_000),
)  # fmt: skip


def test_a_good_result_has_no_failures_and_says_all() -> None:
    assert find_failures(GOOD) == []
    text = to_text(GOOD)
    for part in (
        "unrolls: 1,000 checked, 0 wrong", "1 with -9", "most 3.0 s", "median 18.0 s",
        "under faults: return 0.95", "undisturbed: return 0.97",
        "0.9 reached after 38,000 frames",
    ):  # fmt: skip
        assert part in text
    rows = [line.split() for line in text.splitlines()]
    assert ["kill-envserver", "1", "1", "0.0", "1.5", "1.5"] in rows
    assert ["all", "2", "2", "0.9", "1.5"] in rows
    assert json.loads(json.dumps(to_figures(GOOD)))["failures"] == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"unrolls_wrong": 2}, "2 unrolls were wrong"),
        ({"unrolls_checked": 0}, "no unroll was checked"),
        ({"unexpected": ["seed-learner ended"]}, "seed-learner ended"),
        ({"exit_code": 1}, "exit code 1, expected 75"),
        ({"resumes": [Resume(9000, 9.0)]}, "went back 9.0 s"),
        ({"faults": [dataclasses.replace(CUT, recovered_s=None)]}, "cut of environment servers 1"),
    ],
)
def test_what_must_not_happen_is_said(change: dict[str, Any], said: str) -> None:
    (failure,) = find_failures(dataclasses.replace(GOOD, **change))
    assert said in failure


def test_only_unrolls_next_to_a_flipped_bit_are_damaged() -> None:
    wrong = [{"server": 0, "made_s": 10.0}, {"server": 0, "made_s": 50.0},
             {"server": 1, "made_s": 10.0}]  # fmt: skip
    assert count_damaged(wrong, [[11.0], []]) == 1


def test_the_course_says_when_the_return_was_good_first() -> None:
    course = make_course(9.0, [(100, 0.2), (200, 0.92), (300, 0.5), (400, 0.95)], 450)
    assert course == Course(9.0, 450, 0.95, 200)
    assert make_course(1.0, [], 10) == Course(1.0, 10, None, None)
