"""The limit of open files: raised, looked at, and kept at a distance."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import subprocess
import sys
import time
from typing import Any

import pytest

from seed.config.schema import ConfigError
from seed.transport import file_limits
from seed.transport.file_limits import Listener, connections_within, count_open_files, raise_limit


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Stands for the process's limit, the newest last."""
    values = [(1024, 4096)]
    monkeypatch.setattr(resource, "getrlimit", lambda what: values[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda what, new: values.append(new))
    return values


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((1024, 4096), 4096),
        ((4096, 4096), 4096),
        ((1024, 2**30), 65_536),
        ((1024, resource.RLIM_INFINITY), 65_536),
        # What an operator has set higher stays.
        ((100_000, 2**30), 100_000),
    ],
)
def test_the_limit_is_raised(
    limits: list[tuple[int, int]], before: tuple[int, int], after: int
) -> None:
    limits[:] = [before]
    assert raise_limit(0) == after
    assert limits[-1] == (after, before[1])
    assert connections_within(after) == after - 64


@pytest.mark.parametrize(
    ("hard", "servers", "least"), [(255, 0, 256), (300, 119, 302), (256, 96, None)]
)
def test_a_limit_that_is_too_low_is_refused(
    limits: list[tuple[int, int]], hard: int, servers: int, least: int | None
) -> None:
    limits[:] = [(100, hard)]
    if least is None:
        assert raise_limit(servers) == hard
        return
    with pytest.raises(ConfigError, match=f"may have {hard}, expected at least {least}; raise"):
        raise_limit(servers)


def test_open_files_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    before = count_open_files()
    with open("/dev/null"), open("/dev/null"):
        assert count_open_files() == before + 2

    def fail(path: Any) -> Any:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "listdir", fail)
    assert count_open_files() == resource.getrlimit(resource.RLIMIT_NOFILE)[0]


@pytest.mark.parametrize("endpoint", ["ipc:///tmp/nothing", "tcp://127.0.0.1:1"])
def test_without_a_listener_there_is_nothing_to_check(endpoint: str) -> None:
    listener = Listener(endpoint)
    listener.check()
    listener.close()
    assert not listener.closed


def test_a_listener_leaves_no_file_open() -> None:
    reader, writer = os.pipe()
    listening = socket.create_server(("127.0.0.1", 0))
    before = count_open_files()
    listener = Listener(f"tcp://127.0.0.1:{listening.getsockname()[1]}")
    assert count_open_files() == before + 1
    listener.close()
    assert count_open_files() == before
    listening.close()
    for end in (reader, writer):
        os.close(end)


def test_that_nobody_else_is_let_in_is_told_once_a_minute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(file_limits, "count_open_files", lambda: 10**9)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listener = Listener(f"tcp://127.0.0.1:{listening.getsockname()[1]}")
        for tenth in range(1210):
            monkeypatch.setattr(time, "monotonic", lambda now_s=tenth / 10: now_s)
            listener.check()
        listener.close()
    assert listener.closed
    assert sum("no more environment servers can connect" in line for line in caplog.messages) == 3


PROGRAM = """
import json, resource, sys, time
import zmq
from seed.transport import file_limits
from seed.transport.file_limits import Listener, count_open_files

resource.setrlimit(resource.RLIMIT_NOFILE, (400, 400))
file_limits._NEAR_CHECK_S = file_limits._FAR_CHECK_S = 0.0
context = zmq.Context()
router = context.socket(zmq.ROUTER)
router.bind("tcp://127.0.0.1:*")
endpoint = router.get_string(zmq.LAST_ENDPOINT)
listener = Listener(endpoint)

def exchange(dealer):
    dealer.send(b"hello")
    if not router.poll(300_000):
        return "nothing"
    identity, _ = router.recv_multipart()
    router.send_multipart([identity, b"there"])
    return dealer.recv().decode() if dealer.poll(300_000) else "nothing"

def check_until(closed):
    deadline_s = time.monotonic() + 300
    while listener.closed != closed and time.monotonic() < deadline_s:
        listener.check()
        time.sleep(0.002)

def connect():
    dealer = context.socket(zmq.DEALER)
    dealer.connect(endpoint)
    return dealer

first = connect()
print(json.dumps([endpoint, exchange(first)]), flush=True)
check_until(True)
sys.stdin.readline()
before_s = time.process_time()
time.sleep(0.5)
used_s = time.process_time() - before_s
print(json.dumps([listener.closed, count_open_files(), used_s, exchange(first)]), flush=True)
sys.stdin.readline()
check_until(False)
print(json.dumps([listener.closed, exchange(connect()), exchange(first)]), flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's socket filters")
def test_near_the_limit_nobody_else_is_let_in_and_no_core_spins() -> None:
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                text=True,
            )
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        endpoint, said = json.loads(process.stdout.readline())
        assert said == "there"
        strangers = contextlib.ExitStack()
        stack.callback(strangers.close)
        for _ in range(500):
            stranger = strangers.enter_context(socket.socket())
            stranger.setblocking(False)
            stranger.connect_ex(("127.0.0.1", int(endpoint.rpartition(":")[2])))
            time.sleep(0.001)
        print(file=process.stdin, flush=True)
        closed, count, used_s, said = json.loads(process.stdout.readline())
        assert closed
        assert 250 < count < 399
        assert used_s < 0.25, "at the limit, a core would spin"
        assert said == "there", "who is in stays in"
        strangers.close()
        print(file=process.stdin, flush=True)
        assert json.loads(process.stdout.readline()) == [False, "there", "there"]
        assert process.wait(300) == 0
