"""The program that makes an environment; `tests/seed/run/test_description.py` has more of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

RUN = [sys.executable, "-c", "from envservers.describer import main; raise SystemExit(main())"]


def test_says_nothing_to_nobody() -> None:
    question = {"environment": {"kind": "gymnasium", "id": "CartPole-v1"}, "timeout_s": 0}
    finished = subprocess.run(
        RUN, input=json.dumps(question) + "\n", capture_output=True, text=True, check=True
    )
    assert (finished.stdout, finished.stderr) == ("", "")


def make_forking() -> None:
    """Forks, as environments do that have helpers; raises what the helper has found."""
    pid = os.fork()
    if not pid:
        numbers = (signal.SIGTERM, signal.SIGINT)
        os._exit(sum(signal.getsignal(number) != signal.SIG_DFL for number in numbers))
    raise RuntimeError(f"{os.waitpid(pid, 0)[1]} handlers were left")


def test_signals_end_what_an_environment_forks() -> None:
    environment = {"kind": "function", "id": f"{__name__}:make_forking"}
    # Its input stays open meanwhile, as it is told to leave by the end of that.
    with subprocess.Popen(RUN, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        question = {"environment": environment, "timeout_s": 0}
        program.stdin.write(json.dumps(question).encode() + b"\n")
        answer = json.loads(program.stdout.read())
    assert program.returncode == 0
    assert answer["error"].endswith("RuntimeError: 0 handlers were left")
