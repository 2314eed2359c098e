"""Steps, batches and back-pressure of the socket's loop, on real sockets."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from seed.inference.loop import BatchRecord, EpisodeRecord, Inference
from seed.wire import messages
from tests.seed.central import (
    FOR_EVER_US,
    Dealer,
    act_by_standing,
    central,
    drain,
)
from tests.waiting import wait_for


def test_a_step_is_answered_with_its_actions() -> None:
    with central() as served:
        dealer = served.connect()
        dealer.hello(2, 1)
        dealer.step(0, [3, 4], flags=messages.FIRST)
        assert dealer.actions(0) == [3, 4]
        dealer.step(0, [9], group=1, flags=messages.FIRST)
        assert dealer.actions(0, group=1) == [9]
        dealer.step(1, [10, 20])
        assert dealer.actions(1) == [13, 24]


def test_a_sockets_file_goes_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with central(address="ipc://learner.sock") as served:
        served.connect().hello(1)
        assert Path("learner.sock").is_socket()
    assert not Path("learner.sock").exists()


def test_what_is_told_now_and_then_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("seed.inference.loop._HOUSEKEEPING_S", 0.01)
    monkeypatch.setattr("seed.inference.arrivals._LINES_AT_ONCE", 0)
    with central(address="ipc://learner.sock") as served:
        served.connect().hello(1)
        Path("learner.sock").unlink()
        wait_for(lambda: "its file was removed" in caplog.text)
        wait_for(lambda: "and 1 more environment servers connected" in caplog.text)


def test_a_double_is_ignored() -> None:
    with central() as served:
        dealer = served.connect()
        dealer.hello(1)
        for seq in range(3):
            dealer.step(seq, [1])
            assert dealer.actions(seq) == [seq + 1]
            dealer.step(seq, [50])
            dealer.step(0, [60])
        # Were a double answered or stored, this one's actions would not be next, or not be 4.
        dealer.step(3, [1])
        assert dealer.actions(3) == [4]
        assert served.unrolls(1).rows.observations.flatten().tolist() == [1, 1, 1]
        assert served.store.rows_dropped == 0


def test_a_gap_breaks_the_history() -> None:
    with central() as served:
        dealer = served.connect()
        dealer.hello(1, 1)
        for seq in (0, 1, 2, 4, 5, 6):
            dealer.step(seq, [10 + seq])
            actions = dealer.actions(seq)
            # The other group goes on as if nothing had happened.
            other_seq = seq - (seq > 3)
            dealer.step(other_seq, [1], group=1)
            assert dealer.actions(other_seq, group=1) == [other_seq + 1]
            if seq == 4:
                assert actions == [14]
        unroll = served.unrolls(4)
        columns = unroll.rows.observations.T.tolist()
        assert sorted(columns) == [[1, 1, 1], [1, 1, 1], [10, 11, 12], [14, 15, 16]]
        restart = columns.index([14, 15, 16])
        assert unroll.rows.first[:, restart].tolist() == [True, False, False]
        assert unroll.agent_state[restart].tolist() == [0]
        assert served.store.rows_dropped > 0


# While the queue is full, a STEP waits, and so an impatient server's next one finds it waiting.
def test_a_step_that_overtakes_another_breaks_the_history() -> None:
    with central(queue_limit=1) as served:
        dealer = served.connect()
        dealer.hello(1)
        for seq in range(3):
            dealer.step(seq, [seq])
            dealer.actions(seq)
        dealer.step(3, [3])
        dealer.step(4, [4])
        dealer.expect_silence()
        served.unrolls(1)
        assert dealer.actions(4) == [4]
        dealer.step(5, [5])
        dealer.actions(5)
        dealer.step(6, [6])
        assert served.unrolls(1).rows.observations.flatten().tolist() == [4, 5, 6]


def test_a_full_queue_pauses_inference() -> None:
    with central(queue_limit=2) as served:
        dealer = served.connect()
        dealer.hello(1)
        for seq in range(5):
            dealer.step(seq, [1])
            assert dealer.actions(seq) == [seq + 1]
        wait_for(lambda: served.store.num_ready == 2)
        assert served.inference.paused_s == 0
        dealer.step(5, [1])
        dealer.expect_silence()
        served.unrolls(1)
        assert dealer.actions(5) == [6]
        paused_s = served.inference.paused_s
        assert paused_s > 0
        dealer.step(6, [1])
        assert dealer.actions(6) == [7]
        assert served.inference.paused_s == paused_s


def test_a_full_store_pauses_inference_until_pages_are_released() -> None:
    with central(num_pages=3) as served:
        dealer = served.connect()
        dealer.hello(1)
        for seq in range(6):
            dealer.step(seq, [1])
            assert dealer.actions(seq) == [seq + 1]
        assert served.inference.paused_s == 0
        dealer.step(6, [1])
        dealer.expect_silence()
        pages = served.store.take(2, 0)
        assert pages is not None
        dealer.expect_silence()
        assert served.store.gather(pages).rows.observations.flatten().tolist() == [1] * 6
        served.store.release(pages)
        assert dealer.actions(6) == [7]
        assert served.inference.paused_s > 0


def test_a_batch_waits_for_min_batch_but_not_for_more_than_there_is() -> None:
    with central(min_batch=4, max_wait_us=FOR_EVER_US) as served:
        first, second = served.connect(), served.connect()
        first.hello(2)
        first.step(0, [1, 2])
        assert first.actions(0) == [1, 2]
        second.hello(2, server_id=2)
        first.step(1, [1, 2])
        first.expect_silence()
        second.step(0, [5, 6])
        assert second.actions(0) == [5, 6]
        assert first.actions(1) == [2, 4]
        wait_for(lambda: served.inference.records.qsize() == 2)
        assert [record.rows for record in drain(served.inference.records)] == [2, 4]
        # Rows waited for other rows, not for the learner.
        assert served.inference.paused_s == 0


def test_a_replaced_step_counts_once_towards_min_batch() -> None:
    with central(min_batch=4, max_wait_us=FOR_EVER_US) as served:
        first, second = served.connect(), served.connect()
        first.hello(2)
        second.hello(2, server_id=2)
        for seq in range(4):
            first.step(seq, [seq, seq])
        first.expect_silence()
        second.step(0, [5, 6])
        assert second.actions(0) == [5, 6]
        assert first.actions(3) == [3, 3]
        wait_for(lambda: served.inference.records.qsize() == 1)
        assert [record.rows for record in drain(served.inference.records)] == [4]


@pytest.mark.parametrize("parting", ["goodbye", "hello"])
def test_steps_of_a_closed_session_count_no_more_towards_min_batch(parting: str) -> None:
    with central(min_batch=4, max_wait_us=FOR_EVER_US) as served:
        leaver, second, third = (served.connect() for _ in range(3))
        leaver.hello(1, 1)
        second.hello(2, server_id=2)
        third.hello(2, server_id=3)
        for group in (0, 1):
            leaver.step(0, [1], group=group)
        leaver.expect_silence()
        if parting == "goodbye":
            leaver.send(messages.Goodbye(leaver.session, "done"))
        else:
            leaver.hello(1, 1)
        leaver.expect_silence()
        second.step(0, [1, 2])
        second.expect_silence()
        third.step(0, [3, 4])
        assert second.actions(0) == [1, 2]
        assert third.actions(0) == [3, 4]


# With more counted than wait, the loop would take a batch for full and read nothing any more.
def test_many_messages_while_inference_pauses_leave_it_able_to_read() -> None:
    with central(queue_limit=1) as served:
        dealer, other = served.connect(), served.connect()
        dealer.hello(1, 2)
        other.hello(1, server_id=2)
        for seq in range(3):
            other.step(seq, [1])
            other.actions(seq)
        for seq in range(20):
            for group, observations in ((0, [1]), (1, [2, 3])):
                dealer.step(seq, observations, group=group)
                dealer.step(seq, observations, group=group)
        dealer.expect_silence()
        served.unrolls(1)
        assert dealer.actions(19, group=0) == [1]
        assert dealer.actions(19, group=1) == [2, 3]
        other.step(3, [1])
        assert other.actions(3) == [4]


def test_min_batch_gives_up_after_max_wait() -> None:
    with central(min_batch=4, max_wait_us=1000) as served:
        first, second = served.connect(), served.connect()
        first.hello(2)
        second.hello(2, server_id=2)
        first.step(0, [1, 2])
        assert first.actions(0) == [1, 2]


def test_no_batch_is_larger_than_max_batch() -> None:
    with central(queue_limit=1, max_batch=3) as served:
        dealer = served.connect()
        dealer.hello(2, 2, 1)
        for seq in range(3):
            dealer.step(seq, [1], group=2)
            dealer.actions(seq, group=2)
        wait_for(lambda: served.inference.records.qsize() == 3)
        drain(served.inference.records)
        # All three wait for the queue together, and then go in order: 2, then 2 + 1.
        for group, observations in ((0, [1, 2]), (1, [3, 4])):
            dealer.step(0, observations, group=group)
        dealer.step(3, [1], group=2)
        # As many as are read before room is made for a batch.
        wait_for(lambda: served.inference._batcher._rows == 4)
        served.unrolls(1)
        assert dealer.actions(0, group=0) == [1, 2]
        assert dealer.actions(0, group=1) == [3, 4]
        assert dealer.actions(3, group=2) == [4]
        wait_for(lambda: served.inference.records.qsize() == 2)
        assert [record.rows for record in drain(served.inference.records)] == [2, 3]


def test_counts_steps_and_episodes() -> None:
    with central() as served:
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
            EpisodeRecord(env_ids[1], -2.5, 7, False),
            EpisodeRecord(env_ids[2], 4.0, 3, False),
        ]
        batches = [r for r in records if isinstance(r, BatchRecord)]
        assert [batch.rows for batch in batches] == [2, 2, 1]
        assert all(batch.latency_s > 0 for batch in batches)
        # First rows are resets, not steps.
        assert served.inference.env_steps == 3


def test_episodes_of_evaluation_environments_are_marked() -> None:
    with central(evaluation_share=0.5) as served:
        dealer = served.connect()
        dealer.hello(1, 3)
        dealer.step(0, [1] * 3, group=1, episodes=[(index, 1, 0.0) for index in range(3)])
        dealer.actions(0, group=1)
        wait_for(lambda: served.inference.records.qsize() == 4)
        episodes = [r for r in drain(served.inference.records) if isinstance(r, EpisodeRecord)]
        assert [e.evaluation for e in episodes] == [True, False, True]


def positions(dealer: Dealer, seq: int) -> list[int]:
    """What `act_by_standing` says of the three environments of this connection."""
    dealer.step(seq, [0, 0, 0])
    return dealer.actions(seq)


@pytest.mark.parametrize("parting", ["goodbye", "hello"])
def test_standings_follow_who_is_connected(parting: str) -> None:
    with central(choose=act_by_standing) as served:
        first, second, third = (served.connect() for _ in range(3))
        first.hello(3)
        assert positions(first, 0) == [0, 30, 60]
        second.hello(3, server_id=2)
        assert positions(first, 1) == [0, 12, 24]
        assert positions(second, 0) == [36, 48, 60]
        if parting == "goodbye":
            first.send(messages.Goodbye(first.session, "done"))
            first.expect_silence()
            assert positions(second, 1) == [0, 30, 60]
            third.hello(1, server_id=3)
        else:
            first.hello(1)
        assert positions(second, 2 if parting == "goodbye" else 1) == [20, 40, 60]


def test_evaluation_environments_have_no_standing() -> None:
    with central(choose=act_by_standing, evaluation_share=1 / 3) as served:
        first, second = served.connect(), served.connect()
        first.hello(3)
        assert positions(first, 0) == [0, 60, -1]
        second.hello(3, server_id=2)
        assert positions(first, 1) == [0, 20, -1]
        assert positions(second, 0) == [40, 60, -1]


# A fleet that is too small for one would have no evaluation returns, and nobody would know why.
@pytest.mark.parametrize(("share", "told"), [(0.2, True), (1 / 3, False), (0.0, False)])
def test_says_once_where_no_environment_evaluates(
    share: float, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with central(evaluation_share=share) as served:
        first, second = served.connect(), served.connect()
        first.hello(3)
        second.hello(1, server_id=2)
    lines = [message for message in caplog.messages if "no evaluation environment yet" in message]
    assert len(lines) == told
    assert all("the first is number 5 of" in line and "there are 3" in line for line in lines)


def test_no_page_of_an_evaluation_environment_reaches_the_queue() -> None:
    with central(evaluation_share=0.5, queue_limit=10) as served:
        dealer = served.connect()
        dealer.hello(2)
        for seq in range(11):
            dealer.step(seq, [1, 7])
            assert dealer.actions(seq) == [seq + 1, 7 * seq + 7]
        wait_for(lambda: served.store.num_ready >= 5)
        assert set(served.unrolls(5).rows.observations.flatten().tolist()) == {1}
        assert served.store.num_ready == 0


def test_where_all_evaluate_nothing_pauses() -> None:
    with central(evaluation_share=1.0, num_pages=18, queue_limit=1) as served:
        dealer = served.connect()
        dealer.hello(6)
        for seq in range(50):
            dealer.step(seq, [1] * 6)
            assert dealer.actions(seq) == [seq + 1] * 6
        assert served.inference.paused_s == 0
        dealer.send(messages.Goodbye(dealer.session, "done"))
        dealer.expect_silence()
        assert served.store.rows_dropped == 0


def test_time_is_counted_by_phase() -> None:
    with central(queue_limit=1) as served:
        dealer = served.connect()
        dealer.hello(1)
        for seq in range(3):
            dealer.step(seq, [1])
            dealer.actions(seq)
        dealer.step(3, [1])
        wait_for(lambda: "paused" in served.inference.phases.seconds)
        served.slot.publish(4, nn.Linear(1, 1, bias=False))
        served.unrolls(1)
        dealer.actions(3)
        wait_for(lambda: len(served.inference.phases.seconds) == 8)
        assert served.inference.phases.seconds.keys() == {
            "waiting", "receiving", "batching", "forward", "store", "replying", "weights", "paused"
        }  # fmt: skip


def test_new_weights_act() -> None:
    with central() as served:
        dealer = served.connect()
        dealer.hello(1)
        newer = nn.Linear(1, 1, bias=False)
        nn.init.constant_(newer.weight, 10)
        served.slot.publish(4, newer)
        for seq in range(3):
            dealer.step(seq, [1])
            actions = dealer.actions(seq)
        assert actions == [30]
        assert served.unrolls(1).policy_versions[-1].tolist() == [4]


def test_a_flood_of_refused_messages_does_not_hold_up_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused_before: list[int] = []
    next_batch = Inference._next_batch

    def counting(self: Inference) -> Any:
        refused_before.append(self.messages_refused)
        return next_batch(self)

    monkeypatch.setattr(Inference, "_next_batch", counting)
    with central() as served:
        dealer = served.connect()
        for _ in range(100):
            dealer.send(messages.Ping(0))
        wait_for(lambda: served.inference.messages_refused == 100)
    # No more than `max_batch` messages are read from one look at what waits to the next.
    assert max(b - a for a, b in itertools.pairwise(refused_before)) <= 6
