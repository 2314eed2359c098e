from __future__ import annotations

import math
import tempfile

import pytest

from envservers.supervision.shared_state import NOBODY, Notes, StepTimer, Supervision
from seed.wire.limits import MAX_ENVS_PER_SERVER


def test_notes_begin_anew_but_keep_faults() -> None:
    notes = Notes()
    assert notes.exit_code is None
    notes.keep_faults_of("pong")
    notes.running[0], notes.running[1] = 63, 65_535
    notes.faults[MAX_ENVS_PER_SERVER - 1] = 5
    notes.exit_code, notes.wait_status = 0, 9
    notes.starter_ended = True
    assert [*notes.running, notes.exit_code, notes.wait_status] == [63, 65_535, 0, 9]
    notes.begin()
    assert [*notes.running, notes.exit_code, notes.wait_status] == [NOBODY, NOBODY, None, None]
    assert notes.starter_ended
    assert notes.keep_faults_of("pong")
    assert notes.faults[MAX_ENVS_PER_SERVER - 1] == 5
    assert not notes.keep_faults_of("breakout")
    assert notes.faults[MAX_ENVS_PER_SERVER - 1] == 0


def test_notes_know_what_has_been_made() -> None:
    notes = Notes()
    notes.keep_faults_of("pong")
    assert not notes.was_made
    notes.was_made = True
    notes.begin()
    notes.keep_faults_of("pong")
    assert notes.was_made
    assert not notes.starter_ended
    notes.keep_faults_of("breakout")
    assert not notes.was_made


def test_shared_notes_are_as_large() -> None:
    notes = Notes.shared()
    notes.faults[MAX_ENVS_PER_SERVER - 1] = 1
    with pytest.raises(IndexError):
        notes.faults[MAX_ENVS_PER_SERVER] = 1


@pytest.mark.parametrize(("timeout_s", "interval_s"), [(0, math.inf), (1, 0.25), (300, 1)])
def test_a_step_timer_is_set_back_often_enough(timeout_s: float, interval_s: float) -> None:
    with tempfile.TemporaryFile(buffering=0) as stacks:
        timer = StepTimer(timeout_s, stacks)
        assert timer.interval_s == interval_s
        assert timer.due_s == (0 if timeout_s else math.inf)
    # Without a file there is nobody to read it.
    assert StepTimer(timeout_s).interval_s == math.inf


def test_a_step_timer_that_runs_has_a_pulse() -> None:
    notes = Notes()
    with tempfile.TemporaryFile(buffering=0) as stacks:
        timer = StepTimer(300.0, stacks, notes)
        assert notes.pulse == 0
        timer.set_back()
        first = notes.pulse
        timer.due_s = 0.0
        timer.set_back()
        assert 0 != notes.pulse != first != 0
        timer.stop()
        assert (notes.pulse, timer.due_s) == (0, math.inf)
        timer.note_late()
        stacks.seek(0)
        assert stacks.read().startswith(b"Timeout (0:05:00)!")


def test_two_servers_have_two_numbers() -> None:
    assert Supervision().server_id != Supervision().server_id
    assert not Supervision().is_abandoned()
    assert Supervision(parent=-1).is_abandoned()
