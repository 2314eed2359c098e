"""A bare ROUTER: answers every STEP at once with zeros, to know what sockets alone can do.

It takes and sends frames as the learner does, one by one, which costs less than pyzmq's calls for
whole messages. It speaks just enough of the protocol for fake environment servers, and writes the
same `metrics.jsonl` as a learner. Started by `tools.bench.synthetic`.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import zmq

from seed.config.schema import EnvironmentConfig
from seed.transport.sockets import bind, receive, send
from seed.wire import codec, messages
from seed.wire.spaces import SpaceSpec
from tools.bench.free_environments import NUM_ACTIONS
from tools.bench.learner_configs import environment_table
from tools.processes import LOG_INTERVAL_S, sigterm_event

_PATIENCE_MS = 20
_MAX_FRAME_BYTES = 2**30
# In a msgpack header: the types STEP and ACTIONS, each a string with its length before it.
_STEP, _ACTIONS = b"\xa4step", b"\xa7actions"


class Echo:
    """One socket and what it has counted."""

    def __init__(self, side: int) -> None:
        """Listens on a free port, for images of `side` by `side` pixels."""
        self.rows = 0
        self._socket = bind("tcp://127.0.0.1:*", _MAX_FRAME_BYTES)
        self.endpoint = self._socket.get_string(zmq.LAST_ENDPOINT)
        environment = dataclasses.asdict(EnvironmentConfig(**environment_table(side)))
        self._spec = (environment, SpaceSpec("uint8", (side, side)))

    def serve(self, seconds: float) -> None:
        """Answers for so long."""
        deadline_s = time.monotonic() + seconds
        while time.monotonic() < deadline_s:
            message = receive(self._socket)
            if message is not None:
                self._answer(message[0], *message[1])
            else:
                self._socket.poll(_PATIENCE_MS)

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()

    def _answer(self, identity: bytes, header: messages.Frame, *frames: messages.Frame) -> None:
        if frames:
            # One action, an int64, is as long as one run_id, and 0 is an action.
            answer = bytes(header).replace(_STEP, _ACTIONS, 1)
            nbytes = len(frames[0])
            self.rows += nbytes // 8
            send(self._socket, identity, [answer, bytes(nbytes)])
            return
        message = codec.decode([header])
        if isinstance(message, messages.Hello):
            action, numbers = SpaceSpec("int64", (), NUM_ACTIONS), np.arange(message.num_envs)
            welcome = messages.Welcome(secrets.randbits(63), *self._spec, action, numbers, numbers)
            send(self._socket, identity, codec.encode(welcome))


def main(argv: Sequence[str]) -> None:
    """Serves until SIGTERM; the only argument is the folder for `metrics.jsonl`."""
    run_dir, stopping = Path(argv[0]), sigterm_event()
    echo = Echo(side=84)
    print(f"listening on {echo.endpoint}, metrics in {run_dir}", flush=True)
    start_s = time.monotonic()
    with (run_dir / "metrics.jsonl").open("w", buffering=1) as lines:
        while not stopping.is_set():
            echo.serve(LOG_INTERVAL_S)
            line = {"time_s": time.monotonic() - start_s, "env_steps": echo.rows}
            lines.write(json.dumps(line) + "\n")
    echo.close()


if __name__ == "__main__":
    main(sys.argv[1:])
