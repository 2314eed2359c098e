"""Memory for learning is known before the store takes the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from seed.config.schema import Config, ConfigError, InferenceConfig, LearnerConfig, NetworkConfig
from seed.contract.loading import load_algorithm
from seed.device.transfer import tensors_of
from seed.learner.trial import peak_bytes, update_bytes, zero_unroll
from seed.run.description import Spaces
from seed.run.plan import make_agent, plan_store
from seed.store.layout import StoreLayout
from seed.wire.spaces import SpaceSpec
from tests.seed.recording import record_on_cpu
from tests.seed.store_model import LAYOUT, Model

CPU = torch.device("cpu")
SPACES = Spaces(SpaceSpec("float32", (4,)), SpaceSpec("int64", (), 3))
GIB = 2**30


def make_config(name: str) -> Config:
    return Config(
        network=NetworkConfig(torso="mlp", hidden_sizes=(8,), lstm_size=5),
        inference=InferenceConfig(max_envs=6),
        learner=LearnerConfig(unroll_length=7, batch_size=3),
        algorithm_name=name, algorithm=load_algorithm(name).Config(),
    )  # fmt: skip


def forms(unroll: object) -> list[tuple[torch.Size, torch.dtype]]:
    return [(tensor.shape, tensor.dtype) for tensor in tensors_of(unroll)]


@pytest.mark.parametrize("burn_in", [0, 1])
@pytest.mark.parametrize("frame_stack", [1, 2])
def test_the_unroll_is_of_the_form_that_the_store_gathers(burn_in: int, frame_stack: int) -> None:
    model = Model(replace(LAYOUT, burn_in=burn_in, frame_stack=frame_stack))
    for _ in range(3 * LAYOUT.unroll_length + 1):
        model.write([0], [0])
    gathered = model.store.gather(model.store.take(2, 0.0))
    tried = zero_unroll(model.layout, 2, CPU)
    assert forms(tried) == forms(gathered)
    assert tried.burn_in == gathered.burn_in
    assert list(tried.behaviour) == list(gathered.behaviour)


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("name", ["vtrace", "r2d2"])
def test_a_whole_update_is_tried_and_leaves_the_agent_as_it_is(
    monkeypatch: pytest.MonkeyPatch, name: str, graphs: bool
) -> None:
    if graphs:
        record_on_cpu(monkeypatch)
        monkeypatch.setattr("seed.learner.trial.can_capture", lambda device: True)
    algorithm, config = load_algorithm(name), make_config(name)
    config = replace(config, learner=replace(config.learner, cuda_graphs=graphs))
    agent = make_agent(algorithm, config, SPACES, CPU)
    layout = plan_store(algorithm, config, SPACES, agent, CPU)
    before = [weight.clone() for weight in agent.parameters()]
    losses: list[Tensor] = []
    loss = algorithm.loss

    def note(*arguments: object) -> object:
        result = loss(*arguments)  # type: ignore[arg-type]
        losses.append(result.loss)
        return result

    monkeypatch.setattr(algorithm, "loss", note)

    def probe(device: torch.device, work: Callable[[], None]) -> int:
        assert device == CPU
        work()
        return 5 * GIB

    # A captured update has its memory twice.
    expected = 10 * GIB if graphs else 5 * GIB
    assert update_bytes(algorithm, config, agent, layout, probe) == expected
    assert len(losses) == 1
    assert all(torch.equal(*pair) for pair in zip(before, agent.parameters(), strict=True))
    assert all(weight.grad is None for weight in agent.parameters())


def test_a_store_that_leaves_no_room_for_updates_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    algorithm, config = load_algorithm("vtrace"), make_config("vtrace")
    agent = make_agent(algorithm, config, SPACES, CPU)
    layout = plan_store(algorithm, config, SPACES, agent, CPU)
    free = layout.nbytes + 5 * GIB
    monkeypatch.setattr("seed.run.plan.available_bytes", lambda device: free)
    plan = partial(plan_store, algorithm, config, SPACES, agent, CPU)
    assert plan(try_update=lambda layout: 5 * GIB) == layout
    tried: list[StoreLayout] = []

    def try_update(layout: StoreLayout) -> int:
        tried.append(layout)
        return 5 * GIB + 1

    with pytest.raises(ConfigError, match=r"GiB, updates 5\.0 GiB, and cpu has 5\.0 GiB free"):
        plan(try_update=try_update)
    assert tried == [layout]


def test_an_update_too_large_for_the_device_is_refused() -> None:
    algorithm, config = load_algorithm("vtrace"), make_config("vtrace")
    agent = make_agent(algorithm, config, SPACES, CPU)
    layout = plan_store(algorithm, config, SPACES, agent, CPU)

    def probe(device: torch.device, work: Callable[[], None]) -> int:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 TiB.\nMore")

    with pytest.raises(ConfigError, match=r"^learner\.batch_size = 3: .*\(CUDA out of memory\)"):
        update_bytes(algorithm, config, agent, layout, probe)


def test_on_a_cpu_nothing_is_tried() -> None:
    assert peak_bytes(CPU, lambda: pytest.fail("it takes time")) == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpus_peak_is_what_was_taken_meanwhile() -> None:
    device = torch.device("cuda")

    def work() -> None:
        torch.zeros(2**26, device=device)  # 256 MiB

    assert 2**28 <= peak_bytes(device, work) < 2**29
