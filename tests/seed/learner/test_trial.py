"""Memory for learning is known before the store takes the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seed.config.schema import (
    Config,
    ConfigError,
    InferenceConfig,
    LearnerConfig,
    NetworkConfig,
    ReplayConfig,
)
from seed.contract import Group, Passes
from seed.contract.loading import load_algorithm
from seed.device.transfer import tensors_of
from seed.learner.trial import peak_bytes, rehearse, update_bytes, zero_unroll
from seed.run.description import Spaces
from seed.run.plan import make_agent, plan_run, plan_store
from seed.store.layout import StoreLayout
from seed.store.rows import Unroll
from seed.wire.spaces import SpaceSpec
from tests.seed.configs import make_config as catch_config
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


def rehearsed(**names: Any) -> None:
    """Rehearses V-trace, or R2D2, with other functions or further ones."""
    algorithm = load_algorithm(names.pop("name", "vtrace"))
    module: Any = SimpleNamespace(**{**vars(algorithm), "__file__": __file__, **names})
    config = make_config(algorithm.__name__.rpartition(".")[2])  # type: ignore[attr-defined]
    agent = make_agent(module, config, SPACES, CPU)
    replay = algorithm.DATA_SOURCE == "replay"
    before = {key: tensor.clone() for key, tensor in agent.state_dict().items()}
    config = replace(config, replay=ReplayConfig(capacity_rows=70 * replay))
    layout = plan_store(module, config, SPACES, agent, CPU, replay=replay)
    try:
        rehearse(module, config, agent, layout)
    finally:
        assert all(torch.equal(before[key], agent.state_dict()[key]) for key in before)
        assert all(weight.grad is None for weight in agent.parameters())


def fail(*_: Any, **__: Any) -> Any:
    raise KeyError("x")


def prepare_ones(agent: nn.Module, target: None, unroll: Unroll, config: Any) -> Any:
    return {"ones": torch.ones(unroll.actions[:-1].shape)}


def loss_with(**changes: Any) -> Any:
    """V-trace's loss with other fields in its result."""
    loss = load_algorithm("vtrace").loss
    return lambda *given: loss(*given)._replace(**changes)


def replace_weights(agent: nn.Module, *_: Any) -> None:
    for parameter in agent.parameters():
        parameter.data = parameter.data.clone()


GOOD: dict[str, Any] = {
    "plain": {},
    "replay": {"name": "r2d2"},
    "all of it": {
        "prepare": prepare_ones, "passes": lambda config: Passes(2, 3, stop="entropy"),
        "groups": lambda agent, config: {"all": Group(list(agent.parameters()), 0.1)},
        "loss": loss_with(statistics={"sum": torch.zeros(3)}, count=torch.tensor(2)),
        "after_batch": lambda agent, target, statistics, *_: statistics["sum"].sum(),
        "acting_part": lambda agent: agent,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_what_fits_is_rehearsed_without_a_trace(name: str) -> None:
    rehearsed(**GOOD[name])


@pytest.mark.parametrize("source", ["vtrace", "r2d2"])
@pytest.mark.parametrize("function", [
    "make_agent", "act", "loss", "prepare", "passes", "groups", "after_batch", "acting_part",
    "update_target", "initial_priorities",
])  # fmt: skip
def test_what_an_authors_function_raises_is_one_line(source: str, function: str) -> None:
    if source == "vtrace" and function == "initial_priorities":
        # Nobody calls it.
        rehearsed(initial_priorities=fail)
        return
    with pytest.raises(ConfigError) as refused:
        rehearsed(name=source, **{function: fail})
    line = str(refused.value)
    said = f"algorithm.name = '{source}': {function} raises KeyError: 'x' at {__file__}:"
    assert line.startswith(said)
    assert line.removeprefix(said).isdecimal()


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ({"prepare": lambda *_: {"x": torch.zeros(2)}}, r"prepare gives 'x': .*shape \(7, 2\)"),
        ({"passes": lambda config: Passes(minibatches=4)}, "passes gives minibatches = 4; exp"),
        ({"passes": lambda config: Passes(items="rows")}, "passes gives items = 'rows', and the"),
        ({"passes": lambda config: Passes(stop="kl")}, "passes gives stop = 'kl'; expected a met"),
        ({"name": "r2d2", "passes": lambda config: Passes()}, "passes is for DATA_SOURCE = 'que"),
        ({"groups": lambda agent, config: {"a": Group(list(agent.parameters())[1:])}},
         r"groups leaves out body\.torso\."),
        ({"loss": loss_with(count=3)}, "loss gives count: a int"),
        ({"loss": loss_with(statistics={})}, "loss gives statistics, and there is no after_batch"),
        ({"after_batch": replace_weights}, r"after_batch replaces body\..*expected to find the"),
        ({"acting_part": lambda agent: nn.Linear(1, 1)}, "acting_part gives a Linear, expected"),
        ({"name": "r2d2", "initial_priorities": lambda *_: None}, "initial_priorities gives a No"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_anything_starts(
    names: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=rf"^algorithm\.name = '\w+': {words}"):
        rehearsed(**names)


def test_a_plan_rehearses(monkeypatch: pytest.MonkeyPatch, describes_here: None) -> None:
    monkeypatch.setattr("seed.algorithms.vtrace.loss", fail)
    with pytest.raises(ConfigError, match="'vtrace': loss raises KeyError: 'x' at "):
        plan_run(catch_config(), None)
