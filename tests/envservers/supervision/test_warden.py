"""Nothing that an environment has started outlives its environment server, whoever is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from envservers.supervision.shared_state import StepTimer, Supervision
from envservers.supervision.warden import _PulseWatch
from tests.envservers.supervision.conftest import Run, Supervised
from tests.waiting import DEADLINE_S, wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the system does not know how")


def grow(run: Run, code: str = "time.sleep(1000)", **options: float) -> Supervised:
    """An environment server whose environment has helpers."""
    tree = run(f"start_helpers(supervision, log)\n{code}", close_s=0.5, **options)
    tree.find_processes()
    return tree


ALL = "supervisor warden worker"


@pytest.mark.parametrize(
    ("started", "deeds"),
    [(False, {"supervisor": signal.SIGKILL}), (False, {"supervisor worker": signal.SIGKILL}),
     (False, {"worker": signal.SIGKILL}), (False, {"warden": signal.SIGKILL}),
     (False, {"worker warden": signal.SIGKILL}), (False, {"group": signal.SIGTERM}),
     (False, {"group": signal.SIGHUP}), (False, {"group": signal.SIGQUIT}),
     (True, {"starter": signal.SIGKILL}),
     (True, {ALL: signal.SIGSTOP, "supervisor": signal.SIGKILL}),
     (True, {ALL: signal.SIGSTOP, "starter": signal.SIGKILL})],
)  # fmt: skip
def test_what_helps_an_environment_ends_whatever_is_done(
    run: Run, started: bool, deeds: dict[str, signal.Signals]
) -> None:
    tree = grow(run, started=started, once=started)
    supervisor = tree.pid_of["supervisor"]
    for names, number in deeds.items():
        for name in names.split():
            if name == "group":
                os.killpg(supervisor, number)
            else:
                os.kill(tree.pid_of[name], number)
    # Another process is started where the supervisor is left, and has helpers of its own.
    spared = deeds.keys() <= {"worker", "warden", "worker warden"}
    wait_for(lambda: tree.left() == ({supervisor} if spared else set()))


# Who touches the terminal from the background would stop it.
TOUCHES = (
    "assert signal.SIG_IGN == signal.getsignal(signal.SIGTTIN) == signal.getsignal(signal.SIGTTOU)"
)


@pytest.mark.parametrize("code", ["pass", "os._exit(7)"])
def test_what_helps_an_environment_ends_with_its_server(run: Run, code: str) -> None:
    tree = grow(run, f"{TOUCHES}\nsupervision.shared.exit_code = 7; {code}")
    assert tree.end()[0] == 7
    assert not tree.left()


def test_a_server_ends_though_its_environment_ignores_everything(run: Run) -> None:
    code = "signal.signal(signal.SIGTERM, signal.SIG_IGN); log.write(' deaf\\n'); time.sleep(1000)"
    tree = grow(run, code)
    tree.wait_until_said("deaf")
    os.kill(tree.pid_of["supervisor"], signal.SIGTERM)
    assert tree.end()[0] == 0
    assert not tree.left()


def test_a_process_without_a_pulse_is_found_late() -> None:
    supervision = Supervision(step_timer=StepTimer(10.0))
    watch, now_s, found = _PulseWatch(supervision), 100.0, []
    # Before the step timer runs; while it is set back; after a stop of all processes; then silence.
    silence = [(2, 1e6), *[(2, 1.0)] * 12]
    for pulse, passed_s in [*[(0, 1.0)] * 30, *[(1, 1.0), (2, 1.0)] * 15, *silence]:
        now_s += passed_s
        supervision.shared.pulse = pulse
        found.append(watch.is_late(now_s))
    assert found == [False] * (len(found) - 2) + [True] * 2
    # Without a step timeout, nobody is.
    watch = _PulseWatch(Supervision(shared=supervision.shared))
    assert not any(watch.is_late(now_s) for now_s in range(10_000))


def test_who_comes_back_twice_from_an_environment_goes_on_once() -> None:
    program = (
        "import os\n"
        "from envservers.environments.fault_tracker import FaultTracker\n"
        "from envservers.supervision.processes import forget_signals_in_forks\n"
        "from envservers.supervision.shared_state import Supervision\n"
        "forget_signals_in_forks()\n"
        "tracker = FaultTracker(Supervision(), 0, 0, 1, whole=True)\n"
        "for come_back in (lambda: tracker.enter(0), lambda: tracker.start(0), tracker.end_step,\n"
        "                  lambda: tracker.fail(0, ValueError())):\n"
        "    os.fork(); come_back(); print('here', flush=True)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert result.stdout == "here\n" * 4


def test_without_once_a_server_goes_on_without_who_started_it(run: Run) -> None:
    tree = grow(run, started=True)
    tree.process.kill()
    tree.process.wait(DEADLINE_S)
    stat = Path(f"/proc/{tree.pid_of['supervisor']}/stat")
    wait_for(lambda: stat.read_text().split()[3] != str(tree.process.pid))
    assert tree.left() == tree.all


def test_a_forked_helper_obeys_a_request_to_stop() -> None:
    """As `multiprocessing` sends it, though the environment server has its own way with it."""
    program = (
        "import os, signal, time\n"
        "from multiprocessing import get_context\n"
        "from envservers.supervision.processes import forget_signals_in_forks\n"
        "signal.signal(signal.SIGTERM, lambda *_: None)\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "forget_signals_in_forks()\n"
        "for number in (signal.SIGTERM, signal.SIGINT):\n"
        "    helper = get_context('fork').Process(target=time.sleep, args=(1000,))\n"
        "    helper.start(); os.kill(helper.pid, number); helper.join()\n"
        "    assert helper.exitcode == -number\n"
        "assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=DEADLINE_S)
