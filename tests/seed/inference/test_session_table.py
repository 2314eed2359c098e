"""Who holds which env_ids, and for whom there is no room."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seed.inference.session_table import Refused, Session, SessionTable
from seed.wire.messages import Hello


def open_session(
    table: SessionTable, server_id: int, *groups: int, key: str = "", identity: bytes = b"id"
) -> Session:
    return table.open(Hello(server_id, groups, f"server {server_id}"), identity, 1.5, key)


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
            session = open_session(table, server_id, *operation)
            assert [len(env_ids) for env_ids in session.env_ids] == operation
            assert session.next_seq == [0] * len(operation)
            assert session.all_env_ids.tolist() == sorted(free)[: sum(operation)]
            for env_id in session.all_env_ids.tolist():
                free.remove(env_id)
                names[env_id] = f"server {server_id}"
            assert list(table) == [*sessions, session]
        elif isinstance(operation, int) and operation < len(sessions):
            table.close(sessions[operation])
            free.update(sessions[operation].all_env_ids.tolist())
        assert table.env_ids.tolist() == [env_id for env_id in range(10) if env_id not in free]
        assert table.num_envs == 10 - len(free)
        # Who has gone is known until another comes.
        assert [table.server_of(env_id) for env_id in range(10)] == names


def test_sessions_may_be_closed_while_they_are_gone_through() -> None:
    table = SessionTable(8, 4)
    for server_id in range(4):
        open_session(table, server_id, 2)
    for session in table:
        table.close(session)
    assert table.num_envs == 0


def test_a_session_is_found_by_number_connection_and_key() -> None:
    table = SessionTable(8, 4)
    session = open_session(table, 1, 2, key="A")
    assert table.find(session.number, b"id", "A") is session
    for number, identity, key in ((1, b"id", "A"), (0, b"other", "A"), (0, b"id", "B")):
        assert table.find(session.number + number, identity, key) is None
    table.close(session)
    assert table.find(session.number, b"id", "A") is None


def test_the_predecessor_is_of_the_same_server_and_key() -> None:
    table = SessionTable(8, 4)
    session = open_session(table, 1, 2, key="A")
    assert table.predecessor(Hello(1, (4,), ""), "A") is session
    assert table.predecessor(Hello(2, (2,), ""), "B") is None
    for key in ("B", ""):
        with pytest.raises(Refused, match="a connected server with another key") as refusal:
            table.predecessor(Hello(1, (2,), ""), key)
        assert not refusal.value.retry
    table.close(session)
    assert table.predecessor(Hello(1, (2,), ""), "A") is None


@pytest.mark.parametrize(
    ("hello", "reason", "retry"),
    [
        # Of another version, nothing but the version has been read.
        (Hello(0, (), "", 99), "speaks protocol 99, the learner 2", False),
        (Hello(2, (2, 5), ""), r"group of 5 environments .*max_batch = 4", False),
        (Hello(2, (3,), ""), r"3 environments are too many: 6 .*max_envs = 8", True),
        # Waiting cannot help here.
        (Hello(2, (3, 3, 3), ""), "max_envs = 8", False),
    ],
)
def test_who_does_not_fit_is_refused(hello: Hello, reason: str, retry: bool) -> None:
    table = SessionTable(8, 4)
    session = open_session(table, 1, 3, 3)
    with pytest.raises(Refused, match=reason) as refusal:
        table.open(hello, b"x", 0.0)
    assert refusal.value.retry == retry
    assert list(table) == [session]


# Many servers may share a key, and one connection's servers without keys share that.
@pytest.mark.parametrize("keys", [("a", "a", "b"), ("", "", "")])
def test_the_environments_of_one_key_are_limited(keys: tuple[str, str, str]) -> None:
    table = SessionTable(max_envs=20, max_group=4, max_envs_per_key=5)
    first = open_session(table, 1, 3, key=keys[0])
    with pytest.raises(Refused, match=r"have 3 of .*max_envs_per_key = 5") as refusal:
        open_session(table, 2, 3, key=keys[1])
    assert refusal.value.retry
    open_session(table, 2, 2, key=keys[1])
    open_session(table, 3, 4, 1, key=keys[2], identity=b"y")
    with pytest.raises(Refused) as refusal:
        open_session(table, 4, 4, 2, key="c")
    assert not refusal.value.retry
    table.close(first)
    open_session(table, 4, 3, key=keys[0])
    assert table.num_envs == 10
