"""Environment servers that come, go, repeat themselves and mix messages up, against a model.

Every row says which session sent it, in which STEP and for which environment, so that an unroll
shows whether it is of one history. The run_ids never change: only sessions and `seq` tell.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from seed.wire.messages import Actions, Goodbye, Hello, Message, Refusal, Welcome
from tests.seed.central import Offline, Peer

MAX_ENVS = 6
_FORGED = 900
SERVER_IDS = st.integers(1, 3)
GROUPS = st.lists(st.integers(1, 2), min_size=1, max_size=2)
CHOICE = st.integers(0, 10**6)


@dataclass
class Server:
    """A session as its environment server knows it.

    Attributes:
        index: Number of the session in the order in which they were opened, in every row.
        next_seq: The seq of each group's next STEP.
        alive: Whether the learner has not been told anything newer.
    """

    index: int
    server_id: int
    groups: list[int]
    peer: Peer
    session: int
    next_seq: list[int] = field(default_factory=list)
    alive: bool = True


class ProtocolMachine(RuleBasedStateMachine):
    """Rules are what environment servers may do, and what they must not."""

    def __init__(self) -> None:
        super().__init__()
        self.offline = Offline(max_envs=MAX_ENVS)
        self.servers: list[Server] = []
        self.unrolls = 0

    def teardown(self) -> None:
        event("unrolls seen" if self.unrolls else "no unroll")

    # --- what a server does ------------------------------------------------------------------

    def settle(self, peer: Peer) -> list[Message]:
        """All that a connection is told now."""
        while self.offline.act():
            pass
        told = list(peer.inbox)
        peer.inbox.clear()
        return told

    def send_step(
        self, server: Server, group: int, seq: int, peer: Peer | None = None,
        *, forged: bool = False,
    ) -> None:  # fmt: skip
        """Sends a STEP whose rows say where they are from, or that they must not be anywhere."""
        index = _FORGED if forged else server.index
        rows = [
            index * 10**6 + seq * 100 + group * 10 + env for env in range(server.groups[group])
        ]
        peer = peer or server.peer
        peer.session = server.session
        peer.step(seq, rows, group=group)

    def live(self, choice: int) -> Server:
        alive = [server for server in self.servers if server.alive]
        return alive[choice % len(alive)]

    @property
    def num_envs(self) -> int:
        return sum(sum(server.groups) for server in self.servers if server.alive)

    def any_alive(self) -> bool:
        return any(server.alive for server in self.servers)

    # --- rules -------------------------------------------------------------------------------

    @initialize(server_id=SERVER_IDS, groups=GROUPS)
    def first_hello(self, server_id: int, groups: list[int]) -> None:
        self.hello(server_id, groups, False, 0)

    @rule(server_id=SERVER_IDS, groups=GROUPS, reuse=st.booleans(), choice=CHOICE)
    def hello(self, server_id: int, groups: list[int], reuse: bool, choice: int) -> None:
        """A new process, or a reconnection: whatever the server_id had before is over."""
        peer = (
            self.live(choice).peer if reuse and self.any_alive() else self.offline.connect()
        )
        for server in self.servers:
            server.alive &= server.server_id != server_id
        peer.send(Hello(server_id, tuple(groups), "model"))
        answers = self.settle(peer)
        if self.num_envs + sum(groups) > MAX_ENVS:
            assert any(isinstance(each, Refusal) and each.retry for each in answers)
            return
        welcome = next(each for each in answers if isinstance(each, Welcome))
        self.servers.append(
            Server(len(self.servers), server_id, groups, peer, welcome.session, [0] * len(groups))
        )

    @precondition(any_alive)
    @rule(choice=CHOICE, count=st.integers(1, 8))
    def steps(self, choice: int, count: int) -> None:
        """Each STEP is answered with actions for it, and nothing else."""
        server = self.live(choice)
        group = choice % len(server.groups)
        for _ in range(count):
            self.step_ahead(server, group, 0)

    @precondition(any_alive)
    @rule(choice=CHOICE, lost=st.integers(1, 3))
    def gap(self, choice: int, lost: int) -> None:
        server = self.live(choice)
        self.step_ahead(server, choice % len(server.groups), lost)

    def step_ahead(self, server: Server, group: int, lost: int) -> None:
        seq = server.next_seq[group] + lost
        server.next_seq[group] = seq + 1
        self.send_step(server, group, seq)
        actions = server.peer.receive()
        assert isinstance(actions, Actions)
        assert (actions.session, actions.group, actions.seq) == (server.session, group, seq)
        assert len(actions.actions) == 8 * server.groups[group]

    @precondition(any_alive)
    @rule(choice=CHOICE, back=st.integers(1, 5), forged=st.booleans())
    def double(self, choice: int, back: int, forged: bool) -> None:
        """A seq that has been, with the same rows or others, is ignored."""
        server = self.live(choice)
        group = choice % len(server.groups)
        seq = server.next_seq[group] - back
        if seq >= 0:
            self.send_step(server, group, seq, forged=forged)
            assert self.settle(server.peer) == []

    @precondition(any_alive)
    @rule(choice=CHOICE)
    def reordered(self, choice: int) -> None:
        """The later one is a gap, and the earlier one then comes too late."""
        server = self.live(choice)
        group = choice % len(server.groups)
        self.step_ahead(server, group, 1)
        self.send_step(server, group, server.next_seq[group] - 2)
        assert self.settle(server.peer) == []

    @precondition(lambda self: self.servers)
    @rule(choice=CHOICE, other=CHOICE, ahead=st.integers(0, 3))
    def replay(self, choice: int, other: int, ahead: int) -> None:
        """Of a session that is over, or from another connection: refused, and stored nowhere."""
        server = self.servers[choice % len(self.servers)]
        sender = self.servers[other % len(self.servers)].peer
        if server.alive and sender is server.peer:
            return
        seq = server.next_seq[0] + ahead
        self.send_step(server, 0, seq, sender, forged=True)
        (refusal,) = self.settle(sender)
        assert isinstance(refusal, Refusal)
        assert refusal.retry
        assert refusal.session == server.session

    @precondition(any_alive)
    @rule(choice=CHOICE, other=CHOICE)
    def goodbye(self, choice: int, other: int) -> None:
        """Only a session's own connection ends it."""
        server, sender = self.live(choice), self.live(other).peer
        sender.send(Goodbye(server.session, "leaving"))
        assert self.settle(sender) == []
        server.alive = sender is not server.peer

    @invariant()
    def look(self) -> None:
        """Every unroll is of one environment in one session, without a gap."""
        assert self.offline.sessions.num_envs == self.num_envs
        while pages := self.offline.store.take(1, 0.0):
            unroll = self.offline.store.gather(pages)
            self.offline.store.release(pages)
            rows = unroll.rows.observations[""].flatten().numpy()
            assert (np.diff(rows) == 100).all(), rows
            assert rows[0] // 10**6 < len(self.servers), rows
            self.unrolls += 1


TestProtocol = ProtocolMachine.TestCase
TestProtocol.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)  # fmt: skip
