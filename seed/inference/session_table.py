"""Who is connected: each server's session, its env_ids, and the STEP that comes next."""

from __future__ import annotations

import heapq
import secrets
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from seed.wire import messages
from seed.wire.arrays import Int64Array
from seed.wire.errors import WireError
from seed.wire.limits import PROTOCOL_VERSION
from seed.wire.terminal import printable


class Refused(Exception):
    """A message that cannot be accepted; `retry` says whether a new HELLO may be."""

    def __init__(self, reason: str, *, retry: bool) -> None:
        super().__init__(reason)
        self.retry = retry


class NoRoom(Refused):
    """A HELLO for whose environments there is no room at present."""


@dataclass
class Session:
    """One connected environment server.

    Attributes:
        identity: The ROUTER's name for the connection.
        number: Random number in every message of the session.
        hello: What the server said of itself.
        env_ids: Numbers of its environments, by group. `[size] int64` each.
        next_seq: The seq that each group's next STEP carries if nothing was lost.
        heard_s: Monotonic time of its last message.
        key: The public key of its connection; empty where the learner has no keys.
    """

    identity: bytes
    number: int
    hello: messages.Hello
    env_ids: list[Int64Array]
    heard_s: float
    next_seq: list[int] = field(default_factory=list)
    key: str = ""

    @property
    def all_env_ids(self) -> Int64Array:
        """Numbers of all its environments, in group order. `[num_envs] int64`"""
        return np.concatenate(self.env_ids)

    def named(self, group: int | None, index: int | None) -> list[int]:
        """env_ids that a group and an index in it name; None for all of them.

        Raises:
            WireError: where there is no such group or environment.
        """
        if group is None:
            if index is not None:
                raise WireError("index: expected none without a group")
            env_ids = self.all_env_ids
        elif group >= len(self.env_ids):
            raise WireError(f"group: expected below {len(self.env_ids)}")
        else:
            env_ids = self.env_ids[group]
        if index is not None and index >= len(env_ids):
            raise WireError(f"index: expected below {len(env_ids)}")
        named: list[int] = (env_ids if index is None else env_ids[[index]]).tolist()
        return named


class SessionTable:
    """All sessions, and the env_ids that none of them holds. Owned by the inference thread."""

    def __init__(self, max_envs: int, max_group: int, max_envs_per_key: int = 0) -> None:
        """Limits the environments of all sessions, of a group, and of one key.

        Without keys, `max_envs_per_key` limits those of one connection; 0 sets no such limit.
        """
        self._max_envs = max_envs
        self._max_group = max_group
        self._max_envs_per_key = max_envs_per_key
        self._envs_by_owner: Counter[str | bytes] = Counter()
        # A heap: the lowest is taken first.
        self._free_env_ids = list(range(max_envs))
        self._taken = np.zeros(max_envs, np.bool_)
        # Servers that hold, or held last, each environment; other threads read them.
        self._names = [""] * max_envs
        self._sessions: dict[int, Session] = {}
        self._by_server: dict[int, Session] = {}

    def __iter__(self) -> Iterator[Session]:
        """The sessions, oldest first, safe against `close` on the way."""
        return iter(list(self._sessions.values()))

    @property
    def num_envs(self) -> int:
        """Environments of all sessions."""
        return self._max_envs - len(self._free_env_ids)

    @property
    def env_ids(self) -> Int64Array:
        """Numbers of the environments of all sessions, in ascending order. `[num_envs] int64`"""
        return np.flatnonzero(self._taken)

    def server_of(self, env_id: int) -> str:
        """The name, fit to print, of the server that has this environment or had it last.

        For any thread.
        """
        return printable(self._names[env_id])

    def get(self, number: int) -> Session | None:
        """The session with this number."""
        return self._sessions.get(number)

    def find(self, number: int, identity: bytes, key: str = "") -> Session | None:
        """The session with this number if it belongs to this connection and key.

        A connection may choose its identity, and so take that of one that has gone.
        """
        session = self._sessions.get(number)
        owns = session is not None and session.identity == identity and session.key == key
        return session if owns else None

    def predecessor(self, hello: messages.Hello, key: str = "") -> Session | None:
        """The session that the same server process opened earlier, if it has not ended.

        Raises:
            Refused: where that session is of another key.
        """
        session = self._by_server.get(hello.server_id)
        if session is not None and session.key != key:
            raise Refused(
                "the server_id is that of a connected server with another key: draw a random one",
                retry=False,
            )
        return session

    def open(self, hello: messages.Hello, identity: bytes, now_s: float, key: str = "") -> Session:
        """A session for the server that said hello, with the lowest env_ids that are free.

        Raises:
            Refused: where the server cannot be served.
        """
        if hello.protocol != PROTOCOL_VERSION:
            raise Refused(
                f"the environment server speaks protocol {hello.protocol}, the learner "
                f"{PROTOCOL_VERSION}: install the same version of this package on both sides",
                retry=False,
            )
        if max(hello.group_sizes) > self._max_group:
            raise Refused(
                f"a group of {max(hello.group_sizes)} environments is larger than the learner's "
                f"inference.max_batch = {self._max_group}: use more groups or fewer environments",
                retry=False,
            )
        if hello.num_envs > len(self._free_env_ids):
            raise NoRoom(
                f"{hello.num_envs} environments are too many: {self.num_envs} of the learner's "
                f"inference.max_envs = {self._max_envs} are taken",
                retry=hello.num_envs <= self._max_envs,
            )
        self._check_quota(hello.num_envs, key or identity)
        env_ids = [
            np.array([heapq.heappop(self._free_env_ids) for _ in range(size)], np.int64)
            for size in hello.group_sizes
        ]
        number = secrets.randbits(63)
        session = Session(identity, number, hello, env_ids, now_s, [0] * len(env_ids), key)
        self._envs_by_owner[key or identity] += hello.num_envs
        self._sessions[number] = self._by_server[hello.server_id] = session
        self._taken[session.all_env_ids] = True
        for env_id in session.all_env_ids.tolist():
            self._names[env_id] = hello.name
        return session

    def _check_quota(self, num_envs: int, owner: str | bytes) -> None:
        most, taken = self._max_envs_per_key, self._envs_by_owner[owner]
        if most and taken + num_envs > most:
            raise NoRoom(
                f"{num_envs} environments are too many: servers with this key have {taken} of the "
                f"learner's inference.max_envs_per_key = {most}",
                retry=num_envs <= most,
            )

    def close(self, session: Session) -> None:
        """Forgets the session; its env_ids are free again."""
        del self._sessions[session.number]
        del self._by_server[session.hello.server_id]
        owner = session.key or session.identity
        self._envs_by_owner[owner] -= session.hello.num_envs
        if not self._envs_by_owner[owner]:
            del self._envs_by_owner[owner]
        self._taken[session.all_env_ids] = False
        for env_id in session.all_env_ids.tolist():
            heapq.heappush(self._free_env_ids, env_id)
