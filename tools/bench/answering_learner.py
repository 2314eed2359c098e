"""A learner without a network: answers an environment server's STEPs with random actions."""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable

import numpy as np
import zmq

from seed.wire import codec, messages
from seed.wire.spaces import SpaceSpec
from tools.bench.processes import START_TIMEOUT_S, ProcessFailed

GAME, NUM_ACTIONS = "pong", 6
_FRAME, _JOYSTICK = SpaceSpec("uint8", (84, 84)), SpaceSpec("int64", (), NUM_ACTIONS)
_SESSION = 1
# Groups of actions drawn beforehand: drawing is not measured.
_PREPARED = 1000
_LONGEST_POLL_MS = 10


class AnsweringLearner:
    """Answers one environment server's STEPs with random actions, each after the same delay."""

    def __init__(self) -> None:
        """Listens at a free port, `address`."""
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.bind("tcp://127.0.0.1:*")
        self.address: str = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._actions: list[bytes] = []
        self._peer = b""
        # (due_s, group, seq) of STEPs without an answer; due_s counts from 0 while nobody measures
        self._waiting: list[tuple[float, int, int]] = []
        self._group_size = 0

    def welcome(self, check: Callable[[], None]) -> None:
        """Waits for the server and its first rows.

        Args:
            check: Called all the while; raises what ends the measurement.

        Raises:
            ProcessFailed: where nothing comes.
        """
        hello = self._receive(check)
        if not isinstance(hello, messages.Hello):
            raise ProcessFailed(f"the environment server began with {hello}")
        numbers = np.arange(hello.num_envs)
        environment = {"kind": "atari", "id": GAME}
        self._send(messages.Welcome(_SESSION, environment, _FRAME, _JOYSTICK, numbers, numbers))
        self._group_size = hello.group_sizes[0]
        drawn = np.random.default_rng(0).integers(NUM_ACTIONS, size=(_PREPARED, self._group_size))
        self._actions = [actions.tobytes() for actions in drawn]
        while len(self._waiting) < len(hello.group_sizes):
            self._queue(self._receive(check), 0.0)

    def play(self, seconds: float, delay_s: float) -> int:
        """Answers for so long; returns the environment steps that arrived.

        What has arrived at the end waits for the next call.
        """
        steps, end_s = 0, time.perf_counter() + seconds
        while (now_s := time.perf_counter()) < end_s:
            while self._waiting and self._waiting[0][0] <= now_s:
                _, group, seq = heapq.heappop(self._waiting)
                actions = self._actions[seq % _PREPARED]
                self._send(messages.Actions(_SESSION, group, seq, actions))
            if self._socket.poll(self._spare_ms()):
                self._queue(self._read(), time.perf_counter() + delay_s)
                steps += self._group_size
        return steps

    def close(self) -> None:
        """Closes the socket, at which the server leaves."""
        self._socket.close(linger=0)
        self._context.term()

    def _spare_ms(self) -> int:
        """Whole milliseconds to the next answer, few at most; the last one passes without sleep."""
        spare_s = self._waiting[0][0] - time.perf_counter() if self._waiting else math.inf
        return int(min(max(1e3 * spare_s, 0.0), _LONGEST_POLL_MS))

    def _queue(self, message: messages.Message, due_s: float) -> None:
        if not isinstance(message, messages.Step):
            raise ProcessFailed(f"the environment server said {message}")
        heapq.heappush(self._waiting, (due_s, message.group, message.seq))

    def _receive(self, check: Callable[[], None]) -> messages.Message:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not self._socket.poll(50):
            check()
            if time.monotonic() > deadline_s:
                raise ProcessFailed("the environment server is silent")
        return self._read()

    def _read(self) -> messages.Message:
        self._peer, *frames = self._socket.recv_multipart()
        return codec.decode([*frames])

    def _send(self, message: messages.Message) -> None:
        self._socket.send_multipart([self._peer, *codec.encode(message)])
