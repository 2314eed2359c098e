"""Real child processes: restarted when they end, given up when they keep ending, always gone."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal
from unittest.mock import Mock

import pytest

from seed.config.schema import Config, InferenceConfig, LocalConfig
from seed.run.local_servers import LocalServerError, LocalServers, server_command, server_count
from seed.run.server_log import ServerOutput
from seed.wire.terminal import printable
from tests.waiting import DEADLINE_S, is_running, wait_for

# Appends its process id to a file, then does what the second argument says.
PROGRAM = """
import os, signal, sys, time
def note(text):
    with open(sys.argv[1], "a") as file:
        file.write(text + "\\n")
if sys.argv[2] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(0.05)
group = f"{os.getpgid(0)} {os.getsid(0)} {os.nice(0)}"
note(f"{os.getpid()} {os.environ['OMP_NUM_THREADS']} {group}")
if sys.argv[2].isdigit():
    sys.exit(int(sys.argv[2]))
time.sleep(1000)
"""


def start(log: Path, behaviour: str, count: int = 1) -> LocalServers:
    log.touch()
    servers = LocalServers([sys.executable, "-c", PROGRAM, str(log), behaviour], count)
    # Those that end by themselves are asked to while they work.
    wait_for(lambda: behaviour == "0" or len(pids(log)) == count)
    return servers


def pids(log: Path) -> list[int]:
    return [int(line.split()[0]) for line in log.read_text().splitlines()]


def check_until(
    servers: LocalServers, condition: Callable[[], bool], *, connected: bool = False
) -> None:
    def checked() -> bool:
        servers.check(connected=connected)
        return condition()

    wait_for(checked)


# Those that end by themselves are waited for.
@pytest.mark.parametrize(
    ("behaviour", "count", "timeout_s"),
    [("sleep", 2, 0.1), ("stubborn", 2, 0.1), ("0", 1, DEADLINE_S), ("none", 0, 0.1)],
)
def test_stop_leaves_no_process(
    tmp_path: Path, behaviour: str, count: int, timeout_s: float
) -> None:
    log = tmp_path / "log"
    servers = start(log, behaviour, count)
    servers.check(connected=True)
    servers.stop(timeout_s)
    assert len(set(pids(log))) == count
    assert not any(is_running(pid) for pid in pids(log))


def test_a_server_has_one_numeric_thread_and_its_own_group_and_is_started_again(
    tmp_path: Path,
) -> None:
    log = tmp_path / "log"
    servers = start(log, "sleep", count=2)
    try:
        for line in log.read_text().splitlines():
            pid, threads, group, session, niceness = line.split()
            assert threads == "1"
            # Ctrl-C in a terminal must not reach them before the learner.
            assert group == pid
            # Within one session alone, Linux may weigh their lower priority.
            assert int(session) == os.getsid(0)
            assert int(niceness) == min(os.nice(0) + 10, 19)
        os.kill(pids(log)[0], signal.SIGKILL)
        check_until(servers, lambda: len(pids(log)) == 3)
        assert is_running(pids(log)[1])
    finally:
        servers.stop(timeout_s=0.1)


class Scripted(LocalServers):
    """Servers on a clock that a test moves; each start has its length and its end in a script."""

    # Seconds until it ends, None for never, and its status; or why it cannot be started. What has
    # ended is seen half a second later.
    Life = tuple[float | None, int] | OSError

    def __init__(self, patch: pytest.MonkeyPatch, lives: Iterator[Life], count: int = 1) -> None:
        self.now_s = 1000.0
        self.started_s: list[float] = []
        self._lives = lives
        patch.setattr(time, "monotonic", lambda: self.now_s)
        patch.setattr("seed.run.local_servers._yield_to_learner", lambda pid: None)
        super().__init__([], count)

    def _popen(self, output: ServerOutput | None) -> subprocess.Popen[bytes]:
        self.started_s.append(self.now_s - 1000.0)
        life = next(self._lives)
        if isinstance(life, OSError):
            raise life
        begun_s, (length_s, status) = self.now_s, life
        process = Mock(spec=subprocess.Popen, pid=0)
        process.poll = lambda: (
            None if length_s is None or self.now_s < begun_s + length_s else status
        )
        return process

    def live(self, seconds: float, *, connected: bool = False) -> str:
        """So much time passes, in half seconds; returns what it has ended with."""
        for _ in range(int(2 * seconds)):
            try:
                self.check(connected=connected)
            except LocalServerError as error:
                return str(error)
            self.now_s += 0.5
        return ""


NO_FILE = OSError(errno.EMFILE, "Too many open files")
LEFT = "no local environment server is left, and no other one is connected: its reason is above"
REFUSED = "a local environment server ended with exit code 2: its reason is above"


@pytest.mark.parametrize(
    ("lives", "connected", "starts_s", "error"),
    [
        # It keeps ending, or says that it is over; nobody for a moment is no error.
        ([(0.0, 3)] * 5, False, [0, 0, 1.5, 4, 8.5], LEFT),
        ([(0.0, 1)], False, [0], LEFT),
        ([(0.0, 3)] * 5, True, [0, 0, 1.5, 4, 8.5], ""),
        ([(0.0, 1)], True, [0], ""),
        # A server is connected from HELLO on, before it finds out that it has no environment.
        ([(0.5, 2)], False, [0], REFUSED),
        ([(9.0, 2)], True, [0], REFUSED),
        # Environments that have run may be refused later.
        ([(11.0, 2)], True, [0], ""),
        # Whoever is killed from outside, or ran for long, is started again for ever.
        ([(0.0, -9)] * 9, False, [0, 0, 1.5, 4, 8.5, 13, 17.5, 22], ""),
        ([(0.0, -15)] * 9, False, [0, 0, 1.5, 4, 8.5, 13, 17.5, 22], ""),
        ([(0.0, -11)] * 5, False, [0, 0, 1.5, 4, 8.5], LEFT),
        ([(6.0, 3)] * 5, False, [0, 6, 13, 21], ""),
        ([(30.0, 3)] * 2, False, [0], ""),
        # A system without room for a process is asked again.
        ([NO_FILE, NO_FILE, (None, 0)], False, [0, 0, 1], ""),
        ([NO_FILE] * 5, False, [0, 0, 1, 3, 7], LEFT),
    ],
)
def test_a_server_that_ends_is_started_again_or_given_up(
    monkeypatch: pytest.MonkeyPatch, lives: list[Scripted.Life], connected: bool,
    starts_s: list[float], error: str,
) -> None:  # fmt: skip
    servers = Scripted(monkeypatch, iter(lives))
    assert servers.live(25.5, connected=connected) == error
    assert servers.started_s == starts_s
    if not error and len(lives) == len(starts_s) and lives[-1] in ((0.0, 3), (0.0, 1), (11.0, 2)):
        # Those of others were enough, until they left.
        assert servers.live(9.5) == ""
        assert servers.live(1) == LEFT


@pytest.mark.parametrize(
    ("lives", "starts_s"),
    [
        # One that ran for long ends for the first time again; one that is left is enough.
        ([(30.0, 3)] * 9, [0, 30, 60, 90, 120, 150, 180]),
        ([(0.0, 1), (None, 0)], [0, 0]),
    ],
)
def test_some_servers_go_on_for_ever(
    monkeypatch: pytest.MonkeyPatch, lives: list[Scripted.Life], starts_s: list[float]
) -> None:
    servers = Scripted(monkeypatch, iter(lives), count=1 if len(lives) == 9 else 2)
    assert servers.live(200) == ""
    assert servers.started_s == starts_s


def test_ends_and_restarts_are_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Scripted(monkeypatch, iter([(0.0, -15), NO_FILE, (0.0, 3), (0.0, 1)])).live(25)
    one = "a local environment server"
    assert caplog.messages == [
        f"{one} ended by SIGTERM; restarting",
        f"{one} cannot be started: [Errno 24] Too many open files; restarting in 1 s",
        f"{one} ended with exit code 3; restarting in 2 s",
        f"{one} ended with exit code 1 and is not started again: its reason is above",
    ]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seed.run.local_servers._NOBODY_S", 0.0)
    monkeypatch.setattr("seed.run.local_servers._DELAYS_S", (0.0,) * 4)


@pytest.mark.parametrize(
    ("printed", "quoted"),
    [("one\nseed-envserver: no such game\n\n", "no such game"), ("", "it said nothing"),
     ("\x1b[2Jbad\x07\u202e\n", "\\x1b[2Jbad\\x07\\u202e"),
     ("#" * 100_000 + "the end", "#" * 1696 + "the end")],
)  # fmt: skip
def test_the_last_words_of_a_server_are_quoted(tmp_path: Path, printed: str, quoted: str) -> None:
    log_file = tmp_path / "servers.log"
    code = "import sys; sys.stderr.write(sys.argv[1]); sys.exit(2)"
    servers = LocalServers([sys.executable, "-c", code, printed], 1, log_file)
    with pytest.raises(LocalServerError) as refused:
        check_until(servers, lambda: False)
    servers.stop(timeout_s=DEADLINE_S)
    expected = f"exit code 2: {quoted} (more in {log_file})"
    assert str(refused.value) == f"a local environment server ended with {expected}"
    assert log_file.read_text().replace("\n", "") == printable(printed.replace("\n", ""))


@pytest.mark.usefixtures("impatient")
def test_of_several_servers_the_one_that_ended_is_quoted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    program = (
        "import os, sys, time\n"
        "try: os.mkdir(sys.argv[1])\n"
        "except OSError: print('another one', flush=True); time.sleep(1000)\n"
        "while not os.path.exists(sys.argv[1] + '.end'): time.sleep(0.01)\n"
        "sys.exit('its own reason')"
    )
    log_file = tmp_path / "log"
    command = [sys.executable, "-c", program, str(tmp_path / "folder")]
    servers = LocalServers(command, 2, log_file)
    try:
        check_until(servers, lambda: log_file.exists() and "another" in log_file.read_text())
        (tmp_path / "folder.end").touch()
        check_until(servers, lambda: bool(caplog.messages))
    finally:
        servers.stop(timeout_s=0.1)
    assert f"not started again: its own reason (more in {log_file})" in caplog.text


def test_a_log_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    program = "import sys, time; print('#' * 500_000, flush=True); open(sys.argv[1], 'w'); " \
        "time.sleep(1000)"  # fmt: skip
    printed = tmp_path / "printed"
    command = [sys.executable, "-c", program, str(printed)]
    servers = LocalServers(command, 1, tmp_path / "no such folder" / "log")
    try:
        check_until(servers, printed.exists)
    finally:
        servers.stop(timeout_s=0.3)


def test_what_a_killed_server_has_started_is_waited_for(tmp_path: Path) -> None:
    """Its output is open as long as one of them lives."""
    log_file, log = tmp_path / "log", tmp_path / "pids"
    program = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "parent = os.getpid()\n"
        "if not os.fork():\n"
        "    with open(sys.argv[1], 'w') as file: file.write(f'{os.getpid()} ')\n"
        "    while os.getppid() == parent: time.sleep(0.01)\n"
        "    time.sleep(0.3); os.write(1, b'its last'); os._exit(0)\n"
        "time.sleep(1000)"
    )
    log.touch()
    servers = LocalServers([sys.executable, "-c", program, str(log)], 1, log_file)
    wait_for(lambda: log.read_text().endswith(" "))
    servers.stop(timeout_s=0.0)
    assert log_file.read_text() == "its last\n"


# Appended over restarts to a log; without one it goes to standard error.
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("logged", [True, False])
def test_what_servers_print_is_never_on_standard_output(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], logged: bool
) -> None:
    log_file = tmp_path / "servers.log"
    log_file.write_text("of an earlier start\n")
    command = [sys.executable, "-c", "print('printed', flush=True); raise SystemExit(3)"]
    servers = LocalServers(command, 1, log_file if logged else None)
    with pytest.raises(LocalServerError, match="printed" if logged else "its reason is above"):
        check_until(servers, lambda: False)
    servers.stop(timeout_s=DEADLINE_S)
    assert log_file.read_text() == "of an earlier start\n" + 5 * "printed\n" * logged
    assert capfd.readouterr() == ("", 5 * "printed\n" * (not logged))


@pytest.mark.parametrize(
    ("count", "cores", "max_envs", "expected"),
    [(3, 1, 24, 3), (0, 1, 1, 0), ("auto", 1, 64, 1), ("auto", 5, 64, 5), ("auto", 8, 64, 8),
     ("auto", 9, 24, 3)],
)  # fmt: skip
def test_the_count_is_what_was_asked_for_or_one_for_each_core(
    monkeypatch: pytest.MonkeyPatch, count: int | Literal["auto"], cores: int, max_envs: int,
    expected: int,
) -> None:  # fmt: skip
    monkeypatch.setattr("seed.run.local_servers.usable_cores", lambda: cores)
    config = Config(
        local_envservers=count, local=LocalConfig(envs_per_server=8),
        inference=InferenceConfig(max_envs=max_envs),
    )  # fmt: skip
    assert server_count(config) == expected


def test_the_command_names_address_and_environments_and_keys_are_inherited(
    tmp_path: Path,
) -> None:
    """Each of two servers reads the whole of each file, wherever another has left off."""
    config = LocalConfig(envs_per_server=6, groups_per_server=3)
    command = server_command(config, "tcp://h:1")
    assert command[:2] == [sys.executable, "-P"]
    assert "from envservers.main import main" in command[3]
    for option, value in {
        "--connect": "tcp://h:1", "--num-envs": "6", "--groups": "3", "--step-timeout-s": "300.0",
    }.items():  # fmt: skip
        assert command[command.index(option) + 1] == value
    file = os.memfd_create("key")
    os.write(file, b"secret")
    path = f"/dev/fd/{file}"
    with_keys = server_command(config, "tcp://h:1", (file, file))
    assert with_keys == [*command, "--key", path, "--learner-key", path]
    code = "import sys, time; print(open(sys.argv[1]).read(), flush=True); time.sleep(1000)"
    log_file = tmp_path / "log"
    servers = LocalServers([sys.executable, "-c", code, path], 2, log_file, key_files=(file,))
    try:
        check_until(servers, lambda: log_file.read_text() == "secret\nsecret\n")
    finally:
        servers.stop(timeout_s=0.0)
        os.close(file)
