"""Who holds which env_ids, and who is turned away."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seed.inference.session_table import Refused, Session, SessionTable
from seed.wire.limits import PROTOCOL_VERSION
from seed.wire.messages import Hello


def hello(server_id: int, *groups: int, protocol: int = PROTOCOL_VERSION) -> Hello:
    return Hello(server_id, groups, f"server {server_id}", protocol)


def open_session(table: SessionTable, server_id: int, *groups: int) -> Session:
    return table.open(hello(server_id, *groups), b"id%d" % server_id, 1.5)


def test_a_session_has_env_ids_of_its_own_for_each_group() -> None:
    table = SessionTable(max_envs=8, max_group=4)
    first, second = open_session(table, 1, 2, 3), open_session(table, 2, 1)
    assert [len(env_ids) for env_ids in first.env_ids] == [2, 3]
    assert first.next_seq == [0, 0]
    assert first.heard_s == 1.5
    ids = [*first.all_env_ids.tolist(), *second.all_env_ids.tolist()]
    assert sorted(ids) == list(range(6))
    assert table.num_envs == 6
    assert first.number != second.number
    assert list(table) == [first, second]


def test_a_session_is_found_by_number_and_connection() -> None:
    table = SessionTable(8, 4)
    session, other = open_session(table, 1, 2), open_session(table, 2, 2)
    assert table.find(session.number, b"id1") is session
    assert table.find(session.number, other.identity) is None
    assert table.find(session.number + 1, b"id1") is None


# A connection may choose its identity.
def test_a_session_is_found_with_its_key_only() -> None:
    table = SessionTable(8, 4)
    session = table.open(hello(1, 2), b"id1", 1.5, "A")
    assert table.find(session.number, b"id1", "A") is session
    assert table.find(session.number, b"id1", "B") is None
    assert table.find(session.number, b"id1") is None


def test_the_predecessor_is_of_the_same_server() -> None:
    table = SessionTable(8, 4)
    session = open_session(table, 1, 2)
    assert table.predecessor(hello(1, 4)) is session
    assert table.predecessor(hello(2, 2)) is None
    table.close(session)
    assert table.predecessor(hello(1, 2)) is None


def test_a_closed_session_gives_its_env_ids_to_the_next() -> None:
    table = SessionTable(8, 4)
    session = open_session(table, 1, 2, 1)
    keeper = open_session(table, 2, 2)
    freed = session.all_env_ids.tolist()
    table.close(session)
    assert table.num_envs == 2
    assert table.find(session.number, b"id1") is None
    assert open_session(table, 3, 2, 1).all_env_ids.tolist() == freed
    assert next(iter(table)) is keeper


# So that environments which evaluate are found among few as among many.
def test_the_lowest_free_env_ids_are_given_out_first() -> None:
    table = SessionTable(8, 4)
    sessions = [open_session(table, server_id, 2) for server_id in range(4)]
    for session in (sessions[0], sessions[2], sessions[1]):
        table.close(session)
    assert open_session(table, 5, 1, 2).all_env_ids.tolist() == [0, 1, 2]
    assert open_session(table, 6, 3).all_env_ids.tolist() == [3, 4, 5]


def test_sessions_may_be_closed_while_they_are_gone_through() -> None:
    table = SessionTable(8, 4)
    for server_id in range(4):
        open_session(table, server_id, 2)
    for session in table:
        table.close(session)
    assert table.num_envs == 0


def test_refuses_another_protocol_for_good() -> None:
    table = SessionTable(8, 4)
    # Of another version, nothing but the version has been read.
    with pytest.raises(Refused, match="speaks protocol 99, the learner 2") as refusal:
        table.open(Hello(0, (), "", 99), b"x", 0.0)
    assert not refusal.value.retry
    assert table.num_envs == 0


def test_refuses_a_group_that_no_batch_holds_for_good() -> None:
    table = SessionTable(8, 4)
    with pytest.raises(Refused, match=r"group of 5 environments .*max_batch = 4") as refusal:
        open_session(table, 1, 2, 5)
    assert not refusal.value.retry
    assert table.num_envs == 0


def test_refuses_more_environments_than_are_free_until_there_are() -> None:
    table = SessionTable(8, 4)
    session = open_session(table, 1, 3, 3)
    with pytest.raises(Refused, match=r"3 environments are too many: 6 .*max_envs = 8") as refusal:
        open_session(table, 2, 3)
    assert refusal.value.retry
    assert table.num_envs == 6
    table.close(session)
    assert open_session(table, 2, 4, 4).all_env_ids.shape == (8,)


# Waiting cannot help here.
def test_refuses_more_environments_than_there_will_ever_be_for_good() -> None:
    with pytest.raises(Refused, match="max_envs = 8") as refusal:
        open_session(SessionTable(8, 4), 1, 3, 3, 3)
    assert not refusal.value.retry


def test_a_session_is_replaced_by_its_own_key_only() -> None:
    table = SessionTable(8, 4)
    session = table.open(hello(1, 2), b"id1", 0.0, "key a")
    assert session.key == "key a"
    assert table.predecessor(hello(1, 2), "key a") is session
    for key in ("key b", ""):
        with pytest.raises(Refused, match="a connected server with another key") as refusal:
            table.predecessor(hello(1, 2), key)
        assert not refusal.value.retry
    assert table.predecessor(hello(2, 2), "key b") is None
    assert list(table) == [session]


# Many servers may share a key, and one connection's servers without keys share that.
@pytest.mark.parametrize("keys", [("a", "a", "b"), ("", "", "")])
def test_the_environments_of_one_key_are_limited(keys: tuple[str, str, str]) -> None:
    table = SessionTable(max_envs=20, max_group=4, max_envs_per_key=5)
    first = table.open(hello(1, 3), b"x", 0.0, keys[0])
    with pytest.raises(Refused, match=r"have 3 of .*max_envs_per_key = 5") as refusal:
        table.open(hello(2, 3), b"x", 0.0, keys[1])
    assert refusal.value.retry
    table.open(hello(2, 2), b"x", 0.0, keys[1])
    table.open(hello(3, 4, 1), b"y", 0.0, keys[2])
    with pytest.raises(Refused) as refusal:
        table.open(hello(4, 4, 2), b"z", 0.0, "c")
    assert not refusal.value.retry
    table.close(first)
    table.open(hello(4, 3), b"x", 0.0, keys[0])
    assert table.num_envs == 10


@settings(max_examples=50, deadline=None)
@given(
    operations=st.lists(
        st.one_of(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(0, 5)),
        max_size=30,
    )
)
def test_env_ids_are_never_held_twice(operations: list[list[int] | int]) -> None:
    table = SessionTable(10, 4)
    for server_id, operation in enumerate(operations):
        sessions = list(table)
        if isinstance(operation, list):
            if sum(operation) <= 10 - table.num_envs:
                open_session(table, server_id, *operation)
        elif operation < len(sessions):
            table.close(sessions[operation])
        held = sorted(env for session in table for env in session.all_env_ids.tolist())
        assert all(a != b for a, b in pairwise(held))
        assert all(0 <= env < 10 for env in held)
        assert len(held) == table.num_envs
        assert table.env_ids.tolist() == held


def test_the_last_server_of_an_environment_is_known_after_it_has_gone() -> None:
    table = SessionTable(4, 4)
    first = open_session(table, 1, 3)
    assert [table.server_of(env_id) for env_id in range(4)] == ["server 1"] * 3 + [""]
    table.close(first)
    open_session(table, 2, 1)
    assert [table.server_of(env_id) for env_id in range(3)] == ["server 2", *["server 1"] * 2]
