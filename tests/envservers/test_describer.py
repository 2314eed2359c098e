"""The program that makes an environment; `tests/seed/run/test_description.py` has more of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

RUN = [sys.executable, "-c", "from envservers.describer import main; raise SystemExit(main())"]


def ask(question: dict[str, Any]) -> Any:
    """Its answer. Its input stays open meanwhile, as it is told to leave by the end of that."""
    with subprocess.Popen(RUN, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdin.write(json.dumps(question).encode() + b"\n")
        answer = program.stdout.read()
    assert program.returncode == 0
    return json.loads(answer) if answer else None


def test_answers_with_specs() -> None:
    environment = {"kind": "gymnasium", "id": "CartPole-v1", "vectorization": "async"}
    assert ask({"environment": environment, "timeout_s": 0}) == {
        "observation": {"dtype": "float32", "shape": [4], "n": None},
        "action": {"dtype": "int64", "shape": [], "n": 2},
    }


def test_answers_with_a_reason() -> None:
    environment = {"kind": "gymnasium", "id": "CartPole-v1", "vectorisation": "sync"}
    answer = ask({"environment": environment, "timeout_s": 0})
    assert answer.keys() == {"error"}
    assert "unknown option vectorisation" in answer["error"]


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
    answer = ask({"environment": environment, "timeout_s": 0})
    assert answer["error"].endswith("RuntimeError: 0 handlers were left")
