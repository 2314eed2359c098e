from __future__ import annotations

import faulthandler
import math
import tempfile
import time
from typing import Any

import pytest

from envservers.supervision.shared_state import NOBODY, SharedState, StepTimer, Supervision
from seed.wire.limits import MAX_ENVS_PER_SERVER


def test_each_process_begins_anew_but_faults_stay() -> None:
    shared = SharedState()
    assert shared.exit_code is None
    shared.keep_faults_of("pong")
    shared.running[0], shared.running[1] = 63, 65_535
    shared.faults[MAX_ENVS_PER_SERVER - 1] = 5
    shared.exit_code, shared.wait_status = 0, 9
    shared.starter_ended = shared.was_made = True
    assert [*shared.running, shared.exit_code, shared.wait_status] == [63, 65_535, 0, 9]
    shared.begin()
    assert [*shared.running, shared.exit_code, shared.wait_status] == [NOBODY, NOBODY, None, None]
    assert shared.starter_ended
    assert shared.keep_faults_of("pong")
    assert shared.faults[MAX_ENVS_PER_SERVER - 1] == 5
    shared.starter_ended = False
    assert shared.was_made
    assert not shared.keep_faults_of("breakout")
    assert (shared.faults[MAX_ENVS_PER_SERVER - 1], shared.was_made) == (0, False)


def test_memory_that_is_shared_is_as_large() -> None:
    shared = SharedState.shared()
    shared.faults[MAX_ENVS_PER_SERVER - 1] = 1
    with pytest.raises(IndexError):
        shared.faults[MAX_ENVS_PER_SERVER] = 1


@pytest.mark.parametrize(("timeout_s", "interval_s"), [(0, math.inf), (1, 0.25), (300, 1)])
def test_a_step_timer_is_set_back_often_enough(timeout_s: float, interval_s: float) -> None:
    with tempfile.TemporaryFile(buffering=0) as stacks:
        timer = StepTimer(timeout_s, stacks)
        assert timer.interval_s == interval_s
        assert timer.due_s == (0 if timeout_s else math.inf)
    # Without a file there is nobody to read it.
    assert StepTimer(timeout_s).interval_s == math.inf


def test_a_step_timer_that_runs_is_armed_again_and_has_a_pulse(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    armed, shared = list[Any](), SharedState()
    monkeypatch.setattr(
        faulthandler, "dump_traceback_later", lambda *given, **named: armed.append((given, named))
    )
    with tempfile.TemporaryFile(buffering=0) as stacks:
        timer = StepTimer(300.0, stacks, shared)
        assert shared.pulse == 0
        began_s = time.monotonic()
        # The second time comes too early.
        for _ in range(2):
            timer.set_back()
        assert began_s + 1.0 <= timer.due_s <= time.monotonic() + 1.0
        first = shared.pulse
        timer.due_s = 0.0
        timer.set_back()
        assert 0 != shared.pulse != first != 0
        assert armed == [((300.0,), {"exit": True, "file": stacks})] * 2
        timer.stop()
        assert (shared.pulse, timer.due_s) == (0, math.inf)
        timer.note_late()
        stacks.seek(0)
        assert stacks.read().startswith(b"Timeout (0:05:00)!")


def test_two_servers_have_two_numbers() -> None:
    assert Supervision().server_id != Supervision().server_id
    assert not Supervision().is_abandoned()
    assert Supervision(parent=-1).is_abandoned()
