from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envservers.main import _parse, _work, group_sizes, main
from envservers.supervision.shared_state import Supervision
from seed import __version__
from seed.wire.keys import KeyPair, write_pair


@given(st.integers(1, 500), st.data())
def test_groups_are_as_even_as_can_be(num_envs: int, data: st.DataObject) -> None:
    groups = data.draw(st.integers(1, min(num_envs, 64)))
    sizes = group_sizes(num_envs, groups)
    assert len(sizes) == groups
    assert sum(sizes) == num_envs
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 1


@pytest.mark.parametrize(
    ("words", "reason"),
    [("--connect localhost:5000 --num-envs 1", "tcp://HOST:PORT"),
     ("--connect tcp://localhost --num-envs 1", "tcp://HOST:PORT"),
     ("--connect tcp://localhost:0 --num-envs 1", "1 to 65535"),
     ("--connect tcp://localhost:65536 --num-envs 1", "1 to 65535"),
     ("--connect tcp://*:5000 --num-envs 1", "tcp://HOST:PORT"),
     ("--connect ipc://* --num-envs 1", "ipc://PATH"),
     ("--connect ipc:///" + "a" * 107 + " --num-envs 1", "has 108 bytes"),
     ("--connect ipc:///tmp/a\x1b[2J --num-envs 1", "can be printed"),
     ("--connect tcp://a:1 --num-envs 0", "--num-envs: expected 1 to 65536, got 0"),
     ("--connect tcp://a:1 --num-envs 2 --groups 3", "expected 1 to 2"),
     ("--connect tcp://a:1 --num-envs 99 --groups 65", "expected 1 to 64"),
     ("--connect tcp://a:1 --num-envs 99 --groups 0", "got 0"),
     ("--connect tcp://a:1 --num-envs 1 --step-timeout-s -1", "0 to 1e+06"),
     ("--connect tcp://a:1 --num-envs 1 --step-timeout-s nan", "got nan"),
     ("--connect tcp://a:1 --num-envs 1 --key a", "expected both"),
     ("--connect tcp://a:1 --num-envs 1 --learner-key a", "expected both"),
     ("--num-envs 1", "--connect")],
)  # fmt: skip
def test_wrong_arguments_exit_with_2_and_a_reason(
    words: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(words.split(" "))
    assert exit_.value.code == 2
    assert reason in capsys.readouterr().err


# The socket may connect anew after an environment has changed the folder.
def test_an_address_is_of_the_folder_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = _parse(["--connect", "ipc://a b.sock", "--num-envs", "1"])
    assert arguments.connect == f"ipc://{tmp_path}/a b.sock"


def test_keys_that_cannot_be_used_exit_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret, public = write_pair(tmp_path / "worker", KeyPair.new())

    def reason(learner_key: Path) -> str:
        words = f"--connect tcp://a:1 --num-envs 1 --key {secret} --learner-key {learner_key}"
        assert _work(_parse(words.split()), Supervision()) == 2
        return capsys.readouterr().err

    assert "expected a public key, found a secret one" in reason(secret)
    secret.chmod(0o644)
    assert f"chmod 600 {secret}" in reason(public)


@pytest.mark.parametrize(
    ("code", "heavy"),
    # The program that makes an environment is small when it forks; so is the supervisor.
    [("import envservers.describer", "numpy gymnasium zmq msgpack torch"),
     ("import envservers.keys, envservers.server", "torch gymnasium ale_py"),
     ("from envservers.main import main\n"
      "try: main(['--version'])\n"
      "except SystemExit as end: assert end.code == 0", "numpy zmq msgpack gymnasium ctypes")],
)  # fmt: skip
def test_commands_load_no_more_than_they_need(code: str, heavy: str) -> None:
    code += f"\nimport sys; sys.exit(str({{*{heavy.split()}}} & {{*sys.modules}} or ''))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.stderr.strip() == ""
    assert ended.stdout == (f"seed-envserver {__version__}\n" if "main" in code else "")
