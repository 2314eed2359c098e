"""Who may talk to the socket's loop, and what becomes of bad messages, on real sockets."""

from __future__ import annotations

import logging
import re
from dataclasses import replace

import numpy as np
import pytest
import zmq

from seed.config.schema import ConfigError
from seed.inference import loop as inference
from seed.wire import codec, messages
from tests.seed.central import OFFER, central
from tests.waiting import wait_for

# Messages that are more than ZeroMQ and the system take off a connection by themselves.
UNREAD = 400


def test_a_hello_is_welcomed() -> None:
    with central() as served:
        welcome = served.connect().hello(2, 1)
        assert welcome.environment == OFFER.environment
        assert (welcome.observation, welcome.action) == (OFFER.observation, OFFER.action)
        assert sorted(welcome.env_ids.tolist()) == [0, 1, 2]
        assert served.inference.num_envs == 3
        other = served.connect().hello(3, server_id=2)
        assert sorted(other.env_ids.tolist()) == [3, 4, 5]
        seeds = {*welcome.seeds.tolist(), *other.seeds.tolist()}
        assert len(seeds) == 6
        assert min(seeds) >= 0


@pytest.mark.parametrize("session", [0, 1, 2**63, 2**64 - 1])
def test_an_unknown_session_is_told_to_say_hello(session: int) -> None:
    with central() as served:
        dealer = served.connect()
        dealer.hello(1)
        good, dealer.session = dealer.session, session
        dealer.step(0, [1])
        refusal = dealer.refusal()
        assert refusal.retry
        assert refusal.session == session
        assert "say HELLO again" in refusal.reason
        dealer.session = good
        dealer.step(0, [1])
        assert dealer.actions(0) == [1]


def test_a_session_belongs_to_its_connection() -> None:
    with central() as served:
        owner, thief = served.connect(), served.connect()
        owner.hello(1)
        thief.session = owner.session
        thief.step(0, [99])
        assert thief.refusal().retry
        thief.send(messages.Goodbye(owner.session, "closing what is not mine"))
        thief.expect_silence()
        owner.step(0, [1])
        assert owner.actions(0) == [1]


def test_one_connection_has_its_share_of_the_environments() -> None:
    with central(max_envs_per_key=3) as served:
        dealer, other = served.connect(), served.connect()
        dealer.send(messages.Hello(1, (2, 2), "large"))
        refusal = dealer.refusal()
        assert "max_envs_per_key = 3" in refusal.reason
        assert not refusal.retry
        dealer.hello(2, server_id=1)
        dealer.send(messages.Hello(2, (2,), "second"))
        assert dealer.refusal().retry
        other.hello(3, server_id=3)
        # Its own successor does not count twice.
        dealer.hello(3, server_id=1)


def test_a_server_that_says_hello_again_replaces_itself() -> None:
    with central() as served:
        first, second = served.connect(), served.connect()
        env_ids = first.hello(2, 2).env_ids.tolist()
        first.step(0, [1, 2])
        assert first.actions(0) == [1, 2]
        assert second.hello(2, 2).env_ids.tolist() == env_ids
        assert served.inference.num_envs == 4
        # What was summed up before is forgotten, and the first connection has no session.
        second.step(0, [5, 6])
        assert second.actions(0) == [5, 6]
        first.step(1, [1, 2])
        assert first.refusal().retry


def test_a_server_may_say_hello_again_on_the_same_connection() -> None:
    with central() as served:
        dealer = served.connect()
        earlier = dealer.hello(3)
        dealer.step(0, [1, 2, 3])
        assert dealer.actions(0) == [1, 2, 3]
        later = dealer.hello(3)
        assert later.session != earlier.session
        assert later.env_ids.tolist() == earlier.env_ids.tolist()
        assert later.seeds.tolist() != earlier.seeds.tolist()
        dealer.step(0, [1, 2, 3])
        assert dealer.actions(0) == [1, 2, 3]


def test_a_dead_connection_frees_its_env_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "_HOUSEKEEPING_S", 0.01)
    with central(lease_s=0.01) as served:
        dead = served.connect()
        dead.hello(6)
        dead.step(0, [1] * 6)
        dead.socket.close()
        wait_for(lambda: served.inference.num_envs == 0)
        alive = served.connect()
        alive.hello(6, server_id=2)
        alive.step(0, [2] * 6)
        while isinstance(message := alive.receive(), messages.Ping):
            assert message.session == alive.session
        assert isinstance(message, messages.Actions)


# As after a kill: the room of the dead is free long before `lease_s` has passed.
def test_somebody_who_finds_no_room_has_the_silent_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "_HOUSEKEEPING_S", 0.01)
    monkeypatch.setattr(inference, "_SHORTEST_LEASE_S", 0.01)
    with central(lease_s=3600.0) as served:
        dead, alive = served.connect(), served.connect()
        dead.hello(6)
        dead.socket.close()

        def is_let_in() -> bool:
            alive.send(messages.Hello(2, (6,), "successor"))
            return isinstance(alive.receive(), messages.Welcome)

        assert not is_let_in()
        wait_for(is_let_in)


def test_a_silent_connection_is_pinged_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "_HOUSEKEEPING_S", 0.01)
    with central(lease_s=0.01) as served:
        dealer = served.connect()
        dealer.hello(2)
        for _ in range(3):
            assert dealer.receive() == messages.Ping(dealer.session)
        assert served.inference.num_envs == 2


def test_a_connection_that_cannot_be_answered_is_closed() -> None:
    with central(queue_limit=1, lease_s=3600.0) as served:
        dead, alive = served.connect(), served.connect()
        dead.hello(2, 2)
        alive.hello(1, server_id=2)
        for seq in range(3):
            alive.step(seq, [1])
            alive.actions(seq)
        # The queue is full now, so that these wait until nobody is there any more.
        dead.step(0, [1, 1])
        dead.step(0, [1, 1], group=1)
        dead.expect_silence()
        dead.socket.close()
        alive.step(3, [1])
        # Many messages later, the socket has heard of it, too.
        for _ in range(8):
            alive.expect_silence()
        served.unrolls(1)
        assert alive.actions(3) == [4]
        wait_for(lambda: served.inference.num_envs == 1)


# Else its rows would go to whoever holds the env_ids by then.
def test_a_waiting_step_goes_with_its_session() -> None:
    with central(queue_limit=1) as served:
        leaver, other = served.connect(), served.connect()
        env_ids = leaver.hello(2).env_ids.tolist()
        other.hello(1, server_id=2)
        for seq in range(3):
            other.step(seq, [1])
            other.actions(seq)
        # The queue is full now.
        leaver.step(0, [50, 60])
        assert leaver.hello(2).env_ids.tolist() == env_ids
        leaver.step(0, [3, 4])
        leaver.expect_silence()
        served.unrolls(1)
        assert leaver.actions(0) == [3, 4]
        leaver.step(1, [3, 4])
        assert leaver.actions(1) == [6, 8]
        leaver.step(2, [3, 4])
        assert served.unrolls(2).rows.observations.T.tolist() == [[3, 3, 3], [4, 4, 4]]


def test_a_goodbye_frees_env_ids() -> None:
    with central() as served:
        dealer, waiting = served.connect(), served.connect()
        dealer.hello(4)
        waiting.send(messages.Hello(2, (3,), "waiting"))
        refusal = waiting.refusal()
        assert refusal.retry
        assert "max_envs = 6" in refusal.reason
        dealer.send(messages.Goodbye(dealer.session, "done"))
        dealer.expect_silence()
        waiting.hello(3, server_id=2)
        assert served.inference.num_envs == 3


@pytest.mark.parametrize(
    ("hello", "reason"),
    [
        (messages.Hello(1, (1,), "old", protocol=0), "speaks protocol 0, the learner 2"),
        (messages.Hello(1, (1,), "new", protocol=2**40), "the same version of this package"),
        (messages.Hello(1, (5,), "large"), "a group of 5 environments"),
    ],
    ids=["old", "new", "large"],
)
def test_a_server_that_never_fits_is_refused_for_good(hello: messages.Hello, reason: str) -> None:
    with central(max_batch=4) as served:
        dealer = served.connect()
        dealer.send(hello)
        refusal = dealer.refusal()
        assert reason in refusal.reason
        assert not refusal.retry
        assert refusal.session == 0
        assert served.inference.num_envs == 0


def test_says_goodbye_with_its_farewell() -> None:
    with central(farewell_ms=200) as served:
        dealer, other = served.connect(), served.connect()
        dealer.hello(1)
        other.hello(1, server_id=2)
        served.threads.join()
        assert dealer.receive() == messages.Goodbye(dealer.session, "the end")
        assert other.receive() == messages.Goodbye(other.session, "the end")


# What has not gone out yet goes no more where a connection is closed with unread messages.
def test_a_goodbye_waits_until_messages_under_way_are_read() -> None:
    with central(farewell_ms=1000) as served:
        # It takes little at a time, so that most of what it gets is still on the learner's side.
        dealer = served.connect(options=((zmq.RCVHWM, 1), (zmq.RCVBUF, 16_384)))
        dealer.hello(1)
        for _ in range(UNREAD):
            dealer.send(messages.Ping(0))
        wait_for(lambda: served.inference.messages_refused == UNREAD)
        served.threads.stop.set()
        for _ in range(UNREAD):
            dealer.send(messages.Ping(0))
        served.threads.join()
        received = [dealer.receive()]
        while isinstance(received[-1], messages.Refusal):
            received.append(dealer.receive())
        assert received[-1] == messages.Goodbye(dealer.session, "the end")


# An episode's random numbers must not come again after a restart.
def test_seeds_depend_on_everything_that_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    for seed in ((5, 0), (5, 0), (5, 900), (6, 0)):
        monkeypatch.setattr("tests.seed.central.OFFER", replace(OFFER, seed=seed))
        with central() as served:
            drawn.append(served.connect().hello(6).seeds.tolist())
    assert drawn[0] == drawn[1]
    assert len({*drawn[0], *drawn[2], *drawn[3]}) == 18


def test_an_address_in_use_is_a_configuration_error() -> None:
    with central() as served:
        address = served.inference.endpoint
        with pytest.raises(ConfigError, match=address), central(address=address):
            pass


def test_faults_are_counted_and_need_no_answer() -> None:
    with central() as served:
        dealer = served.connect()
        dealer.hello(2, 1)
        dealer.send(messages.Fault(dealer.session, 0, 1, "raised", 4, True, False, "in step"))
        dealer.send(messages.Fault(dealer.session, 1, None, "hung", 0, False, False, "in step"))
        # Of a session that has ended, say: nobody is interested any more.
        dealer.send(messages.Fault(dealer.session + 1, 0, 0, "raised", 0, True, False, "in step"))
        dealer.expect_silence()
        faults = served.inference.faults
        assert (faults.total, faults.num_quarantined) == (2, 1)
        dealer.send(messages.Goodbye(dealer.session, "bye"))
        wait_for(lambda: served.inference.num_envs == 0)
        assert (faults.total, faults.num_quarantined) == (2, 0)


@pytest.mark.parametrize(("group", "index"), [(2, 0), (0, 2), (1, 1), (None, 0)])
def test_faults_of_nothing_are_refused(group: int | None, index: int) -> None:
    with central() as served:
        dealer = served.connect()
        dealer.hello(2, 1)
        dealer.send(messages.Fault(dealer.session, group, index, "raised", 0, True, False, ""))
        assert re.search("expected (below|none)", dealer.refusal().reason)
        assert served.inference.faults.total == 0


def test_the_log_obeys_no_server(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with central() as served:
        dealer = served.connect()
        dealer.send(messages.Hello(1, (1,), "\x1b[2Jname"))
        welcome = dealer.receive()
        assert isinstance(welcome, messages.Welcome)
        dealer.send(messages.Fault(welcome.session, 0, 0, "\x1b]0;x", 0, False, False, "\x1b[31m"))
        dealer.send(messages.Goodbye(welcome.session, "bye\r\x1b[A"))
        wait_for(lambda: served.inference.num_envs == 0)
        dealer.socket.send_multipart([b"\x81\xa4type\xa5\x1b[2Jx", b""])
        dealer.refusal()
    assert len(caplog.messages) >= 4
    for message in caplog.messages:
        assert all(line.isprintable() for line in message.split("\n"))
    assert any(r"\x1b[2Jname left: bye\r\x1b[A" in message for message in caplog.messages)
    assert served.inference.server_of(0) == r"\x1b[2Jname"


def test_rows_of_an_environment_that_is_down_are_no_steps_and_not_missed() -> None:
    with central() as served:
        dealer = served.connect()
        dealer.hello(2)
        for seq in range(6):
            flags = np.array([messages.FIRST, messages.FIRST if seq == 0 else 0], np.uint8)
            arrays = messages.StepArrays(
                np.array([0, 7], np.uint64), np.array([0, 5]), np.zeros(2, np.float32), flags,
                np.array([], messages.EPISODE_DTYPE),
            )  # fmt: skip
            dealer.send(messages.Step(dealer.session, 0, seq, codec.step_frames(arrays)))
            # Its recurrent state begins anew in every row.
            assert dealer.actions(seq) == [0, 5 * (seq + 1)]
        wait_for(lambda: served.inference.env_steps == 5)
        assert served.store.rows_dropped == 0
        assert served.store.num_ready > 0
        for _ in range(served.store.num_ready):
            assert served.unrolls(1).rows.observations.min() == 5
