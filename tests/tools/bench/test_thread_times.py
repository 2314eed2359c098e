"""Threads are grouped by name and process; that real ones are read shows in a run of roofline."""

from __future__ import annotations

import pytest

from tools.bench.thread_times import (
    CENTRAL_IO,
    CENTRAL_OTHERS,
    GROUPS,
    INFERENCE,
    LEARNER,
    SERVER_EMULATOR,
    SERVER_IO,
    SERVER_MAIN,
    Thread,
    find_descendants,
    group_of,
    sum_groups,
)


@pytest.mark.parametrize(
    ("thread", "group"),
    [
        (Thread(1, 1, "python"), CENTRAL_OTHERS),
        (Thread(1, 5, "pt_autograd_0"), CENTRAL_OTHERS),
        (Thread(1, 2, "inference"), INFERENCE),
        (Thread(1, 3, "learner"), LEARNER),
        (Thread(1, 4, "ZMQbg/IO/0"), CENTRAL_IO),
        (Thread(9, 9, "python"), SERVER_MAIN),
        (Thread(9, 10, "python"), SERVER_EMULATOR),
        (Thread(9, 11, "ZMQbg/Reaper"), SERVER_IO),
    ],
)
def test_threads_have_groups(thread: Thread, group: str) -> None:
    assert group in GROUPS
    assert group_of(thread, learner_pid=1) == group


def test_groups_add_up_what_came_between_two_readings() -> None:
    before = {Thread(1, 2, "learner"): 5.0, Thread(9, 9, "python"): 1.0, Thread(1, 8, "old"): 3.0}
    after = {
        Thread(1, 2, "learner"): 7.0, Thread(9, 9, "python"): 1.5, Thread(8, 8, "python"): 0.25,
    }  # fmt: skip
    assert sum_groups(before, after, learner_pid=1) == {
        **dict.fromkeys(GROUPS, 0.0), LEARNER: 2.0, SERVER_MAIN: 0.75,
    }  # fmt: skip
    assert find_descendants(2, {1: 0, 2: 1, 3: 2, 4: 3, 5: 1, 6: 5}) == [2, 3, 4]
