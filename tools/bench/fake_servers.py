"""Environment servers without environments: every ACTIONS is answered with a prepared STEP.

One light process holds any number of them, each with a socket of its own. In a closed loop a
group's next STEP leaves as soon as its actions are there. In an open loop (`--rate`) it leaves
when it is due, or as soon after that as its actions are there. Started by the measurements.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import math
import os
import random
import resource
import secrets
import selectors
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import zmq

from seed.wire.codec import decode, encode
from seed.wire.messages import (
    EPISODE_DTYPE,
    FIRST,
    TERMINATED,
    Actions,
    Goodbye,
    Hello,
    Message,
    Refusal,
    Step,
    Welcome,
)
from seed.wire.spaces import SpaceSpec
from tools.processes import Process, Processes, sigterm_event
from tools.watching import Window, measure, wait_until_learning, wait_watching

EPISODE_STEPS = 1000
REGISTERED = "registered "
_NUM_IMAGES = 4
_LONGEST_WAIT_S = 0.2
_LINGER_MS = 500
_FAREWELL_S = 1.0
# select() takes microseconds, but no high file numbers; epoll takes milliseconds and any.
_MOST_FOR_SELECT = 200


class Refused(Exception):
    """The learner does not want these servers; the text is its reason."""


class PreparedRows:
    """The frames of rows for groups of one size; only the headers differ from server to server."""

    def __init__(self, observation: SpaceSpec, group_size: int) -> None:
        """For images of this form."""
        observations = np.random.default_rng(0).integers(
            0, 256, (_NUM_IMAGES, group_size, *observation.shape), np.uint8
        )
        self._run_ids = zmq.Frame(os.urandom(8 * group_size))
        # Not copied again when they are sent.
        self._observations = [zmq.Frame(one.tobytes(), copy=False) for one in observations]
        self._rewards = [
            zmq.Frame(np.full(group_size, reward, "<f4").tobytes()) for reward in (0, 1)
        ]
        self._flags = {
            flag: zmq.Frame(bytes([flag]) * group_size) for flag in (0, FIRST, TERMINATED)
        }
        ended = np.zeros(group_size, EPISODE_DTYPE)
        ended["index"], ended["length_steps"] = np.arange(group_size), EPISODE_STEPS
        self._none_ended, self._all_ended = zmq.Frame(b""), zmq.Frame(ended.tobytes())

    def frames(self, seq: int, age: int) -> list[zmq.Frame]:
        """The raw frames of a STEP, `age` steps after its episodes' start."""
        flag = FIRST if age == 0 or seq == 0 else 0
        if age == EPISODE_STEPS:
            flag = TERMINATED
        return [
            self._run_ids,
            self._observations[seq % _NUM_IMAGES],
            self._rewards[seq % 2 if age else 0],
            self._flags[flag],
            self._all_ended if age == EPISODE_STEPS else self._none_ended,
        ]


class Answer(NamedTuple):
    """A STEP: when it was due, when it left, when its actions were there (`time.perf_counter`)."""

    due_s: float
    sent_s: float
    answered_s: float
    rows: int


@dataclass
class _Group:
    """One group of a server; `seq` counts what it has sent."""

    number: int
    first_age: int
    due_s: float = 0.0
    sent_s: float = 0.0
    seq: int = 0


@dataclass
class FakeServer:
    """One DEALER socket and its groups; `session` is None before WELCOME."""

    socket: zmq.Socket[bytes]
    groups: list[_Group]
    session: int | None = None
    gone: bool = False

    def send_step(self, group: _Group, rows: PreparedRows, now_s: float) -> None:
        """The group's next row."""
        assert self.session is not None
        age = (group.first_age + group.seq) % (EPISODE_STEPS + 1)
        [header] = encode(Step(self.session, group.number, group.seq, ()))
        frames = rows.frames(group.seq, age)
        self.socket.send(bytes(header), zmq.SNDMORE)
        for frame in frames[:-1]:
            self.socket.send(frame, zmq.SNDMORE, copy=False)
        self.socket.send(frames[-1], copy=False)
        group.seq += 1
        group.sent_s = now_s

    def messages(self) -> Iterator[Message]:
        """All that has arrived; to be read to the end after anything was sent.

        Only then does the socket's file tell of what comes next.
        """
        while True:
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            yield decode([*frames])


class FakeServers:
    """Many fake servers in one thread."""

    def __init__(
        self, endpoint: str, servers: int, groups: int, group_size: int, rate: float
    ) -> None:
        """Connects and says hello; `rate` is in messages a second of all, 0 for a closed loop."""
        self.registered = 0
        self.answers: list[Answer] = []
        self._unanswered = 0
        self._leaving = False
        self._period_s = servers * groups / rate if rate else 0.0
        self._rows: PreparedRows | None = None
        self._group_size = group_size
        # (due_s, tie-breaker, server, group) of groups that wait for their time
        self._due: list[tuple[float, int, FakeServer, _Group]] = []
        self._ties = itertools.count()
        self._context = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, servers + 8)
        precise = rate > 0 and servers <= _MOST_FOR_SELECT
        self._selector = selectors.SelectSelector() if precise else selectors.DefaultSelector()
        self.servers = [self._connect(endpoint, groups, index) for index in range(servers)]

    def _connect(self, endpoint: str, groups: int, index: int) -> FakeServer:
        socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        socket.connect(endpoint)
        ages = [(index + number) * 97 % EPISODE_STEPS for number in range(groups)]
        server = FakeServer(socket, [_Group(number, age) for number, age in enumerate(ages)])
        self._selector.register(socket.FD, selectors.EVENT_READ, server)
        sizes = (self._group_size,) * groups
        name = f"fake-{os.getpid()}-{index}"
        socket.send_multipart(encode(Hello(secrets.randbits(64), sizes, name)))
        self._read(server)
        return server

    def work(self) -> None:
        """Waits for messages or the next due time, and does what is to be done then."""
        wait_s = _LONGEST_WAIT_S
        if self._due:
            wait_s = min(wait_s, max(0.0, self._due[0][0] - time.perf_counter()))
        self._read_ready(wait_s)
        while self._due and self._due[0][0] <= time.perf_counter():
            _, _, server, group = heapq.heappop(self._due)
            self._send(server, group, time.perf_counter())
            self._read(server)

    def leave(self) -> None:
        """Ends all sessions, after up to a second for actions that are on their way."""
        self._leaving = True
        # A connection closed with unread messages is reset, and the goodbye would be lost with it.
        deadline_s = time.perf_counter() + _FAREWELL_S
        while self._unanswered and time.perf_counter() < deadline_s:
            self._read_ready(_LONGEST_WAIT_S)
        for server in self.servers:
            if server.session is not None and not server.gone:
                goodbye = encode(Goodbye(server.session, "the measurement is complete"))
                server.socket.send_multipart(goodbye, zmq.NOBLOCK)
            server.socket.close(linger=_LINGER_MS)
        self._selector.close()
        self._context.term()

    def _read_ready(self, wait_s: float) -> None:
        for key, _ in self._selector.select(wait_s):
            self._read(key.data)

    def _read(self, server: FakeServer) -> None:
        for message in server.messages():
            now_s = time.perf_counter()
            match message:
                case Actions():
                    self._unanswered -= 1
                    group = server.groups[message.group]
                    self.answers.append(
                        Answer(group.due_s, group.sent_s, now_s, self._group_size)
                    )
                    self._schedule(server, group, group.due_s + self._period_s, now_s)
                case Welcome():
                    self._begin(server, message, now_s)
                case Refusal() if not self._leaving:
                    raise Refused(message.reason)
                case Goodbye():
                    server.gone = True
                    if not self._leaving:
                        raise Refused(f"the learner left: {message.reason}")

    def _begin(self, server: FakeServer, welcome: Welcome, now_s: float) -> None:
        if self._rows is None:
            self._rows = PreparedRows(welcome.observation, self._group_size)
        server.session = welcome.session
        self.registered += 1
        for group in server.groups:
            # In an open loop at any time of a period, so that no two groups stay together.
            self._schedule(server, group, now_s + random.random() * self._period_s, now_s)

    def _schedule(self, server: FakeServer, group: _Group, due_s: float, now_s: float) -> None:
        """Sends the group's next STEP at its time, or now where that is over."""
        if self._leaving:
            return
        group.due_s = due_s if self._period_s else now_s
        if group.due_s > now_s:
            heapq.heappush(self._due, (group.due_s, next(self._ties), server, group))
        else:
            self._send(server, group, now_s)

    def _send(self, server: FakeServer, group: _Group, now_s: float) -> None:
        assert self._rows is not None
        server.send_step(group, self._rows, now_s)
        self._unanswered += 1


def start_clients(
    processes: Processes,
    endpoint: str,
    groups: int,
    rows: int,
    count: int,
    *,
    connections: int = 0,
    options: Sequence[Sequence[str]] = (),
) -> list[Process]:
    """Starts `count` processes of fake servers; returns once all are registered.

    Each server has `groups` groups of `rows` environments. There are so many `connections` in all,
    or one for each process; `options` are more of each process's command line.
    """
    connections = connections or count
    clients = []
    for index in range(count):
        servers = connections // count + (index < connections % count)
        clients.append(processes.start("client", [
            sys.executable, "-m", "tools.bench.fake_servers", "--connect", endpoint,
            "--servers", str(servers), "--groups", str(groups), "--rows", str(rows),
            *(options[index] if options else ()),
        ]))  # fmt: skip
    for client in clients:
        client.wait_for(REGISTERED)
    return clients


def measure_serving(
    server: Process, processes: Processes, options: argparse.Namespace, updates: int = 0
) -> Window:
    """Lets clients work for this server alone; what its metrics said after so many updates."""
    clients = start_clients(
        processes, server.endpoint, options.groups, options.rows_per_message, options.servers
    )
    if updates:
        wait_until_learning(server, processes.check, updates)
    wait_watching(options.warmup, processes.check)
    window = measure(server, options.seconds, processes.check)
    processes.stop(*clients)
    return window


def report_window(answers: Sequence[Answer], start_s: float, seconds: float) -> dict[str, object]:
    """Rows due in the window, and by message milliseconds since it left, and since it was due."""
    inside = [answer for answer in answers if start_s <= answer.due_s < start_s + seconds]
    return {
        "rows": sum(answer.rows for answer in inside),
        "latencies_ms": [1e3 * (answer.answered_s - answer.sent_s) for answer in inside],
        "due_latencies_ms": [1e3 * (answer.answered_s - answer.due_s) for answer in inside],
    }


def work(fleet: FakeServers, arguments: argparse.Namespace) -> float:
    """Works until SIGTERM, or for as long as asked; returns when the time measured began."""
    stopping = sigterm_event()
    parent, connecting_s = os.getppid(), time.perf_counter()
    start_s = end_s = math.inf
    while not stopping.is_set() and time.perf_counter() < end_s and os.getppid() == parent:
        fleet.work()
        if math.isinf(start_s) and fleet.registered == arguments.servers:
            registered_s = time.perf_counter() - connecting_s
            print(f"{REGISTERED}{fleet.registered} in {registered_s:.3f} s", flush=True)
            start_s = time.perf_counter() + arguments.warmup
            end_s = start_s + arguments.seconds
        if math.isinf(arguments.seconds):
            fleet.answers.clear()
    return start_s


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connect", required=True, help="the learner's address")
    for name, default in (("--servers", 1), ("--groups", 2), ("--rows", 32)):
        parser.add_argument(name, type=int, default=default, help="of what comes before it, each")
    for name, value in (("--rate", 0.0), ("--warmup", 0.0), ("--seconds", math.inf)):
        parser.add_argument(name, type=float, default=value, help="messages a second, or seconds")
    parser.add_argument("--report", type=Path, help="file for what was measured")
    arguments = parser.parse_args(argv)
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    fleet = FakeServers(
        arguments.connect, arguments.servers, arguments.groups, arguments.rows, arguments.rate
    )
    try:
        start_s = work(fleet, arguments)
    except Refused as refused:
        print(f"refused: {refused}", file=sys.stderr)
        return 2
    finally:
        fleet.leave()
    if arguments.report:
        report = report_window(fleet.answers, start_s, arguments.seconds)
        arguments.report.write_text(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
