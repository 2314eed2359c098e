"""The queue as a source of batches; replay is the other one, in test_replay.py."""

from __future__ import annotations

import numpy as np
import torch

from seed.learner.sources import QueueSource
from tests.seed.store_model import LAYOUT, Model


def make_queue(batch_size: int, rows: int) -> tuple[Model, QueueSource]:
    """A queue of the unrolls of one environment's rows."""
    model = Model(LAYOUT)
    for _ in range(rows):
        model.write([0], [0])
    return model, QueueSource(model.store, batch_size)


def test_every_unroll_comes_once_the_oldest_first() -> None:
    model, source = make_queue(batch_size=2, rows=3 * 5 + 1)
    for unrolls in (model.queue[:2], model.queue[2:4]):
        # Waiting again takes nothing more.
        assert [source.wait(0.0) for _ in range(3)] == [True] * 3
        batch = source.next_batch()
        model.check_unroll(batch.unroll, unrolls)
        assert batch.numbers is None
        assert batch.env_ids == [0, 0]
        assert batch.unroll.importance.tolist() == [1.0, 1.0]
        # There are no priorities and no figures.
        source.update_priorities(np.array([0]), torch.tensor([1.0]))
        assert source.scalars() == {}
    assert not source.wait(0.0)
    assert model.store.num_ready == 1


def test_pages_are_handed_back_with_the_batch() -> None:
    model, source = make_queue(batch_size=4, rows=3 * 4 + 1)
    model.drop([0])
    source.wait(0.0)
    model.check_pages()
    unroll, unrolls = source.next_batch().unroll, list(model.queue)
    model.read(unrolls)
    assert model.pages_in_use() == 0
    model.check_pages()
    for _ in range(3 * LAYOUT.num_pages):
        model.write([0], [0])
    model.check_unroll(unroll, unrolls)
