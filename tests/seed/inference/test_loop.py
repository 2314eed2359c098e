"""What only the loop does, on real sockets: send and receive, pause, measure, and end."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import zmq
from torch import nn

from seed.inference import loop
from seed.inference.loop import BatchRecord, EpisodeRecord, Inference
from seed.wire import messages
from tests.seed.central import central, drain
from tests.seed.wire.malformed import MALFORMED, MISDIRECTED
from tests.waiting import wait_for

# Messages that are more than ZeroMQ and the system take off a connection by themselves.
UNREAD = 400


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is due once a second is due at every turn."""
    monkeypatch.setattr(loop, "_HOUSEKEEPING_S", 0.01)


def test_a_step_is_answered_with_its_actions() -> None:
    with central() as served:
        dealer = served.connect()
        dealer.hello(2, 1)
        assert dealer.exchange(0, [3, 4]) == [3, 4]
        assert dealer.exchange(0, [9], group=1) == [9]
        assert dealer.exchange(1, [10, 20]) == [13, 24]
        assert served.inference.num_envs == 3


def test_a_batch_waits_for_its_rows_on_the_socket() -> None:
    with central(min_batch=4, max_wait_us=10**9) as served:
        first, second = served.connect(), served.connect()
        first.hello(2)
        second.hello(2, server_id=2)
        first.step(0, [1, 2])
        first.expect_silence()
        assert second.exchange(0, [5, 6]) == [5, 6]
        assert first.actions(0) == [1, 2]
        # Rows waited for other rows, not for the learner.
        assert served.inference.paused_s == 0


def test_a_sockets_file_goes_with_it_and_not_before_unnoticed(
    hasty: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    for removed in (False, True):
        with central(address="ipc://learner.sock") as served:
            served.connect().hello(1)
            assert Path("learner.sock").is_socket()
            if removed:
                Path("learner.sock").unlink()
                wait_for(lambda: "its file was removed" in caplog.text)
        assert not Path("learner.sock").exists()


@pytest.mark.parametrize(
    ("limits", "rows"), [({"queue_limit": 2}, 5), ({"num_pages": 3}, 6)], ids=["queue", "store"]
)
def test_inference_pauses_until_the_learner_makes_room(limits: dict[str, Any], rows: int) -> None:
    with central(**limits) as served:
        dealer = served.connect()
        dealer.hello(1)
        for seq in range(rows):
            assert dealer.exchange(seq, [1]) == [seq + 1]
        wait_for(lambda: served.store.num_ready == 2)
        assert served.inference.paused_s == 0
        dealer.step(rows, [1])
        # Messages are read in between.
        dealer.expect_silence()
        pages = served.store.take(2, 0)
        assert pages is not None
        if "num_pages" in limits:
            # That they are out of the queue is not enough.
            dealer.expect_silence()
        assert served.store.gather(pages).rows.observations[""].flatten().tolist() == [1] * 6
        served.store.release(pages)
        assert dealer.actions(rows) == [rows + 1]
        paused_s = served.inference.paused_s
        assert paused_s > 0
        assert dealer.exchange(rows + 1, [1]) == [rows + 2]
        assert served.inference.paused_s == paused_s


def test_counts_steps_and_episodes() -> None:
    with central(evaluation_share=0.5) as served:
        dealer = served.connect()
        env_ids = dealer.hello(2, 1).env_ids.tolist()
        dealer.step(0, [1, 1], flags=messages.FIRST)
        dealer.actions(0)
        dealer.step(1, [1, 1], flags=messages.TERMINATED, episodes=[(1, 7, -2.5)])
        dealer.actions(1)
        dealer.step(0, [1], group=1, episodes=[(0, 3, 4.0)])
        dealer.actions(0, group=1)
        wait_for(lambda: served.inference.records.qsize() == 5)
        records = drain(served.inference.records)
        assert [r for r in records if isinstance(r, EpisodeRecord)] == [
            EpisodeRecord(env_ids[1], -2.5, 7, True),
            EpisodeRecord(env_ids[2], 4.0, 3, False),
        ]
        batches = [r for r in records if isinstance(r, BatchRecord)]
        assert [batch.rows for batch in batches] == [2, 2, 1]
        assert all(batch.latency_s > 0 for batch in batches)
        # First rows are resets, not steps.
        assert served.inference.env_steps == 3


def test_new_weights_act_and_time_is_counted_by_phase() -> None:
    with central(queue_limit=1) as served:
        dealer = served.connect()
        dealer.hello(1)
        newer = nn.Linear(1, 1, bias=False)
        nn.init.constant_(newer.weight, 10)
        served.slot.publish(4, newer)
        for seq in range(3):
            actions = dealer.exchange(seq, [1])
        assert actions == [30]
        dealer.step(3, [1])
        wait_for(lambda: "paused" in served.inference.phases.seconds)
        assert served.unrolls(1).policy_versions[-1].tolist() == [4]
        dealer.actions(3)
        wait_for(lambda: len(served.inference.phases.seconds) == 8)
        assert served.inference.phases.seconds.keys() == {
            "waiting", "receiving", "batching", "forward", "store", "replying", "weights", "paused"
        }  # fmt: skip


def test_the_loop_lives_on_after_malformed_messages() -> None:
    cases = {**MALFORMED, **MISDIRECTED}
    with central() as served:
        dealer = served.connect()
        dealer.hello(1)
        for case in cases.values():
            dealer.send_frames(case.frames)
            assert dealer.refusal().reason.startswith("malformed message")
        assert dealer.exchange(0, [1]) == [1]
        assert served.inference.messages_refused == len(cases)


def test_a_flood_of_refused_messages_does_not_hold_up_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused_before: list[int] = []
    next_turn = Inference._next_turn

    def counting(self: Inference) -> Any:
        refused_before.append(self.messages_refused)
        return next_turn(self)

    monkeypatch.setattr(Inference, "_next_turn", counting)
    with central() as served:
        dealer = served.connect()
        for _ in range(100):
            dealer.send(messages.Ping(0))
        wait_for(lambda: served.inference.messages_refused == 100)
    # No more than `max_batch` messages are read from one look at what waits to the next.
    assert max(b - a for a, b in itertools.pairwise(refused_before)) <= 6


def test_an_endless_message_is_thrown_away_and_its_connection_muted() -> None:
    with central() as served:
        endless, other = served.connect(), served.connect()
        endless.hello(2)
        other.hello(1, server_id=2)
        endless.send_frames([b""] * 30_000)
        assert endless.refusal().reason.startswith("malformed message")
        # Its steps would be lost, so it has no session either.
        assert isinstance(endless.receive(), messages.Goodbye)
        endless.send(messages.Hello(1, (1,), "too soon"))
        for seq in range(3):
            assert other.exchange(seq, [1]) == [seq + 1]
        wait_for(lambda: served.inference.messages_dropped == 1)
        assert not endless.socket.poll(0)


@pytest.mark.parametrize("noticed_by", ["ping", "actions"])
def test_a_dead_connection_frees_its_env_ids(hasty: None, noticed_by: str) -> None:
    lease_s = 0.01 if noticed_by == "ping" else 3600.0
    with central(queue_limit=0, lease_s=lease_s) as served:
        dead, alive = served.connect(), served.connect()
        alive.hello(1, server_id=2)
        dead.hello(2, 2)
        for group in (0, 1):
            dead.step(0, [1, 1], group=group)
        wait_for(lambda: served.inference.phases.name == "paused")
        dead.socket.close()
        if noticed_by == "actions":
            # Many messages later, the socket has heard of it, too.
            for _ in range(8):
                alive.expect_silence()
            served.inference._queue_limit = 100
        wait_for(lambda: served.inference.num_envs == 1)


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
