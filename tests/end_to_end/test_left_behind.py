"""What a learner that is killed while it starts its environment servers leaves behind: nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.waiting import DEADLINE_S, wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")
# What a learner does to start its servers, without the learner.
PROGRAM = """
import sys, time
from pathlib import Path
from seed.config.schema import LocalConfig
from seed.run.local_servers import LocalServers, server_command
print("starting", flush=True)
command = server_command(LocalConfig(envs_per_server=2), "tcp://127.0.0.1:9")
LocalServers(command, 2, Path(sys.argv[1]))
time.sleep(1000)
"""


def tagged(tag: str) -> list[int]:
    """Processes with this in their environment."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdecimal() and tag.encode() in (process / "environ").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue
    return found


# From before the first server is there until all have been running for a while. Python is slow to
# start, so that a kill falls into the time in which servers know nothing of anybody yet.
def test_learners_killed_at_their_start_leave_no_server(tmp_path: Path) -> None:
    tag = f"TEST_LEFT_BEHIND={tmp_path}"
    (tmp_path / "sitecustomize.py").write_text("import time; time.sleep(0.5)")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    learners = []
    try:
        for delay_s in (0.0, 0.01, 0.03, 0.1, 0.3, 0.6, 1.0, 2.5):
            learner = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(tmp_path / f"log-{delay_s}")],
                stdout=subprocess.PIPE,
                env={**os.environ, "TEST_LEFT_BEHIND": str(tmp_path), "PYTHONPATH": path},
            )  # fmt: skip
            learners.append(learner)
            assert learner.stdout is not None
            assert learner.stdout.readline() == b"starting\n"
            time.sleep(delay_s)
            learner.kill()
        wait_for(lambda: not tagged(tag))
    finally:
        for learner in learners:
            learner.kill()
            learner.communicate(timeout=DEADLINE_S)
        for pid in tagged(tag):
            os.kill(pid, signal.SIGKILL)
