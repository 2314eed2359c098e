"""Real child processes: restarted when they end, given up when they keep ending, always gone."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from seed.config.schema import Config, ConfigError, InferenceConfig, LocalConfig
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
    return LocalServers([sys.executable, "-c", PROGRAM, str(log), behaviour], count)


def pids(log: Path) -> list[int]:
    return [int(line.split()[0]) for line in log.read_text().splitlines()]


def check_until(
    servers: LocalServers, condition: Callable[[], bool], *, connected: bool = False
) -> None:
    def checked() -> bool:
        servers.check(connected=connected)
        return condition()

    wait_for(checked)


@pytest.mark.parametrize("behaviour", ["sleep", "stubborn"])
def test_stop_leaves_no_process(tmp_path: Path, behaviour: str) -> None:
    log = tmp_path / "log"
    servers = start(log, behaviour, count=2)
    wait_for(lambda: len(pids(log)) == 2)
    servers.check(connected=False)
    servers.stop(timeout_s=0.5)
    assert len(set(pids(log))) == 2
    assert not any(is_running(pid) for pid in pids(log))


def test_stop_lets_servers_leave_by_themselves(tmp_path: Path) -> None:
    log = tmp_path / "log"
    servers = start(log, "0")
    servers.stop(timeout_s=DEADLINE_S)
    assert len(pids(log)) == 1
    assert not is_running(pids(log)[0])


def test_no_servers_are_fine() -> None:
    servers = LocalServers(["/nonexistent"], 0)
    servers.check(connected=False)
    servers.stop(timeout_s=0.3)


def test_servers_have_one_numeric_thread_and_a_process_group_of_their_own(tmp_path: Path) -> None:
    log = tmp_path / "log"
    servers = start(log, "sleep")
    wait_for(lambda: len(pids(log)) == 1)
    pid, threads, group, session, niceness = log.read_text().split()
    servers.stop(timeout_s=0.3)
    assert threads == "1"
    # Ctrl-C in a terminal must not reach them before the learner.
    assert group == pid
    # Within one session alone, Linux may weigh their lower priority.
    assert int(session) == os.getsid(0)
    assert int(niceness) == min(os.nice(0) + 10, 19)


def test_a_server_that_was_killed_is_started_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    servers = start(log, "sleep", count=2)
    try:
        wait_for(lambda: len(pids(log)) == 2)
        os.kill(pids(log)[0], signal.SIGKILL)
        check_until(servers, lambda: len(pids(log)) == 3)
        assert is_running(pids(log)[1])
    finally:
        servers.stop(timeout_s=0.3)
    assert not any(is_running(pid) for pid in pids(log))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seed.run.local_servers._NOBODY_S", 0.0)
    monkeypatch.setattr("seed.run.local_servers._DELAYS_S", (0.0,) * 4)


@pytest.mark.parametrize(("code", "starts"), [("3", 5), ("1", 1)])
@pytest.mark.usefixtures("impatient")
def test_a_server_that_keeps_ending_or_says_so_is_given_up(
    tmp_path: Path, code: str, starts: int
) -> None:
    log = tmp_path / "log"
    servers = start(log, code)
    with pytest.raises(LocalServerError, match="no local environment server is left"):
        check_until(servers, lambda: False)
    servers.stop(timeout_s=DEADLINE_S)
    assert len(pids(log)) == starts


@pytest.mark.usefixtures("impatient")
def test_without_local_servers_others_are_enough(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = tmp_path / "log"
    servers = start(log, "1", count=2)
    check_until(servers, lambda: len(caplog.messages) == 2, connected=True)
    assert caplog.messages == 2 * [
        "a local environment server ended with exit code 1 and is not started again: "
        "its reason is above"
    ]
    servers.check(connected=True)
    with pytest.raises(LocalServerError, match="no other one is connected: its reason is above"):
        check_until(servers, lambda: False)
    servers.stop(timeout_s=DEADLINE_S)


@pytest.mark.usefixtures("impatient")
def test_one_local_server_that_is_left_is_enough(tmp_path: Path) -> None:
    log = tmp_path / "log"
    program = (
        "import os, sys\ntry: os.mkdir(sys.argv[1] + '.d')\nexcept OSError: sys.exit(1)\n" + PROGRAM
    )
    log.touch()
    servers = LocalServers([sys.executable, "-c", program, str(log), "sleep"], 2)
    check_until(servers, lambda: sum(server.given_up for server in servers._servers) == 1)
    for _ in range(3):
        servers.check(connected=False)
    servers.stop(timeout_s=0.3)


def test_nobody_for_a_moment_is_no_error(tmp_path: Path) -> None:
    log = tmp_path / "log"
    servers = start(log, "1")
    check_until(servers, lambda: servers._servers[0].given_up)
    servers.check(connected=False)
    servers.stop(timeout_s=0.3)


# A server is connected from HELLO on, before it finds out that it has no such environment.
@pytest.mark.parametrize("connected", [False, True])
def test_a_refused_environment_is_given_up_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, connected: bool
) -> None:
    monkeypatch.setattr("seed.run.local_servers._PROVEN_S", DEADLINE_S)
    log = tmp_path / "log"
    servers = start(log, "2")
    with pytest.raises(LocalServerError, match="exit code 2"):
        check_until(servers, lambda: False, connected=connected)
    servers.stop(timeout_s=DEADLINE_S)
    assert len(pids(log)) == 1


@pytest.mark.usefixtures("impatient")
def test_an_environment_that_has_run_may_be_refused_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("seed.run.local_servers._PROVEN_S", 0.0)
    servers = start(tmp_path / "log", "2")
    check_until(servers, lambda: servers._servers[0].given_up, connected=True)
    assert "exit code 2 and is not started again" in caplog.text
    with pytest.raises(LocalServerError, match="no local environment server is left"):
        check_until(servers, lambda: False)
    servers.stop(timeout_s=DEADLINE_S)


def test_restarts_come_later_and_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("seed.run.local_servers._DELAYS_S", (0.0, 1e6))
    log = tmp_path / "log"
    servers = start(log, "3")
    check_until(servers, lambda: len(caplog.messages) == 2)
    assert [message.split("; ")[1] for message in caplog.messages] == [
        "restarting", "restarting in 1e+06 s"
    ]  # fmt: skip
    for _ in range(3):
        servers.check(connected=False)
    assert servers._servers[0].process is None
    servers._servers[0].due_s = time.monotonic()
    check_until(servers, lambda: servers._servers[0].given_up)
    servers.stop(timeout_s=DEADLINE_S)
    assert len(pids(log)) == 3


@pytest.mark.usefixtures("impatient")
def test_a_system_without_room_for_a_process_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = tmp_path / "log"
    servers = start(log, "sleep")
    try:
        wait_for(lambda: len(pids(log)) == 1)
        popen, full = servers._popen, iter(2 * [True])

        def popen_later(output: ServerOutput | None) -> subprocess.Popen[bytes]:
            if next(full, False):
                raise OSError(errno.EMFILE, "Too many open files")
            return popen(output)

        monkeypatch.setattr(servers, "_popen", popen_later)
        os.kill(pids(log)[0], signal.SIGKILL)
        check_until(servers, lambda: len(pids(log)) == 2)
    finally:
        servers.stop(timeout_s=0.3)
    assert caplog.text.count("cannot be started: [Errno 24] Too many open files; restarting") == 2


@pytest.mark.usefixtures("impatient")
def test_what_can_never_be_started_is_given_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    servers = LocalServers([str(tmp_path / "no such program")], 1, tmp_path / "log")
    with pytest.raises(LocalServerError, match="no local environment server is left"):
        check_until(servers, lambda: False)
    servers.stop(timeout_s=0.3)
    assert caplog.text.count("cannot be started: [Errno 2] No such file") == 5


def test_a_server_that_ran_for_long_may_end_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seed.run.local_servers._QUICK_S", 0.0)
    log = tmp_path / "log"
    servers = start(log, "3")
    check_until(servers, lambda: len(pids(log)) >= 7)
    servers.stop(timeout_s=DEADLINE_S)


def print_and_refuse(text: str, log_file: Path) -> LocalServers:
    code = "import sys; sys.stderr.write(sys.argv[1]); sys.exit(2)"
    return LocalServers([sys.executable, "-c", code, text], 1, log_file)


@pytest.mark.parametrize(
    ("printed", "quoted"),
    [("one\nseed-envserver: no such game\n\n", "no such game"), ("alone", "alone"),
     ("", "it said nothing"), (" \n\n", "it said nothing"),
     ("\x1b[2Jbad\x07\u202e\n", "\\x1b[2Jbad\\x07\\u202e"),
     ("#" * 100_000 + "the end", "#" * 1696 + "the end")],
)  # fmt: skip
def test_the_last_words_of_a_server_are_quoted(tmp_path: Path, printed: str, quoted: str) -> None:
    log_file = tmp_path / "servers.log"
    servers = print_and_refuse(printed, log_file)
    with pytest.raises(LocalServerError) as refused:
        check_until(servers, lambda: False)
    servers.stop(timeout_s=DEADLINE_S)
    expected = f"exit code 2: {quoted} (more in {log_file})"
    assert str(refused.value) == f"a local environment server ended with {expected}"
    whole = "".join(line for line in log_file.read_text().split("\n"))
    assert whole == printable(printed.replace("\n", ""))


@pytest.mark.usefixtures("impatient")
def test_of_several_servers_the_one_that_ended_is_quoted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    program = (
        "import os, sys, time\n"
        "try: os.mkdir(sys.argv[1])\n"
        "except OSError:\n"
        "    print('another one', flush=True); time.sleep(1000)\n"
        "while not os.path.exists(sys.argv[1] + '.end'): time.sleep(0.01)\n"
        "sys.exit('its own reason')"
    )
    folder, log_file = tmp_path / "folder", tmp_path / "log"
    servers = LocalServers([sys.executable, "-c", program, str(folder)], 2, log_file)
    try:
        check_until(servers, lambda: log_file.exists() and "another" in log_file.read_text())
        (tmp_path / "folder.end").touch()
        check_until(servers, lambda: bool(caplog.messages))
    finally:
        servers.stop(timeout_s=0.3)
    assert f"not started again: its own reason (more in {log_file})" in caplog.text


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.usefixtures("impatient")
def test_who_is_killed_from_outside_is_started_again_for_ever(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", f"import os; os.kill(os.getpid(), {number})"]
    servers = LocalServers(command, 1, log)
    check_until(servers, lambda: len(caplog.messages) >= 8)
    assert not servers._servers[0].given_up
    servers.stop(timeout_s=DEADLINE_S)
    assert f"ended by {signal.Signals(number).name}; restarting" in caplog.text


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


@pytest.mark.usefixtures("impatient")
def test_output_is_appended_over_restarts(tmp_path: Path) -> None:
    log_file = tmp_path / "servers.log"
    log_file.write_text("of an earlier start\n")
    command = [sys.executable, "-c", "print('stdout', flush=True); raise SystemExit(3)"]
    servers = LocalServers(command, 1, log_file)
    with pytest.raises(LocalServerError, match="stdout"):
        check_until(servers, lambda: False)
    servers.stop(timeout_s=DEADLINE_S)
    assert log_file.read_text() == "of an earlier start\n" + 5 * "stdout\n"


@pytest.mark.usefixtures("impatient")
def test_without_a_log_nothing_is_printed_on_standard_output(
    capfd: pytest.CaptureFixture[str],
) -> None:
    servers = LocalServers([sys.executable, "-c", "print('from a server'); exit(1)"], 1)
    check_until(servers, lambda: servers._servers[0].given_up, connected=True)
    servers.stop(timeout_s=DEADLINE_S)
    output, errors = capfd.readouterr()
    assert (output, "from a server" in errors) == ("", True)


def fleet(count: int | Literal["auto"], max_envs: int) -> Config:
    return Config(
        local_envservers=count, local=LocalConfig(envs_per_server=8),
        inference=InferenceConfig(max_envs=max_envs),
    )  # fmt: skip


def test_count_is_what_was_asked_for() -> None:
    assert server_count(fleet(3, max_envs=24)) == 3
    assert server_count(fleet(0, max_envs=1)) == 0


def test_more_environments_than_may_connect_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"local_envservers = 3 .*max_envs = 23"):
        server_count(fleet(3, max_envs=23))
    with pytest.raises(ConfigError, match=r"max_envs = 7"):
        server_count(fleet("auto", max_envs=7))


@pytest.mark.parametrize(
    ("cores", "max_envs", "expected"), [(1, 64, 1), (2, 64, 2), (5, 64, 5), (8, 64, 8), (9, 24, 3)]
)
def test_automatic_count_has_a_server_for_each_core(
    monkeypatch: pytest.MonkeyPatch, cores: int, max_envs: int, expected: int
) -> None:
    monkeypatch.setattr("seed.run.local_servers.usable_cores", lambda: cores)
    assert server_count(fleet("auto", max_envs)) == expected


def test_command_names_the_address_and_the_environments() -> None:
    command = server_command(LocalConfig(envs_per_server=6, groups_per_server=3), "tcp://h:1")
    assert command[:2] == [sys.executable, "-P"]
    assert "from envservers.main import main" in command[3]
    for option, value in {
        "--connect": "tcp://h:1", "--num-envs": "6", "--groups": "3", "--step-timeout-s": "300.0",
    }.items():  # fmt: skip
        assert command[command.index(option) + 1] == value
    assert "--key" not in command


def test_keys_are_inherited_and_not_on_the_command_line(tmp_path: Path) -> None:
    """Each of two servers reads the whole of each file, wherever another has left off."""
    file = os.memfd_create("key")
    os.write(file, b"secret")
    command = server_command(LocalConfig(), "tcp://h:1", (file, file))
    assert command[-4:] == ["--key", f"/dev/fd/{file}", "--learner-key", f"/dev/fd/{file}"]
    code = "import sys, time; print(open(sys.argv[1]).read(), flush=True); time.sleep(1000)"
    log_file = tmp_path / "log"
    servers = LocalServers(
        [sys.executable, "-c", code, f"/dev/fd/{file}"], 2, log_file, key_files=(file,)
    )
    try:
        check_until(servers, lambda: log_file.read_text() == "secret\nsecret\n")
    finally:
        servers.stop(timeout_s=0.0)
        os.close(file)
