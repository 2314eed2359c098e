"""What environment servers and the learner say to each other, as values. No bytes here.

`seed.wire.codec` makes bytes of them; `docs/protocol.md` describes them for writers of other
clients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from seed.wire.limits import PROTOCOL_VERSION
from seed.wire.spaces import SpaceSpec

TERMINATED, TRUNCATED, FIRST = 1, 2, 4
# The run_id of rows that belong to no history: their environment is down.
NO_HISTORY = 0

EPISODE_DTYPE = np.dtype([("index", "<u4"), ("length_steps", "<u4"), ("episode_return", "<f8")])

Frame: TypeAlias = bytes | bytearray | memoryview
Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class Hello:
    """Environment server → learner: I am here, with these groups of environments.

    Attributes:
        server_id: Random number drawn once per environment server, whose process may be started
            anew; a second HELLO with it replaces the first.
        group_sizes: Environments in each group; a group is stepped and sent as one.
        name: Host and process, for the learner's log.
        protocol: The sender's protocol version.
    """

    server_id: int
    group_sizes: tuple[int, ...]
    name: str
    protocol: int = PROTOCOL_VERSION

    @property
    def num_envs(self) -> int:
        """Environments of all groups together."""
        return sum(self.group_sizes)


@dataclass(frozen=True)
class Welcome:
    """Learner → environment server: run these environments.

    Attributes:
        session: Random number that every later message of this connection carries.
        environment: What to make: the learner's `[environment]` table as a map.
        observation: The form that observations must have on the wire.
        action: The form in which actions will come.
        env_ids: The learner's number for each environment, in group order. `[num_envs] int64`
        seeds: A seed for each environment. `[num_envs] int64`
    """

    session: int
    environment: dict[str, Any]
    observation: SpaceSpec
    action: SpaceSpec
    env_ids: Array
    seeds: Array


class Step(NamedTuple):
    """Environment server → learner: one new row of every environment in a group.

    A row holds an observation and what arrived with it; docs/protocol.md has the convention.

    Attributes:
        session: From WELCOME.
        group: Index into HELLO's group sizes.
        seq: Counts this group's rows from 0; with the run_id it fences off doubles and gaps.
        frames: The five raw frames, not yet checked; `check_step` reads them.
    """

    session: int
    group: int
    seq: int
    frames: Sequence[Frame]


class StepArrays(NamedTuple):
    """The raw frames of a STEP as arrays over the group's `n` environments.

    Attributes:
        run_ids: Random number per history of an environment, from 1; 0 while it is down.
            `[n] uint64`
        observations: `[n, *shape]` in the agreed dtype.
        rewards: What arrived with the observation, unclipped. `[n] float32`
        flags: Bits TERMINATED, TRUNCATED and FIRST. `[n] uint8`
        episodes: A record per episode that ended with this row: its index in the group, its
            length in steps, its return. `[k] EPISODE_DTYPE`
    """

    run_ids: Array
    observations: Array
    rewards: Array
    flags: Array
    episodes: Array


class Actions(NamedTuple):
    """Learner → environment server: the actions chosen from STEP (group, seq).

    Attributes:
        actions: `[n, *shape]` in the agreed dtype.
    """

    session: int
    group: int
    seq: int
    actions: Frame


@dataclass(frozen=True)
class Refusal:
    """Learner → environment server: no, and why.

    Attributes:
        reason: A sentence for the person who reads the environment server's output.
        retry: True where a new HELLO may succeed (the session has ended, say).
        session: The session of the message that it answers; 0 where that had none.
    """

    reason: str
    retry: bool
    session: int = 0


@dataclass(frozen=True)
class Fault:
    """Environment server → learner: an environment of mine has failed; nothing is expected back.

    Attributes:
        session: From WELCOME.
        group: Its group; None where what failed was the server itself, between two steps.
        index: Which environment of the group; None for the group as a whole.
        kind: What happened, in a word or two: "raised", "hung", "crashed", "not finite", …
        restarts: How often it has been made anew since it last ran well.
        quarantined: Whether it stays down from now on.
        repeated: Whether an earlier FAULT has said so already; a new session begins with these.
        traceback: Where it happened, as the environment server's machine tells it.
    """

    session: int
    group: int | None
    index: int | None
    kind: str
    restarts: int
    quarantined: bool
    repeated: bool
    traceback: str


@dataclass(frozen=True)
class Goodbye:
    """Either way: I am leaving this session, and why; nothing is expected back."""

    session: int
    reason: str


@dataclass(frozen=True)
class Ping:
    """Learner → environment server: finds out whether the connection still stands; no reply."""

    session: int


Message: TypeAlias = Hello | Welcome | Step | Actions | Refusal | Goodbye | Ping | Fault
