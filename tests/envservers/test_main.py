from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envservers.main import _parse, group_sizes, main
from seed import __version__
from seed.wire.keys import KeyPair, write_pair


@settings(deadline=None)
@given(st.integers(1, 500), st.data())
def test_groups_are_as_even_as_can_be(num_envs: int, data: st.DataObject) -> None:
    groups = data.draw(st.integers(1, min(num_envs, 64)))
    sizes = group_sizes(num_envs, groups)
    assert len(sizes) == groups
    assert sum(sizes) == num_envs
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [(["--connect", "localhost:5000", "--num-envs", "1"], "tcp://HOST:PORT"),
     (["--connect", "tcp://localhost", "--num-envs", "1"], "tcp://HOST:PORT"),
     (["--connect", "tcp://localhost:0", "--num-envs", "1"], "1 to 65535"),
     (["--connect", "tcp://localhost:65536", "--num-envs", "1"], "1 to 65535"),
     (["--connect", "tcp://*:5000", "--num-envs", "1"], "tcp://HOST:PORT"),
     (["--connect", "ipc://*", "--num-envs", "1"], "ipc://PATH"),
     (["--connect", "ipc:///" + "a" * 107, "--num-envs", "1"], "has 108 bytes"),
     (["--connect", "ipc:///tmp/a\x1b[2J", "--num-envs", "1"], "can be printed"),
     (["--connect", "tcp://a:1", "--num-envs", "0"], "--num-envs: expected 1 to 65536, got 0"),
     (["--connect", "tcp://a:1", "--num-envs", "2", "--groups", "3"], "expected 1 to 2"),
     (["--connect", "tcp://a:1", "--num-envs", "99", "--groups", "65"], "expected 1 to 64"),
     (["--connect", "tcp://a:1", "--num-envs", "99", "--groups", "0"], "got 0"),
     (["--connect", "tcp://a:1", "--num-envs", "1", "--step-timeout-s", "-1"], "0 to 1e+06"),
     (["--connect", "tcp://a:1", "--num-envs", "1", "--step-timeout-s", "nan"], "got nan"),
     (["--connect", "tcp://a:1", "--num-envs", "1", "--key", "a"], "expected both"),
     (["--connect", "tcp://a:1", "--num-envs", "1", "--learner-key", "a"], "expected both"),
     (["--num-envs", "1"], "--connect")],
)  # fmt: skip
def test_wrong_arguments_exit_with_2_and_a_reason(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert reason in capsys.readouterr().err


# The socket may connect anew after an environment has changed the folder.
def test_an_address_is_of_the_folder_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = _parse(["--connect", "ipc://a b.sock", "--num-envs", "1"])
    assert arguments.connect == f"ipc://{tmp_path}/a b.sock"


def test_keys_that_cannot_be_used_exit_with_2(tmp_path: Path) -> None:
    secret, public = write_pair(tmp_path / "worker", KeyPair.new())

    def reason(learner_key: Path) -> str:
        arguments = ["--connect", "tcp://a:1", "--num-envs", "1", "--key", str(secret)]
        command = [sys.executable, "-m", "envservers.main", *arguments]
        ended = subprocess.run(
            [*command, "--learner-key", str(learner_key)],
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert ended.returncode == 2
        return ended.stderr

    assert "expected a public key, found a secret one" in reason(secret)
    secret.chmod(0o644)
    assert f"chmod 600 {secret}" in reason(public)


def test_help_loads_neither_environments_nor_torch() -> None:
    code = (
        "import sys, envservers.main, envservers.server\n"
        "heavy = {'torch', 'gymnasium', 'ale_py'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_supervisor_loads_next_to_nothing() -> None:
    code = (
        "import sys, envservers.main\n"
        "try: envservers.main.main(['--version'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'numpy', 'zmq', 'msgpack', 'gymnasium', 'ctypes'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == f"seed-envserver {__version__}\n"
