"""Which STEPs go into the next batch, and how long that may wait."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seed.config.schema import InferenceConfig
from seed.inference.batcher import Batcher, GroupRows, WaitingStep
from seed.inference.session_table import Session
from seed.wire.messages import EPISODE_DTYPE, Hello, StepArrays


def make_batcher(*sessions: Session, **settings: int) -> Batcher:
    batcher = Batcher(InferenceConfig(**{"max_batch": 6, **settings}))  # type: ignore[arg-type]
    for session in sessions:
        batcher.open(session)
    return batcher


def session(number: int, *groups: int) -> Session:
    env_ids = [np.full(size, number) for size in groups]
    return Session(b"", number, Hello(number, groups, ""), env_ids, heard_s=0.0)


def waiting(sender: Session, group: int = 0, seq: int = 0, arrived_s: float = 0.0) -> WaitingStep:
    env_ids = sender.env_ids[group]
    n = len(env_ids)
    arrays = StepArrays(
        np.ones(n, np.uint64), np.zeros(n), np.zeros(n, np.float32), np.zeros(n, np.uint8),
        np.empty(0, EPISODE_DTYPE),
    )  # fmt: skip
    return WaitingStep(sender, group, seq, GroupRows(env_ids, arrays), arrived_s)


def take(batcher: Batcher, now_s: float = 0.0, *, room: bool = True) -> list[tuple[int, int]]:
    """Session and seq of each STEP in the next batch."""
    turn = batcher.next(now_s, lambda rows: room)
    if turn is None:
        return []
    env_ids = [n for step in turn.steps for n in step.rows.env_ids.tolist()]
    assert turn.batch.env_ids.tolist() == env_ids
    assert turn[2:] == (True, True, None)
    return [(step.session.number, step.seq) for step in turn.steps]


A, B, C = session(1, 2), session(2, 2, 1), session(3, 4)


# Whenever the device is free, whatever has arrived goes in.
def test_a_batch_takes_all_that_waits() -> None:
    batcher = make_batcher(A, B, C)
    assert (batcher.wait_s(0.0), take(batcher)) == (math.inf, [])
    batcher.add(waiting(A))
    assert (batcher.wait_s(0.0), take(batcher)) == (0.0, [(1, 0)])
    batcher.add(waiting(B, 0))
    batcher.add(waiting(B, 1))
    assert take(batcher) == [(2, 0), (2, 0)]
    assert (batcher.wait_s(0.0), take(batcher)) == (math.inf, [])


def test_no_batch_is_larger_than_max_batch_and_the_oldest_go_first() -> None:
    batcher = make_batcher(A, B, C)
    filled = []
    for seq, (sender, group) in enumerate([(C, 0), (B, 1), (A, 0), (B, 0)]):
        batcher.add(waiting(sender, group, seq))
        filled.append(batcher.is_full)
    assert filled == [False, False, True, True]
    assert take(batcher) == [(3, 0), (2, 1)]
    assert not batcher.is_full
    assert take(batcher) == [(1, 2), (2, 3)]


@pytest.mark.parametrize(
    ("min_batch", "connected", "now_s", "wait_s"),
    [
        (1, [A, B, C], 1.0, 0.0),
        (2, [A, B, C], 1.0, 0.0),
        (3, [A, B, C], 1.0, 0.75),
        (3, [A, B, C], 1.5, 0.25),
        (3, [A, B, C], 1.75, 0.0),
        (3, [A, B, C], 99.0, 0.0),
        # No batch waits for more environments than there are.
        (3, [A], 1.0, 0.0),
        (6, [A, B], 1.0, 0.75),
    ],
)
def test_a_batch_waits_for_min_batch_and_not_for_ever(
    min_batch: int, connected: list[Session], now_s: float, wait_s: float
) -> None:
    batcher = make_batcher(*connected, min_batch=min_batch, max_wait_us=750_000)
    batcher.add(waiting(A, arrived_s=1.0))
    assert batcher.wait_s(now_s) == wait_s
    assert take(batcher, now_s) == ([(1, 0)] if not wait_s else [])


def test_the_wait_is_that_of_the_oldest() -> None:
    batcher = make_batcher(A, B, C, min_batch=6, max_wait_us=1_000_000)
    batcher.add(waiting(A, arrived_s=1.0))
    batcher.add(waiting(B, arrived_s=1.5))
    assert batcher.wait_s(1.5) == 0.5
    # It is gone with its session.
    batcher.close(A)
    assert batcher.wait_s(1.5) == 1.0
    # Nor does a batch wait for who has left.
    batcher.close(C)
    assert batcher.wait_s(1.5) == 1.0
    batcher.add(waiting(B, 1))
    assert batcher.wait_s(1.5) == 0.0


def test_without_room_everything_stays_and_is_due() -> None:
    batcher = make_batcher(A, B)
    batcher.add(waiting(A))
    assert take(batcher, room=False) == []
    assert batcher.wait_s(0.0) == 0.0
    batcher.add(waiting(B))
    assert take(batcher) == [(1, 0), (2, 0)]


def test_a_replaced_step_waits_anew() -> None:
    batcher = make_batcher(A, B)
    assert not batcher.add(waiting(A, seq=0))
    assert not batcher.add(waiting(B, seq=0))
    assert batcher.add(waiting(A, seq=1))
    assert take(batcher) == [(2, 0), (1, 1)]
    assert not batcher.add(waiting(A, seq=2))


# With more counted than wait, the loop would take a batch for full and read nothing any more; with
# fewer, `min_batch` would hold up rows that are all there.
@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "add", "add", "next", "leave"]), st.integers(0, 3),
                  st.booleans()),
        max_size=40,
    )
)  # fmt: skip
def test_rows_are_counted_as_they_come_and_go(events: list[tuple[str, int, bool]]) -> None:
    batcher = make_batcher(A, B, C, min_batch=4, max_wait_us=10**9)
    connected = {1: A, 2: B, 3: C}
    model: dict[tuple[int, int], int] = {}
    for seq, (event, choice, room) in enumerate(events):
        sender = connected.get(min(choice, 2) + 1)
        group = choice == 3
        if event == "next":
            taken = take(batcher, room=room)
            num_envs = sum(each.hello.num_envs for each in connected.values())
            due = room and sum(model.values()) >= min(4, num_envs)
            expected, rows = [], 0
            for key in list(model):
                rows += model[key]
                if not due or rows > 6:
                    break
                expected.append(key[0])
                del model[key]
            assert [number for number, _ in taken] == expected
        elif sender is not None and event == "add" and group < len(sender.env_ids):
            key = sender.number, int(group)
            assert batcher.add(waiting(sender, int(group), seq)) == (key in model)
            model.pop(key, None)
            model[key] = len(sender.env_ids[group])
        elif sender is not None and event == "leave":
            batcher.close(sender)
            del connected[sender.number]
            model = {key: n for key, n in model.items() if key[0] != sender.number}
        assert batcher.is_full == (sum(model.values()) >= 6)
