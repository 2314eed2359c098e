"""The memory of inference batches: always the same, padded, staged or not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from seed.device.transfer import tensors_of
from seed.inference.batcher import InferenceBatch
from seed.inference.buffers import BatchBuffers
from seed.inference.forward import ForwardPass, bucket_sizes
from seed.store.layout import Column
from seed.store.unrolls import UnrollStore
from seed.store.weights import Weights
from seed.wire import messages
from tests.seed.comparing import assert_same
from tests.seed.forwarding import CPU, LAYOUT, Seeing, group, make_forward, run


@pytest.mark.parametrize(
    ("max_batch", "sizes"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])]
)
def test_buckets_are_powers_of_two_and_the_largest_batch(max_batch: int, sizes: list[int]) -> None:
    assert bucket_sizes(max_batch) == sizes


# As on a GPU with CUDA graphs.
@pytest.mark.parametrize(("frame_stack", "burn_in"), [(1, 0), (2, 0), (2, 1)])
def test_padding_changes_nothing(frame_stack: int, burn_in: int) -> None:
    layout = replace(
        LAYOUT, unroll_length=3, num_pages=40, frame_stack=frame_stack, burn_in=burn_in
    )
    both, seen = [], [Seeing(), Seeing()]
    for seeing in seen:
        store = UnrollStore(layout, CPU)
        forward = ForwardPass(seeing.algorithm, None, nn.Linear(1, 1), store, 6)
        forward.set_connected(np.array([0, 1, 2, 5]))
        forward.load_weights(Weights(3, list(nn.Linear(1, 1).parameters())))
        both.append((forward, store))
    cast(Any, both[1][0])._sizes = bucket_sizes(6)
    rng = np.random.default_rng(4)
    for t in range(60):
        envs = rng.permutation(6)[: rng.integers(1, 7)].tolist()
        flags = int(rng.choice([0, 0, 0, messages.FIRST, messages.TERMINATED]))
        batch = InferenceBatch.of(
            [group([env], [100 * t + env], flags=flags) for env in envs]
        )
        (actions, complete), (same, pages) = (forward.run(batch) for forward, _ in both)
        assert actions.tolist() == same.tolist()
        assert complete == pages
        n, size = len(envs), seen[1].rows.rewards.shape[1]
        assert size == (0, 1, 2, 4, 4, 6, 6)[n]
        shown, padded = (tensors_of(seeing.rows) for seeing in seen)
        assert all(map(torch.equal, shown, (value[:, :n] for value in padded)))
        assert torch.equal(seen[1].fleet.positions[:n], seen[0].fleet.positions)
        assert seen[1].rows.first[0, n:].all()
        if complete:
            assert_same(*(store.gather(complete) for _, store in both))
        for _, store in both:
            store.release(complete)
            store.wait_for_release(0)
    # What stands for the rows before an episode is still zero.
    assert not any(column[-2].any() for column in both[1][1].columns.values())


def test_a_batch_of_a_size_is_always_in_the_same_memory() -> None:
    forward, _ = make_forward()
    run(forward, group([4, 2], [40, 20]))
    before = forward._device_batch(2)
    run(forward, group([1, 2, 3], [1, 2, 3]))
    run(forward, group([1, 0], [1, 2]))
    assert forward._device_batch(2) is before
    assert before[0].host.env_ids.tolist() == [1, 0]


def test_stacks_need_no_room_for_what_arrives_on_the_cpu() -> None:
    store = UnrollStore(replace(LAYOUT, frame_stack=2), CPU)
    forward = ForwardPass(Seeing().algorithm, 1, nn.Linear(1, 1), store, 6)
    run(forward, group([4, 2], [40, 20]))
    assert forward._device_batch(2)[0].host.observations == {}


def test_only_parts_that_are_not_stacked_are_seen_as_they_land() -> None:
    forms = {"picture": Column((5, 6), torch.uint8), "speed": Column((), torch.float32)}
    layout = replace(
        LAYOUT, frame_stack=2, observations=forms, stacked=frozenset(["picture"])
    )
    batch = BatchBuffers(layout, 6, CPU).batch(3)
    batch.host.observations["speed"][:] = 1, 2, 3
    assert list(batch.host.observations) == ["speed"]
    seen = batch.rows.observations
    assert {part: values.shape for part, values in seen.items()} == {
        "picture": (1, 3, 2, 5, 6), "speed": (1, 3),
    }  # fmt: skip
    assert seen["speed"].tolist() == [[1, 2, 3]]
    assert batch.arrived.observations == {}


@pytest.mark.parametrize("frame_stack", [1, 2])
def test_the_store_keeps_of_evaluation_environments_what_stacks_need(frame_stack: int) -> None:
    layout = replace(LAYOUT, frame_stack=frame_stack, evaluation_share=0.5)
    store = UnrollStore(layout, CPU)
    assert store.evaluation[:4].tolist() == [False, True, False, True]
    store.columns["observations"].zero_()
    forward = ForwardPass(Seeing().algorithm, 1, nn.Linear(1, 1), store, 6)
    steps = [group([1, 3], [50, 60]), group([0, 1], [70, 80]), group([2], [90])]
    assert run(forward, steps[0]) == [500, 600]
    assert run(forward, steps[2]) == [900]
    kept = [value for value in store.columns["observations"].flatten().tolist() if value]
    assert sorted(kept) == ([90] if frame_stack == 1 else [50, 60, 90])
    assert run(forward, steps[1]) == [700, 800]
    kept = [value for value in store.columns["observations"].flatten().tolist() if value]
    assert sorted(kept) == ([70, 90] if frame_stack == 1 else [50, 60, 70, 80, 90])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("frame_stack", [1, 2])
def test_cuda_graphs_do_what_plain_calls_do(frame_stack: int) -> None:
    layout = replace(LAYOUT, unroll_length=3, num_pages=40, frame_stack=frame_stack)
    unrolls, actions = [], []
    for cuda_graphs in (False, True):
        store = UnrollStore(layout, torch.device("cuda"))
        agent = nn.Linear(1, 1, device="cuda")
        forward = ForwardPass(Seeing().algorithm, None, agent, store, 6, cuda_graphs=cuda_graphs)
        forward.enter_thread(1)
        rng = np.random.default_rng(4)
        for t in range(100):
            envs = rng.permutation(6)[: rng.integers(1, 7)].tolist()
            step = group(envs, [100 * t + env for env in envs])
            acted, complete = forward.run(InferenceBatch.of([step]))
            actions.append(acted.tolist())
            if complete:
                unrolls.append(store.gather(complete))
                store.release(complete)
                store.wait_for_release(0)
    assert actions[:100] == actions[100:]
    half = len(unrolls) // 2
    for plain, captured in zip(unrolls[:half], unrolls[half:], strict=True):
        assert_same(plain, captured)


def test_actions_stay_as_they_were_returned() -> None:
    forward, _ = make_forward()
    actions, _ = forward.run(InferenceBatch.of([group([0], [5])]))
    forward.run(InferenceBatch.of([group([0], [6])]))
    assert actions.tolist() == [5]
