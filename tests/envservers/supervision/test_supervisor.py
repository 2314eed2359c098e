"""Real processes: the supervisor, and what it does about the one that it has started."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest

from tests.envservers.supervision.conftest import Run
from tests.waiting import is_running, wait_for

NOTE_REQUESTS = "signal.signal(signal.SIGTERM, lambda *_, log=log: log.write(' asked\\n'))\n"


def test_what_was_running_is_handed_to_the_next_process(run: Run) -> None:
    supervised = run(
        "if lives < 4: shared.running[0] = 3; shared.running[1] = 2 if lives < 3 else -1\n"
        "shared.faults[7] += 1\n"
        "if lives == 1: os._exit(0)\n"
        "if lives == 2: os.kill(os.getpid(), signal.SIGSEGV)\n"
        "if lives == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "if lives == 4: os._exit(1)\n"
        "shared.exit_code = shared.faults[7]"
    )
    code, errors = supervised.end()
    assert code == 5
    assert supervised.deaths() == [
        "None", "crashed 3 2", "crashed 3 2", "crashed 3 None", "crashed None None"
    ]  # fmt: skip
    text = supervised.log.read_text()
    for reason in ("ended with exit code 0", "ended by SIGSEGV", "ended by SIGKILL",
                   "Fatal Python error: Segmentation fault"):  # fmt: skip
        assert reason in text
        assert reason in errors
    assert "its process crashed in environment 2 of group 3" in errors
    assert "its process crashed between two steps" in errors
    assert len({line.split()[0] for line in supervised.lines()}) == 5
    assert len({line.split()[1] for line in supervised.lines()}) == 1


def test_one_that_makes_way_is_followed_at_once_and_not_counted(run: Run) -> None:
    supervised = run(
        "if lives == 1: os._exit(3)\n"
        "if lives < 8: shared.renewing = True\n"
        "if lives == 4: os._exit(0)"
    )
    code, errors = supervised.end()
    assert code == 0
    assert supervised.deaths() == ["None", "crashed None None", *["None"] * 6]
    assert errors.count("is started again") == 1


def test_what_closes_for_ever_is_ended(run: Run) -> None:
    supervised = run(
        "supervision.step_timer.set_back()\n"
        "shared.running[0] = 3; shared.ending = True\n"
        "if lives == 2: shared.exit_code = 76\n"
        "supervision.step_timer.stop()\n"
        "time.sleep(1000)",
        step_timeout_s=0.5, close_s=1.0,
    )  # fmt: skip
    # What it has chosen is passed on.
    assert supervised.end()[0] == 76
    assert supervised.deaths() == ["None", "was killed None None"]
    # The step timer, which would have come first, was off.
    assert "Timeout" not in supervised.log.read_text()


def test_what_holds_the_interpreter_for_ever_is_ended(run: Run) -> None:
    # The lock is never handed over: nothing in Python would run again.
    supervised = run(
        "if lives == 1:\n"
        "    shared.running[0] = 0; shared.running[1] = 5\n"
        "    supervision.step_timer.set_back()\n"
        "    sys.setswitchinterval(1000)\n"
        "    sum(iter(int, 1))\n"
        "shared.exit_code = 0"
    )
    code, _ = supervised.end()
    assert code == 0
    assert supervised.deaths() == ["None", "hung 0 5"]
    assert "Timeout (0:00:01)!" in supervised.log.read_text()


@pytest.mark.parametrize(
    "act", ["os.kill(os.getpid(), signal.SIGSTOP)", "os.execv('/bin/sleep', ['sleep', '1000'])"]
)
def test_one_that_stops_its_process_or_makes_another_program_of_it_has_hung(
    run: Run, act: str
) -> None:
    supervised = run(
        "if lives == 1:\n"
        "    shared.running[0] = 0; shared.running[1] = 5\n"
        "    supervision.step_timer.set_back()\n"
        f"    {act}\n"
        "shared.exit_code = 0",
        grace_s=0.0,
    )
    assert supervised.end()[0] == 0
    assert supervised.deaths() == ["None", "hung 0 5"]
    assert "does nothing at all" in supervised.log.read_text()


# Nor does it count as one more end in a row, after which the next process would have to wait.
def test_what_was_stopped_from_outside_has_not_hung(run: Run) -> None:
    supervised = run(
        "shared.running[0] = 0; shared.running[1] = 5\n"
        "if lives == 1: os._exit(3)\n"
        "if lives == 2:\n"
        "    supervision.step_timer.set_back()\n"
        "    os.killpg(0, signal.SIGSTOP)\n"
        "    time.sleep(1000)\n"
        "shared.exit_code = 0",
        stopped_s=3.5,
        step_timeout_s=3.0,
        jitter=1000.0,
    )
    os.waitpid(supervised.process.pid, os.WUNTRACED)
    time.sleep(4.0)
    os.killpg(supervised.process.pid, signal.SIGCONT)
    code, errors = supervised.end()
    assert code == 0
    assert supervised.deaths() == ["None", "crashed 0 5", "stopped None None"]
    assert "its process stopped for longer than a step may take" in errors


def test_it_gives_up_what_ends_again_and_again_without_a_reason(run: Run) -> None:
    supervised = run("raise RuntimeError('it fell over')")
    code, errors = supervised.end()
    assert code == 1
    assert len(supervised.lines()) == 5
    assert "RuntimeError: it fell over" in errors
    assert "too often" in errors


def test_a_request_while_nothing_runs_ends_it(run: Run) -> None:
    supervised = run("os._exit(3)", jitter=1000.0)
    supervised.pid(1)
    time.sleep(0.1)
    supervised.process.send_signal(signal.SIGTERM)
    assert supervised.end()[0] == 0
    assert len(supervised.lines()) == 2


def test_nothing_is_started_where_who_started_it_has_ended_already(run: Run) -> None:
    starter = subprocess.Popen(["true"])
    starter.wait()
    supervised = run("", once=True, starter=starter.pid)
    assert (supervised.end()[0], supervised.lines()) == (0, [])


def test_a_request_that_comes_twice_is_one(run: Run) -> None:
    supervised = run(
        NOTE_REQUESTS + "log.write(' ready\\n')\n"
        "while not os.path.exists(sys.argv[1] + '.end'): time.sleep(0.005)\n"
        "shared.exit_code = 0"
    )
    supervised.wait_until_said("ready")
    # From a terminal it comes to all processes, some of which know nothing of signals.
    os.killpg(supervised.process.pid, signal.SIGINT)
    supervised.wait_until_said("asked")
    supervised.process.send_signal(signal.SIGTERM)
    supervised.log.with_name("log.end").touch()
    code, errors = supervised.end()
    assert code == 0
    assert "Traceback" not in errors
    assert supervised.log.read_text().count(" asked") == 1


def test_a_second_request_does_not_wait_for_anything(run: Run) -> None:
    supervised = run(NOTE_REQUESTS + "log.write(' ready\\n'); time.sleep(1000)", same_request_s=0.0)
    pid = supervised.pid()
    supervised.wait_until_said("ready")
    supervised.process.send_signal(signal.SIGTERM)
    supervised.wait_until_said("asked")
    assert is_running(pid)
    supervised.process.send_signal(signal.SIGTERM)
    assert supervised.end()[0] == -signal.SIGTERM
    wait_for(lambda: not is_running(pid))
