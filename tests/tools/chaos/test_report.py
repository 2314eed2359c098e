"""What counts as failed, and what a person reads."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from tools.chaos.faults import Fault
from tools.chaos.observing import Growth
from tools.chaos.report import Result, count_damaged, find_failures, make_notes, make_rows
from tools.chaos.training import Resume

KILL = Fault("kill-envserver", (0,), 0.0, 10.0, 10.0, 11.5)
CUT = Fault("cut", (1,), 0.0, 20.0, 20.0, 20.4)
GOOD = Result(
    faults=[KILL, CUT], unrolls_checked=1000, unrolls_wrong=0, unrolls_damaged=0,
    resumes=[Resume(4000, 3.0)], checkpoint_interval_s=5.0, unexpected=[], noticed_s=[18.0],
    growth=Growth(60.0, 0.5, 300.0, 12, 13), exit_code=75, env_frames=100_000, last_return=0.95,
)  # fmt: skip


def test_a_good_result_has_no_failures_and_says_all() -> None:
    assert find_failures(GOOD) == []
    text = "\n".join(make_notes(GOOD))
    for part in (
        "unrolls: 1,000 checked, 0 wrong", "most 3.0 s", "median 18.0 s", "12 then 13",
        "return: 0.95 after 100,000 frames",
    ):  # fmt: skip
        assert part in text
    rows = make_rows(GOOD.faults)
    assert rows[1:] == [
        ["kill-envserver", "1", "1", "0.0", "1.5", "1.5"], ["all", "2", "2", "0.0", "0.9", "1.5"],
    ]  # fmt: skip
    read = json.loads(json.dumps(GOOD.to_json()))
    assert (read["growth"]["open_files_last"], read["resumes"][0]["lost_s"]) == (13, 3.0)


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
