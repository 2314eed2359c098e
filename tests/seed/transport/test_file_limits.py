"""The limit of open files: raised, looked at, and kept at a distance."""

from __future__ import annotations

import contextlib
import math
import os
import resource
import select
import socket
import sys
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
    listener.check(0.0)
    listener.close()
    assert not listener.closed


def test_that_nobody_else_is_let_in_is_told_once_a_minute_and_no_file_stays_open(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        before = count_open_files()
        listener = Listener(f"tcp://127.0.0.1:{listening.getsockname()[1]}")
        assert count_open_files() == before + 1
        with monkeypatch.context() as patch:
            patch.setattr(file_limits, "count_open_files", lambda: 10**9)
            for tenth in range(1210):
                listener.check(tenth / 10)
        listener.close()
        assert count_open_files() == before
    assert listener.closed
    assert sum("no more environment servers can connect" in line for line in caplog.messages) == 3


# Else libzmq would fail to accept them, and try again at once, and again.
@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's socket filters")
def test_near_the_limit_nobody_else_is_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        address = listening.getsockname()
        listener = Listener(f"tcp://127.0.0.1:{address[1]}")
        stack.callback(listener.close)
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]

        def check(left: int, now_s: float) -> bool:
            """Whether nobody is let in with so many files left."""
            monkeypatch.setattr(file_limits, "count_open_files", lambda: limit - left)
            listener.check(now_s)
            return listener.closed

        def waits(timeout_s: float) -> bool:
            return bool(select.select([listening], [], [], timeout_s)[0])

        assert not check(math.ceil(limit / 4), 0.0)
        first = stack.enter_context(socket.create_connection(address))
        served = stack.enter_context(listening.accept()[0])
        assert check(math.ceil(limit / 4) - 1, 1.0)
        stranger = stack.enter_context(socket.socket())
        stranger.setblocking(False)
        stranger.connect_ex(address)
        assert not waits(0.1)
        # Who is in stays in.
        first.sendall(b"hello")
        assert served.recv(5) == b"hello"
        # Looked at again soon, and open again only with some more room.
        assert check(limit, 1.1)
        assert check(limit // 3, 1.3)
        assert not check(limit // 3 + 1, 1.6)
        stack.enter_context(socket.create_connection(address))
        assert waits(300)
