"""Threads are found, told apart and added up."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from seed.process.threads import ThreadGroup
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
    parse_stat,
    read_busy_s,
    read_threads,
    sum_groups,
)


def _burn(cpu_s: float) -> None:
    until_s = time.thread_time() + cpu_s
    while time.thread_time() < until_s:
        pass


def test_a_name_may_hold_anything() -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    fields = "S 7 1 1 0 -1 4194560 10 0 0 0 300 20 5 5 20 0"
    stat = parse_stat(f"42 (a) S (b) {fields}")
    assert stat == ("a) S (b", 7, 320 / ticks)


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


def test_descendants_of_descendants_are_found() -> None:
    assert find_descendants(2, {1: 0, 2: 1, 3: 2, 4: 3, 5: 1, 6: 5}) == [2, 3, 4]


def test_groups_add_up_what_came_between_two_readings() -> None:
    before = {Thread(1, 2, "learner"): 5.0, Thread(9, 9, "python"): 1.0, Thread(1, 8, "old"): 3.0}
    after = {
        Thread(1, 2, "learner"): 7.0, Thread(9, 9, "python"): 1.5, Thread(8, 8, "python"): 0.25,
    }  # fmt: skip
    assert sum_groups(before, after, learner_pid=1) == {
        **dict.fromkeys(GROUPS, 0.0), LEARNER: 2.0, SERVER_MAIN: 0.75,
    }  # fmt: skip


def test_a_thread_of_a_thread_group_is_read_by_its_name() -> None:
    threads = ThreadGroup()

    def work() -> None:
        _burn(0.1)
        threads.stop.wait(300)

    threads.start("learner", work)
    while not sum_groups({}, read_threads(os.getpid()), os.getpid())[LEARNER] >= 0.05:
        time.sleep(0.01)
    threads.join()


def test_a_process_started_by_this_one_is_read() -> None:
    code = "sum(range(2_000_000)); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        times_s = {t: cpu_s for t, cpu_s in read_threads(os.getpid()).items() if t.pid == child.pid}
        child.communicate(b"\n")
    assert [thread.tid for thread in times_s] == [child.pid]
    assert sum(times_s.values()) > 0


def test_work_makes_cores_busy() -> None:
    before_s = read_busy_s()
    _burn(0.3)
    assert read_busy_s() - before_s > 0.1
