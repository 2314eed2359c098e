"""The page table against a model that keeps every history as a plain list of pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seed.store.pages import MAX_AGE, NO_ENVIRONMENT, NO_PAGE, PageLinks, PageSlots, PageTable
from seed.wire.messages import NO_HISTORY


def make_table(
    num_pages: int,
    unroll_length: int,
    max_envs: int,
    evaluation: Sequence[int] = (),
    first_offsets: Sequence[int] | None = None,
) -> PageTable:
    """A table with these evaluation environments, and first pages that begin at these rows."""
    return PageTable(
        num_pages,
        unroll_length,
        np.isin(np.arange(max_envs), evaluation),
        None if first_offsets is None else np.array(first_offsets),
    )


def advance(
    table: PageTable, env_ids: list[int], run_ids: list[int], first: list[bool] | None = None
) -> PageSlots:
    flags = np.array(first if first is not None else [False] * len(env_ids))
    return table.advance(np.array(env_ids), np.array(run_ids, np.uint64), flags)


@dataclass
class History:
    """One environment's rows between two breaks; `rows` counts from the first page's row 0."""

    run_id: int
    start: int
    rows: int
    pages: list[int] = field(default_factory=list)
    consumed: int = 0
    open: bool = True


class Model:
    """Finds out which pages are needed by going through all histories each time."""

    def __init__(
        self, unroll_length: int, evaluation: set[int], first_offsets: Sequence[int]
    ) -> None:
        self.unroll_length = unroll_length
        self.first_offsets = first_offsets
        self.evaluation = evaluation
        self.rows_dropped = 0
        self.current: dict[int, History] = {}
        self.histories: list[History] = []
        self.queue: list[tuple[History, PageLinks]] = []

    def drop(self, env_id: int) -> None:
        history = self.current.pop(env_id, None)
        if history is not None:
            history.open = False
            if env_id not in self.evaluation:
                open_from = max((len(history.pages) - 1) * self.unroll_length, history.start)
                self.rows_dropped += history.rows - open_from

    def needed(self) -> list[int]:
        """Every page that an unroll still to be read has rows in, once each."""
        needed = set()
        for history in self.histories:
            last = len(history.pages) - (0 if history.open else 1)
            for index in range(history.consumed, last):
                needed.update(history.pages[max(index - 1, 0) : index + 2])
        return sorted(needed)

    def place(self, env_id: int, run_id: int, page: int) -> PageLinks | None:
        """Adds a row; returns the page that it makes whole for the learner."""
        if env_id in self.current and self.current[env_id].run_id != run_id:
            self.drop(env_id)
        if env_id not in self.current:
            start = self.first_offsets[env_id]
            self.current[env_id] = History(run_id, start, start)
            self.histories.append(self.current[env_id])
        history = self.current[env_id]
        begins = not history.pages or history.rows % self.unroll_length == 0
        history.rows += 1
        if not begins:
            assert page == history.pages[-1]
            return None
        history.pages.append(page)
        if len(history.pages) == 1:
            return None
        if env_id in self.evaluation or (len(history.pages) == 2 and history.start > 0):
            history.consumed += 1
            return None
        before = history.pages[-3] if len(history.pages) > 2 else NO_PAGE
        links = PageLinks(before, history.pages[-2], page)
        self.queue.append((history, links))
        return links


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(
            st.just("advance"),
            st.lists(st.integers(0, 3), min_size=1, max_size=4, unique=True),
            st.integers(0, 9),
        ),
        st.tuples(st.just("drop"), st.lists(st.integers(0, 3), max_size=3, unique=True),
                  st.just(0)),
        st.tuples(st.just("consume"), st.just([]), st.integers(1, 3)),
    ),
    min_size=10,
    max_size=150,
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(
    operations=OPERATIONS,
    unroll_length=st.integers(1, 3),
    num_pages=st.integers(4, 30),
    evaluation=st.sets(st.integers(0, 3)),
    starts=st.lists(st.integers(0, 2), min_size=4, max_size=4),
)
def test_follows_the_model(
    operations: list[tuple[str, list[int], int]],
    unroll_length: int,
    num_pages: int,
    evaluation: set[int],
    starts: list[int],
) -> None:
    first_offsets = [start % unroll_length for start in starts]
    table = make_table(num_pages, unroll_length, 4, list(evaluation), first_offsets)
    model = Model(unroll_length, evaluation, first_offsets)
    runs = dict.fromkeys(range(4), 1)
    for operation, env_ids, number in operations:
        if operation == "drop":
            table.drop(np.array(env_ids, np.int64))
            for env_id in env_ids:
                model.drop(env_id)
        elif operation == "consume":
            consume(table, model, number)
        else:
            # Now and then, the first of the environments begins a new history.
            runs[env_ids[0]] += number == 0
            step(table, model, env_ids, [runs[env_id] for env_id in env_ids])
        assert table.num_free == num_pages - len(model.needed())
        assert table.rows_dropped == model.rows_dropped
    table.drop(np.arange(4))
    for env_id in range(4):
        model.drop(env_id)
    consume(table, model, len(model.queue))
    assert table.num_free == num_pages


def step(table: PageTable, model: Model, env_ids: list[int], run_ids: list[int]) -> None:
    """A row of each environment where there is room, checked against the model."""
    needs = table.pages_needed(np.array(env_ids), np.array(run_ids, np.uint64))
    if needs > table.num_free:
        return
    for env_id, run_id in zip(env_ids, run_ids, strict=True):
        if env_id in model.current and model.current[env_id].run_id != run_id:
            model.drop(env_id)
    in_use = set(model.needed())
    lengths = [
        model.current[e].rows if e in model.current else model.first_offsets[e] for e in env_ids
    ]
    begins = [
        e not in model.current or length % model.unroll_length == 0
        for e, length in zip(env_ids, lengths, strict=True)
    ]
    placed = advance(table, env_ids, run_ids)
    assert placed.offsets.tolist() == [length % model.unroll_length for length in lengths]
    taken = placed.pages[np.array(begins)].tolist()
    assert len(set(taken)) == needs
    assert not in_use & set(taken)
    expected = [
        model.place(env_id, run_id, page)
        for env_id, run_id, page in zip(env_ids, run_ids, placed.pages.tolist(), strict=True)
    ]
    assert placed.complete == [links for links in expected if links is not None]


def consume(table: PageTable, model: Model, count: int) -> None:
    """Consumes the oldest unrolls, as the learner's queue does."""
    done, model.queue = model.queue[:count], model.queue[count:]
    for history, _ in done:
        history.consumed += 1
    table.consume([links for _, links in done])


def test_a_page_is_whole_when_its_successor_begins() -> None:
    table = make_table(4, 2, 1)
    rows = [advance(table, [0], [7], [t == 0]) for t in range(5)]
    assert [row.offsets.tolist() for row in rows] == [[0], [1], [0], [1], [0]]
    first, second, third = (int(rows[t].pages[0]) for t in (0, 2, 4))
    assert [row.complete for row in rows] == [
        [], [], [PageLinks(NO_PAGE, first, second)], [], [PageLinks(first, second, third)],
    ]  # fmt: skip


def test_a_first_page_that_begins_later_is_no_unroll_but_context() -> None:
    table = make_table(4, 3, 1, first_offsets=[2])
    rows = [advance(table, [0], [7], [t == 0]) for t in range(5)]
    assert [row.offsets.tolist() for row in rows] == [[2], [0], [1], [2], [0]]
    first, second, third = (int(rows[t].pages[0]) for t in (0, 1, 4))
    assert [row.complete for row in rows] == [[], [], [], [], [PageLinks(first, second, third)]]
    table.drop(np.array([0]))
    assert table.rows_dropped == 1
    # The next history begins there again, and what is dropped of it is what was written.
    assert advance(table, [0], [8]).offsets.tolist() == [2]
    table.drop(np.array([0]))
    assert table.rows_dropped == 2


def test_dropping_an_open_page_frees_it_and_counts_its_rows() -> None:
    table = make_table(4, 4, 2)
    for _ in range(3):
        advance(table, [0, 1], [7, 8])
    table.drop(np.array([1]))
    assert table.rows_dropped == 3
    assert table.num_free == 3
    table.drop(np.array([1]))
    assert table.rows_dropped == 3
    assert table.num_free == 3


def test_a_dropped_page_stays_while_the_unroll_before_ends_in_it() -> None:
    table = make_table(3, 2, 1)
    placed = [advance(table, [0], [7]) for _ in range(3)]
    table.drop(np.array([0]))
    assert table.num_free == 1
    table.consume(placed[2].complete)
    assert table.num_free == 3


def test_an_evaluation_environment_keeps_two_pages_and_publishes_none() -> None:
    table = make_table(3, 2, 1, evaluation=[0])
    for t in range(100):
        placed = advance(table, [0], [7], [t == 0])
        assert placed.complete == []
        assert placed.offsets.tolist() == [t % 2]
        assert table.num_free == (2 if t < 2 else 1)
        # What stacks and previous actions reach back to is still there.
        assert (placed.predecessors == NO_PAGE).tolist() == [t < 2]
    table.drop(np.array([0]))
    assert table.num_free == 3
    assert table.rows_dropped == 0


def test_adopted_pages_are_free_again_once_all_their_unrolls_are_consumed() -> None:
    table = make_table(6, 2, 2)
    first, second, third, fourth = table.reserve(np.array([2, 3, 2, 1])).tolist()
    assert len({first, second, third, fourth}) == 4
    assert table.num_free == 2
    others = advance(table, [0, 1], [1, 1]).pages.tolist()
    assert not {first, second, third, fourth} & set(others)
    table.consume([PageLinks(NO_PAGE, first, second)])
    assert table.num_free == 0
    table.consume([PageLinks(first, second, third)])
    assert table.num_free == 1
    table.consume([PageLinks(second, third, fourth)])
    assert table.num_free == 4


def test_training_environments_publish_beside_evaluation_environments() -> None:
    table = make_table(8, 1, 3, evaluation=[0, 2])
    first, second = (advance(table, [2, 1, 0], [1, 1, 1]) for _ in range(2))
    assert second.complete == [PageLinks(NO_PAGE, int(first.pages[1]), int(second.pages[1]))]


def test_a_new_run_id_starts_a_history_without_predecessor() -> None:
    table = make_table(4, 1, 1)
    old = advance(table, [0], [7])
    new = advance(table, [0], [8])
    assert new.complete == []
    assert new.predecessors.tolist() == [NO_PAGE]
    following = advance(table, [0], [8])
    assert following.complete == [PageLinks(NO_PAGE, int(new.pages[0]), int(following.pages[0]))]
    assert old.complete == []


def test_the_same_run_id_after_a_drop_starts_anew() -> None:
    table = make_table(4, 2, 1)
    for _ in range(2):
        advance(table, [0], [7])
    table.drop(np.array([0]))
    again = advance(table, [0], [7])
    assert again.complete == []
    assert again.offsets.tolist() == [0]
    assert again.ages.tolist() == [0]


def test_pages_needed_counts_what_advance_takes() -> None:
    table = make_table(6, 2, 4)
    advance(table, [0, 1, 2], [1, 2, 3])
    advance(table, [0, 1], [1, 2])
    # A whole page, a broken history, an open page, and an environment without any.
    assert table.pages_needed(np.arange(4), np.array([1, 9, 3, 4], np.uint64)) == 3
    before = table.num_free
    advance(table, [0, 2, 3], [1, 3, 4])
    assert before - table.num_free == 2


def test_ages_count_from_the_episode_and_stop_at_their_limit() -> None:
    table = make_table(400, 2, 2)
    ages = []
    for t in range(MAX_AGE + 5):
        placed = advance(table, [0, 1], [1, 1], [t == 3, False])
        ages.append(placed.ages.tolist())
    assert [age for age, _ in ages[:6]] == [0, 1, 2, 0, 1, 2]
    assert [age for _, age in ages[-6:]] == [MAX_AGE - 1] + [MAX_AGE] * 5


def test_rows_of_an_environment_that_is_down_join_nothing_and_are_not_missed() -> None:
    table = make_table(4, 2, 1)
    advance(table, [0], [7], [True])
    for _ in range(5):
        placed = advance(table, [0], [NO_HISTORY], [True])
        assert (placed.complete, placed.offsets.tolist()) == ([], [0])
        assert table.num_free == 3
    # The one row of the history before.
    assert table.rows_dropped == 1
    rows = [advance(table, [0], [8], [t == 0]) for t in range(3)]
    assert [row.offsets.tolist() for row in rows] == [[0], [1], [0]]
    assert rows[2].complete == [PageLinks(NO_PAGE, int(rows[0].pages[0]), int(rows[2].pages[0]))]
    assert table.rows_dropped == 1


@pytest.mark.parametrize("run_id", [1, 2**64 - 1])
def test_run_ids_use_all_64_bits(run_id: int) -> None:
    table = make_table(4, 4, 1)
    advance(table, [0], [run_id])
    assert advance(table, [0], [run_id]).offsets.tolist() == [1]
    assert advance(table, [0], [run_id ^ 2**63]).offsets.tolist() == [0]


def test_a_page_is_its_environments_until_it_is_anothers() -> None:
    table = make_table(8, 1, 3)
    adopted = table.reserve(np.array([1]))
    advance(table, [0, 2], [1, 1])
    complete = advance(table, [2, 0], [1, 1]).complete
    assert table.owners(complete) == [2, 0]
    assert table.owners(np.array(complete)) == [2, 0]
    assert table.owners([PageLinks(NO_PAGE, int(adopted[0]), complete[0].page)]) == [
        NO_ENVIRONMENT
    ]
