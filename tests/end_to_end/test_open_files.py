"""A learner under a low limit of open files: it says so, keeps whom it has, and recovers."""

from __future__ import annotations

import contextlib
import re
import resource
import socket
import sys
from pathlib import Path

import pytest

from tests.end_to_end.commands import Start, read_metrics, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs prlimit and socket filters")
_REFUSES = "no more environment servers can connect"
_LIMIT = 400


def test_near_the_limit_the_fleet_goes_on_and_nobody_else_is_let_in(
    start: Start, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    served = start(
        "seed-learner", "configs/catch_vtrace.toml", "--run-dir", run_dir, "--local-envservers", 0,
        "--inference.address", "tcp://127.0.0.1:*", "--total-env-frames", 10**9,
        "--inference.max-envs", 1024, "--log-interval-s", 0.1,
    )  # fmt: skip
    # From its first moment.
    resource.prlimit(served.process.pid, resource.RLIMIT_NOFILE, (300, _LIMIT))
    address = re.search(r"tcp://127\.0\.0\.1:(\d+)", served.wait_for("listening on"))
    assert address is not None
    limits = resource.prlimit(served.process.pid, resource.RLIMIT_NOFILE)
    assert limits == (_LIMIT, _LIMIT), "it is raised as far as it may go"
    served.wait_for(f"at most {_LIMIT - 64} environment servers can connect")
    start("seed-envserver", "--connect", address.group(), "--num-envs", 8, "--name", "first")
    served.wait_for("first connected")
    with contextlib.ExitStack() as strangers:

        def connect_some() -> bool:
            """A few more of them at a time: a burst could be over before the learner looks.

            For each that is cut for its silence, there is another one.
            """
            for _ in range(8):
                stranger = strangers.enter_context(socket.socket())
                stranger.setblocking(False)
                stranger.connect_ex(("127.0.0.1", int(address[1])))
            return _REFUSES in served.text

        wait_until(connect_some)
        frames = read_metrics(run_dir)[-1]["env_frames"]
        wait_until(lambda: read_metrics(run_dir)[-1]["env_frames"] > frames)
    served.wait_for("environment servers can connect again")
    start("seed-envserver", "--connect", address.group(), "--num-envs", 8, "--name", "second")
    served.wait_for("second connected")
    assert "first left" not in served.text
