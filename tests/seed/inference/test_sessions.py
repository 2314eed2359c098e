"""What becomes of messages, at times that the tests choose: no socket, no thread, no waiting."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seed.contract import ActOutput
from seed.inference.admission import Admission
from seed.inference.session_table import SessionTable
from seed.transport.authentication import AllowList
from seed.wire.keys import KeyPair, write_pair
from seed.wire.messages import FIRST, Actions, Fault, Goodbye, Hello, Ping, Refusal, Step, Welcome
from tests.seed.acting import Shown
from tests.seed.central import OFFER, Offline, Peer
from tests.seed.wire.malformed import MALFORMED, MISDIRECTED, wrong_rows


@pytest.fixture
def keys(tmp_path: Path) -> tuple[str, str]:
    """Two public keys that are allowed."""
    pairs = KeyPair.new(), KeyPair.new()
    for name, pair in zip(("good", "other"), pairs, strict=True):
        write_pair(tmp_path / name, pair)
    return pairs[0].public, pairs[1].public


@pytest.fixture
def allowed(keys: tuple[str, str], tmp_path: Path) -> AllowList:
    return AllowList(tmp_path)


def hello(*groups: int, server_id: int = 1) -> Hello:
    return Hello(server_id, groups, f"test {server_id}")


# --- who has a session ---------------------------------------------------------------------------


def test_a_hello_is_welcomed_with_what_to_run() -> None:
    offline = Offline()
    welcome = offline.connect().hello(2, 1)
    assert welcome.environment == OFFER.environment
    assert (welcome.observation, welcome.action) == (OFFER.observation, OFFER.action)
    assert welcome.env_ids.tolist() == [0, 1, 2]
    other = offline.connect().hello(3, server_id=2)
    assert other.env_ids.tolist() == [3, 4, 5]
    assert offline.sessions.num_envs == 6
    seeds = {*welcome.seeds.tolist(), *other.seeds.tolist()}
    assert len(seeds) == 6
    assert min(seeds) >= 0


# An episode's random numbers must not come again after a restart.
def test_seeds_are_an_environments_own_whoever_is_welcomed_first_and_never_come_again() -> None:
    def seeds(*servers: int) -> list[int]:
        """Of all env_ids in order, where servers of so many environments say HELLO in turn."""
        offline = Offline()
        welcomes = [
            offline.connect().hello(num_envs, server_id=number)
            for number, num_envs in enumerate(servers)
        ]
        return [seed for welcome in welcomes for seed in welcome.seeds.tolist()]

    assert seeds(2, 4) == seeds(4, 2) == seeds(6)
    offline = Offline()
    # One server after another that leaves before its first STEP.
    given = [offline.connect().hello(2).seeds.tolist() for _ in range(3)]
    assert len({seed for each in given for seed in each}) == 6


def test_seeds_depend_on_everything_that_was_given() -> None:
    drawn = [
        Offline(offer=replace(OFFER, seed=seed)).connect().hello(6).seeds.tolist()
        for seed in ((5, 0), (5, 0), (5, 900), (6, 0))
    ]
    assert drawn[0] == drawn[1]
    assert len({*drawn[0], *drawn[2], *drawn[3]}) == 18


# The lowest are given out first, so that environments which evaluate are found among few as among
# many.
@settings(max_examples=50, deadline=None)
@given(
    operations=st.lists(
        st.one_of(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(0, 5)),
        max_size=30,
    )
)
def test_env_ids_are_held_once_and_the_lowest_first(operations: list[list[int] | int]) -> None:
    table = SessionTable(10, 4)
    free, names = set(range(10)), [""] * 10
    for server_id, operation in enumerate(operations):
        sessions = list(table)
        if isinstance(operation, list) and sum(operation) <= len(free):
            session = table.open(hello(*operation, server_id=server_id), b"id", 0.0)
            assert [len(env_ids) for env_ids in session.env_ids] == operation
            assert session.next_seq == [0] * len(operation)
            assert session.all_env_ids.tolist() == sorted(free)[: sum(operation)]
            for env_id in session.all_env_ids.tolist():
                free.remove(env_id)
                names[env_id] = f"test {server_id}"
            assert list(table) == [*sessions, session]
        elif isinstance(operation, int) and operation < len(sessions):
            table.close(sessions[operation])
            free.update(sessions[operation].all_env_ids.tolist())
        assert table.env_ids.tolist() == [env_id for env_id in range(10) if env_id not in free]
        assert table.num_envs == 10 - len(free)
        # Who has gone is known until another comes.
        assert [table.server_of(env_id) for env_id in range(10)] == names


@pytest.mark.parametrize("reconnects", [False, True])
def test_a_server_that_says_hello_again_replaces_itself(reconnects: bool) -> None:
    offline = Offline()
    first = offline.connect()
    earlier = first.hello(2, 2)
    assert first.exchange(0, [1, 2]) == [1, 2]
    second = offline.connect() if reconnects else first
    later = second.hello(2, 2)
    assert later.env_ids.tolist() == earlier.env_ids.tolist()
    assert later.session != earlier.session
    assert later.seeds.tolist() != earlier.seeds.tolist()
    assert offline.sessions.num_envs == 4
    # What was summed up before is forgotten, and the earlier session refused.
    assert second.exchange(0, [5, 6]) == [5, 6]
    first.session = earlier.session
    first.step(1, [1, 2])
    assert first.refusal().retry


@pytest.mark.parametrize("session", [0, 1, 2**63, 2**64 - 1])
def test_an_unknown_session_is_told_to_say_hello(session: int) -> None:
    peer = Offline().connect()
    peer.hello(1)
    peer.session = session
    peer.step(0, [1])
    reason = "the session has ended; say HELLO again"
    assert peer.receive() == Refusal(reason, retry=True, session=session)


@pytest.mark.parametrize(
    ("refused", "reason", "retry"),
    [
        # Of another version, nothing but the version is read.
        (Hello(2, (1,), "old", protocol=0), "protocol 0, the learner 2: install the same", False),
        (Hello(2, (1,), "new", protocol=2**40), f"protocol {2**40}, the learner 2", False),
        (hello(1, 5, server_id=2), r"a group of 5 environments .*max_batch = 4", False),
        # Waiting cannot help here.
        (hello(4, 3, server_id=2), r"7 environments .*max_envs = 6", False),
        (hello(4, 1, server_id=2), "5 environments are too many: 2 .*max_envs = 6", True),
        (hello(3, server_id=2), "have 0 of .*max_envs_per_key = 2", False),
    ],
)
def test_who_cannot_be_served_is_told_why(refused: Hello, reason: str, retry: bool) -> None:
    offline = Offline(max_batch=4, max_envs_per_key=2)
    offline.connect().hello(2, server_id=1)
    peer = offline.connect()
    peer.send(refused)
    refusal = peer.refusal()
    assert re.search(reason, refusal.reason)
    assert (refusal.retry, refusal.session) == (retry, 0)
    assert offline.sessions.num_envs == 2
    peer.hello(2, server_id=3)


# Many servers may share a key, and one connection's servers without keys share that.
@pytest.mark.parametrize("with_keys", [False, True])
def test_a_key_or_connection_has_its_share_of_the_environments(
    with_keys: bool, keys: tuple[str, str], allowed: AllowList
) -> None:
    offline = Offline(max_envs_per_key=3, allowed=allowed if with_keys else None)
    peer = offline.connect(keys[0] * with_keys)
    second = offline.connect(keys[0]) if with_keys else peer
    peer.hello(2, server_id=1)
    second.send(hello(2, server_id=2))
    refusal = second.refusal()
    assert "have 2 of the learner's inference.max_envs_per_key = 3" in refusal.reason
    assert refusal.retry
    offline.connect(keys[1] * with_keys).hello(3, server_id=3)
    # Its own successor does not count twice.
    peer.hello(3, server_id=1)


# --- how sessions end ----------------------------------------------------------------------------


@pytest.mark.parametrize("says", [Step, Fault])
@pytest.mark.parametrize(
    ("silent_s", "gone", "comes"),
    [(9.9, False, []), (10.1, False, [Ping]), (9.9, True, []), (10.1, True, [])],
)
def test_a_silent_connection_is_tested_after_its_lease(
    silent_s: float, gone: bool, comes: list[type], says: type
) -> None:
    offline = Offline(lease_s=10.0)
    silent, other = offline.connect(), offline.connect()
    silent.hello(2)
    offline.now_s = 1.0
    # Every message of a session begins the lease anew.
    if says is Step:
        silent.step(0, [1, 2])
    else:
        silent.send(Fault(silent.session, 0, 0, "raised", 0, False, False, ""))
    offline.now_s = 1.0 + silent_s
    other.hello(1, server_id=2)
    silent.gone = gone
    offline.expire()
    assert [type(message) for message in silent.inbox] == comes
    assert offline.sessions.num_envs == (1 if gone and silent_s > 10 else 3)
    assert not other.inbox


# As after a kill: the room of the dead is free long before `lease_s` has passed.
@pytest.mark.parametrize(("silent_s", "left"), [(0.9, 6), (1.1, 0)])
def test_who_finds_no_room_has_the_silent_tested_once(silent_s: float, left: int) -> None:
    offline = Offline(lease_s=3600.0)
    dead, alive = offline.connect(), offline.connect()
    dead.hello(6)
    dead.gone = True
    offline.now_s = silent_s
    offline.expire()
    assert offline.sessions.num_envs == 6
    alive.send(hello(6, server_id=2))
    assert alive.refusal().retry
    offline.expire()
    assert offline.sessions.num_envs == left
    alive.send(hello(6, server_id=2))
    offline.now_s = 100.0
    if left:
        offline.expire()
    offline.expire()
    assert [type(message) for message in alive.inbox] == [Refusal if left else Welcome]


@pytest.mark.parametrize("kind", [Welcome, Actions])
def test_a_connection_that_cannot_be_answered_has_no_session(
    kind: type, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    offline = Offline()
    peer, other = offline.connect(), offline.connect()
    other.hello(1, server_id=2)
    if kind is Welcome:
        peer.gone = True
        peer.send(hello(2, 2))
    else:
        peer.hello(2, 2)
        peer.step(0, [1, 1])
        peer.step(0, [1, 1], group=1)
        peer.gone = True
        assert offline.act()
    assert offline.sessions.num_envs == 1
    reason = "it left during the handshake" if kind is Welcome else "the connection is gone"
    assert caplog.messages[-1] == f"test 1 left: {reason}"
    assert other.exchange(0, [1]) == [1]


# Nor must what a thief is told end the session that he has named.
def test_other_messages_that_are_not_delivered_end_nothing() -> None:
    offline = Offline()
    owner, thief = offline.connect(), offline.connect()
    owner.hello(1)
    thief.session, thief.gone = owner.session, True
    thief.step(0, [1])
    offline.sessions.undelivered(Goodbye(owner.session, "the end"), 0.0)
    assert offline.sessions.num_envs == 1


# --- rows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seqs", "answered", "histories"),
    [
        ([0, 1, 2], [0, 1, 2], 1),
        ([0, 1, 0, 1, 1, 2], [0, 1, 2], 1),
        ([0, 1, 3, 4], [0, 1, 3, 4], 2),
        ([0, 3, 2, 1, 4], [0, 3, 4], 2),
        ([5, 6], [5, 6], 2),
        ([2**64 - 1, 0], [2**64 - 1], 2),
    ],
    ids=["in order", "doubles", "gap", "out of order", "late start", "largest"],
)
def test_a_missing_row_breaks_the_history_and_an_old_one_is_ignored(
    seqs: list[int], answered: list[int], histories: int
) -> None:
    offline = Offline()
    peer = offline.connect()
    env_ids = peer.hello(1, 2).env_ids.tolist()
    for seq in seqs:
        peer.step(seq, [1])
        offline.act()
    assert [message.seq for message in peer.inbox if isinstance(message, Actions)] == answered
    # The other group goes on as if nothing had happened.
    assert offline.dropped == (histories - 1) * env_ids[:1]


# While the queue is full, a STEP waits, and so an impatient server's next one finds it waiting.
def test_a_step_that_overtakes_another_breaks_the_history() -> None:
    offline = Offline(queue_limit=1)
    peer = offline.connect()
    peer.hello(1)
    for seq in range(3):
        peer.exchange(seq, [seq])
    peer.step(3, [3])
    peer.step(4, [4])
    peer.expect_silence()
    offline.unrolls(1)
    assert peer.actions(4) == [4]
    for seq in (5, 6):
        peer.exchange(seq, [seq])
    assert offline.unrolls(1).rows.observations[""].flatten().tolist() == [4, 5, 6]


# Else its rows would go to whoever holds the env_ids by then.
def test_a_waiting_step_goes_with_its_session() -> None:
    offline = Offline(queue_limit=0)
    leaver = offline.connect()
    env_ids = leaver.hello(2).env_ids.tolist()
    leaver.step(0, [50, 60])
    assert leaver.hello(2).env_ids.tolist() == env_ids
    leaver.step(0, [3, 4])
    leaver.expect_silence()
    offline.queue_limit = 100
    assert leaver.actions(0) == [3, 4]
    assert offline.batches == [2]


def test_rows_of_an_environment_that_is_down_are_not_missed() -> None:
    offline = Offline()
    peer = offline.connect()
    peer.hello(2)
    for seq in range(6):
        flags = [FIRST, 0 if seq else FIRST]
        peer.step_arrays(seq, np.array([0, 5]), flags=flags, run_ids=[0, 7])
        # Its recurrent state begins anew in every row.
        assert peer.actions(seq) == [0, 5 * (seq + 1)]
    assert offline.store.rows_dropped == 0
    assert offline.unrolls(offline.store.num_ready).rows.observations[""].min() == 5


# --- the fleet -----------------------------------------------------------------------------------


def act_by_position(shown: Shown) -> ActOutput:
    """The action is 60 times the environment's position in the fleet."""
    return ActOutput((60 * shown.fleet.positions).round().long(), {}, shown.agent_state)


@pytest.mark.parametrize("parting", ["goodbye", "hello"])
def test_positions_follow_who_is_connected(parting: str) -> None:
    offline = Offline(choose=act_by_position)
    first, second, third = (offline.connect() for _ in range(3))
    first.hello(3)
    assert first.exchange(0, [0] * 3) == [0, 30, 60]
    second.hello(3, server_id=2)
    assert first.exchange(1, [0] * 3) == [0, 12, 24]
    assert second.exchange(0, [0] * 3) == [36, 48, 60]
    if parting == "goodbye":
        first.send(Goodbye(first.session, "done"))
        assert second.exchange(1, [0] * 3) == [0, 30, 60]
        third.hello(1, server_id=3)
        assert second.exchange(2, [0] * 3) == [20, 40, 60]
    else:
        first.hello(1)
        assert second.exchange(1, [0] * 3) == [20, 40, 60]


# A fleet that is too small for one would have no evaluation returns, and nobody would know why.
@pytest.mark.parametrize(("share", "told"), [(0.2, True), (1 / 3, False), (0.0, False)])
def test_says_once_where_no_environment_evaluates(
    share: float, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    offline = Offline(evaluation_share=share)
    offline.connect().hello(3)
    offline.connect().hello(1, server_id=2)
    lines = [message for message in caplog.messages if "no evaluation environment yet" in message]
    assert len(lines) == told
    assert all("the first is number 5 of" in line and "there are 3" in line for line in lines)


# --- what cannot be used -------------------------------------------------------------------------

GOOD_ROW = [bytes(8), bytes(8), bytes(4), bytes(1), b""]


def expect_refusal(peer: Peer, reason: str, session: int) -> None:
    refusal = peer.refusal()
    assert re.search(f"^malformed message: .*({reason})", refusal.reason)
    assert (refusal.retry, refusal.session) == (False, session)


def test_what_cannot_be_used_is_refused_and_nothing_else() -> None:
    offline = Offline()
    peer, other = offline.connect(), offline.connect()
    peer.hello(1, 1)
    other.hello(1, server_id=2)
    for name, (frames, reason) in {**MALFORMED, **MISDIRECTED}.items():
        # By the next one, much is forgiven.
        offline.now_s += 1.0
        peer.send_frames(frames)
        expect_refusal(peer, reason, session=int(name in ("Actions", "Ping")))
    for frames, reason in wrong_rows(GOOD_ROW, 1).values():
        offline.now_s += 1.0
        peer.send(Step(peer.session, 0, 0, frames))
        expect_refusal(peer, reason, peer.session)
    for group in (2, 2**64 - 1):
        peer.send(Step(peer.session, group, 0, GOOD_ROW))
        expect_refusal(peer, "group: expected below 2", peer.session)
    assert peer.exchange(0, [1]) == [1]
    assert other.exchange(0, [2]) == [2]
    assert not offline.dropped


# As many as a server with all its groups may send at once.
@pytest.mark.parametrize("flood", ["rubbish", "hellos", "endless"])
def test_a_flood_mutes_its_connection_for_a_while_and_ends_its_session(flood: str) -> None:
    offline = Offline()
    peer, other = offline.connect(), offline.connect()
    peer.hello(2)
    other.hello(2, server_id=2)
    for _ in range(200):
        if flood == "hellos":
            peer.send(hello(2))
        else:
            peer.send_frames([b""] * (9 if flood == "endless" else 8))
    answers = [peer.receive() for _ in range(len(peer.inbox))]
    # One of the 128 was the first HELLO.
    assert len(answers) == (2 if flood == "endless" else 127 + 2)
    kind = Welcome if flood == "hellos" else Refusal
    assert all(isinstance(answer, kind) for answer in answers[:-2])
    assert isinstance(answers[-2], Refusal)
    if flood == "hellos":
        assert answers[-2].reason == "HELLO comes too often"
    assert isinstance(answers[-1], Goodbye)
    assert answers[-1].reason == "too many messages that cannot be used"
    assert offline.sessions.num_envs == 2
    assert other.exchange(0, [1, 1]) == [1, 1]
    for offline.now_s in (4.9, 5.1):
        offline.expire()
        peer.expect_silence()
        peer.send(hello(2))
    assert isinstance(peer.receive(), Welcome)
    # It has hardly earned any credit in the meantime.
    if flood != "endless":
        for _ in range(60):
            peer.send_frames([b""])
        assert offline.sessions.num_envs == 2


# A session that ends costs a server a refusal for each of its 64 groups.
def test_an_honest_server_is_not_muted() -> None:
    offline = Offline()
    peer = offline.connect()
    for offline.now_s in [0.0] * 64 + [1.0] * 64 + list(range(2, 100)):
        offline.expire()
        peer.step(0, [1])
        assert peer.refusal().retry
    peer.expect_silence()


def test_connections_of_long_ago_are_forgotten() -> None:
    admission = Admission(None)
    for number in range(20_000):
        admission.refuse(b"%d" % number, "rubbish", 0.0)
    admission.expire(0.0)
    assert len(admission._limits) == 10_000
    for _ in range(200):
        admission.refuse(b"a", "rubbish", 1.0)
    admission.expire(2.0)
    assert set(admission._limits) == {b"a"}
    admission.expire(100.0)
    assert not admission._limits
    assert not admission._muted


# --- faults and the log --------------------------------------------------------------------------


def test_faults_are_counted_and_need_no_answer() -> None:
    offline = Offline()
    peer = offline.connect()
    peer.hello(2, 1)
    peer.send(Fault(peer.session, 0, 1, "raised", 4, True, False, "in step"))
    peer.send(Fault(peer.session, 1, None, "hung", 0, False, False, "in step"))
    # Of a session that has ended, say: nobody is interested any more.
    peer.send(Fault(peer.session + 1, 0, 0, "raised", 0, True, False, "in step"))
    peer.expect_silence()
    faults = offline.sessions.faults
    assert (faults.total, faults.num_quarantined) == (2, 1)
    peer.send(Goodbye(peer.session, "bye"))
    assert (faults.total, faults.num_quarantined) == (2, 0)


def test_what_was_not_told_at_once_is_told_later(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    offline = Offline()
    for _ in range(21):
        peer = offline.connect()
        peer.hello(2)
    peer.send(Fault(peer.session, 0, 1, "raised", 4, True, False, "in step"))
    offline.now_s = 10.0
    offline.expire()
    assert "test 1: 1 of 2 environments stay down; in step" in caplog.messages
    assert "and 1 more environment servers connected" in caplog.messages


@pytest.mark.parametrize(("group", "index"), [(2, 0), (0, 2), (1, 1), (None, 0)])
def test_faults_of_nothing_are_refused(group: int | None, index: int) -> None:
    offline = Offline()
    peer = offline.connect()
    peer.hello(2, 1)
    peer.send(Fault(peer.session, group, index, "raised", 0, True, False, ""))
    expect_refusal(peer, "expected (below|none)", peer.session)
    assert offline.sessions.faults.total == 0


def test_the_log_obeys_no_server(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    offline = Offline()
    peer = offline.connect()
    peer.send(Hello(1, (1,), "\x1b[2Jname"))
    welcome = peer.receive()
    assert isinstance(welcome, Welcome)
    peer.send(Fault(welcome.session, 0, 0, "\x1b]0;x", 0, False, False, "\x1b[31m"))
    peer.send(Goodbye(welcome.session, "bye\r\x1b[A"))
    peer.send_frames([b"\x81\xa4type\xa5\x1b[2Jx", b""])
    # What it is refused with repeats all of its groups.
    peer.send(Hello(1, (2**63,) * 64, "long"))
    assert len(caplog.messages) == 5
    assert len(caplog.messages[-1]) < 300
    for message in caplog.messages:
        assert all(line.isprintable() for line in message.split("\n"))
    assert r"\x1b[2Jname left: bye\r\x1b[A" in caplog.messages
    assert offline.sessions.server_of(0) == r"\x1b[2Jname"


# --- keys ----------------------------------------------------------------------------------------


def test_a_revoked_key_is_cut_off_while_it_is_connected(
    keys: tuple[str, str], allowed: AllowList, tmp_path: Path
) -> None:
    offline = Offline(allowed=allowed)
    revoked, other = (offline.connect(key) for key in keys)
    revoked.hello(2)
    other.hello(2, server_id=2)
    (tmp_path / "good.pub").unlink()
    allowed.refresh(0.0)
    offline.expire()
    assert revoked.receive() == Goodbye(revoked.session, "the key is not allowed any more")
    assert offline.sessions.num_envs == 2
    # Nothing that it says from now on is decoded, let alone answered.
    revoked.send(hello(1))
    revoked.send_frames([b"\xc1"] * 3)
    revoked.expect_silence()
    # Nor what somebody says who has no key, or one that is not in the list.
    for key in ("", "unknown"):
        offline.connect(key).send(hello(1, server_id=3))
    assert (offline.admission.messages_refused, offline.admission.messages_dropped) == (0, 4)
    assert other.exchange(0, [1, 2]) == [1, 2]


# Its own reconnection takes a session over; that of another key must not. A connection may choose
# its identity.
@pytest.mark.parametrize("same_identity", [False, True])
def test_no_other_key_takes_a_session_over(
    keys: tuple[str, str], allowed: AllowList, same_identity: bool
) -> None:
    offline = Offline(allowed=allowed)
    victim, thief = (offline.connect(key) for key in keys)
    victim.hello(2)
    assert victim.exchange(0, [1, 2]) == [1, 2]
    if same_identity:
        thief = Peer(offline, victim.identity, thief.key)
        thief.inbox = victim.inbox
    thief.send(hello(2))
    refusal = thief.refusal()
    assert "another key" in refusal.reason
    assert not refusal.retry
    thief.session = victim.session
    thief.step(1, [9, 9])
    assert thief.refusal().retry
    thief.send(Fault(victim.session, 0, 0, "raised", 0, True, False, ""))
    thief.send(Goodbye(victim.session, "away with it"))
    thief.expect_silence()
    assert offline.sessions.faults.total == 0
    assert victim.exchange(1, [1, 2]) == [2, 4]
    offline.connect(keys[0]).hello(2)
    assert offline.sessions.num_envs == 2
