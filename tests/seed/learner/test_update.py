"""One update: what it measures and applies, and that graphs make the same updates as plain calls.

When updates are made, published and saved is in `test_learner.py`.
"""

from __future__ import annotations

import copy
import weakref
from dataclasses import replace
from typing import Any, Literal, NamedTuple, cast

import pytest
import torch
from torch import Tensor, nn

from seed.config.schema import Config, ConfigError, LearnerConfig, NetworkConfig, OptimizerConfig
from seed.contract import Algorithm, Group, LossResult
from seed.contract.loading import load_algorithm
from seed.device.transfer import move
from seed.learner import checkpoint
from seed.learner.optimizers import make_optimizer
from seed.learner.update import Update, UpdateResult
from seed.store.rows import Unroll
from seed.wire.spaces import SpaceSpec
from tests.seed.gpu_streams import own_stream
from tests.seed.random_rows import random_rows
from tests.seed.recording import record_on_cpu

Kind = Literal["rmsprop_tf", "adam"]
CPU = torch.device("cpu")
OBSERVATION, ACTION = SpaceSpec("float32", (4,)), SpaceSpec("int64", (), 3)
NETWORK = NetworkConfig(torso="mlp", hidden_sizes=(16,), lstm_size=8)
LENGTH, BATCH, UPDATES = 5, 3, 20

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


class Case(NamedTuple):
    """An algorithm's update of a small network on one device."""

    update: Update
    agent: nn.Module
    optimizer: torch.optim.Optimizer

    def learn(self, index: int) -> UpdateResult:
        """An update with a batch and a learning rate of its own."""
        self.update.load(make_unroll(index, self.device))
        outcome = self.update.backward()
        priorities = outcome.priorities
        self.update.step(0.01 / (index + 1))
        kept = None if priorities is None else priorities.cpu().clone()
        return UpdateResult(outcome.scalars, kept)

    @property
    def device(self) -> torch.device:
        return next(self.agent.parameters()).device

    def weights(self) -> Tensor:
        """All of them in a row."""
        flat = [parameter.detach().cpu().flatten() for parameter in self.agent.parameters()]
        return torch.cat(flat)


def make_config(kind: Kind, *, cuda_graphs: bool) -> Config:
    # Adam divides small gradients by their own size: without a large epsilon, by rounding errors.
    return Config(
        learner=LearnerConfig(cuda_graphs=cuda_graphs),
        optimizer=OptimizerConfig(kind=kind, decay=0.5, momentum=0.5, epsilon=1e-3, clip_norm=0.5),
    )


def make_case(name: str, kind: Kind, device: torch.device, *, cuda_graphs: bool) -> Case:
    algorithm = load_algorithm(name)
    settings = algorithm.Config()
    torch.manual_seed(3)
    agent = algorithm.make_agent(OBSERVATION, ACTION, NETWORK, settings).to(device)
    target = copy.deepcopy(agent).requires_grad_(False) if name == "r2d2" else None
    config = replace(make_config(kind, cuda_graphs=cuda_graphs), algorithm=settings)
    optimizer = make_optimizer(agent.parameters(), config.optimizer, capturable=cuda_graphs)
    return Case(Update(config, algorithm, agent, target, optimizer), agent, optimizer)


def make_unroll(index: int, device: torch.device = CPU, burn_in: int = 2) -> Unroll:
    """The same for the same index."""
    torch.manual_seed(1000 + index)
    shape = (burn_in + LENGTH + 1, BATCH)
    rows, actions = random_rows(OBSERVATION, ACTION, shape, end_share=0.2)
    behaviour = {"policy": torch.randn(*shape, 3), "q_taken": torch.randn(shape)}
    unroll = Unroll(
        rows, actions, behaviour, torch.full(shape, index), torch.randn(BATCH, 2 * 8),
        torch.rand(BATCH), burn_in,
    )  # fmt: skip
    moved: Unroll = move(unroll, device)
    return moved


def check_same_updates(case: Case, plain: Case) -> None:
    """Both learn the same of the same batches, and end with the same weights."""
    before = plain.weights()
    for index in range(UPDATES):
        outcome, expected = case.learn(index), plain.learn(index)
        assert outcome.scalars == pytest.approx(expected.scalars, rel=1e-3, abs=1e-4)
        if expected.priorities is None:
            assert outcome.priorities is None
        else:
            assert outcome.priorities is not None
            assert outcome.priorities.tolist() == pytest.approx(expected.priorities.tolist(), 1e-3)
    moved = (plain.weights() - before).norm()
    assert moved > 0
    assert (case.weights() - plain.weights()).norm() < 1e-2 * moved


@pytest.mark.parametrize("kind", ["adam", "rmsprop_tf"])
@pytest.mark.parametrize("name", ["vtrace", "r2d2"])
def test_recorded_graphs_make_the_updates_of_plain_calls(
    monkeypatch: pytest.MonkeyPatch, name: str, kind: Kind
) -> None:
    plain = make_case(name, kind, CPU, cuda_graphs=False)
    record_on_cpu(monkeypatch)
    check_same_updates(make_case(name, kind, CPU, cuda_graphs=True), plain)


def test_a_loss_of_another_form_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case("vtrace", "adam", CPU, cuda_graphs=False)
    monkeypatch.setattr("seed.algorithms.vtrace.loss", lambda *_: LossResult(0.5, {}))  # type: ignore[arg-type]
    case.update.load(make_unroll(0))
    with pytest.raises(ConfigError, match=r"'vtrace': loss gives loss: a float; expected a tensor"):
        case.update.backward()


@needs_gpu
@pytest.mark.parametrize("kind", ["adam", "rmsprop_tf"])
@pytest.mark.parametrize("name", ["vtrace", "r2d2"])
def test_graphs_on_a_gpu_make_the_updates_of_plain_calls(name: str, kind: Kind) -> None:
    device = torch.device("cuda")
    with own_stream(device):
        case, plain = (
            make_case(name, kind, device, cuda_graphs=graphs) for graphs in (True, False)
        )
        check_same_updates(case, plain)


def test_graphs_keep_unrolls_and_gradients_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    record_on_cpu(monkeypatch)
    case = make_case("vtrace", "adam", CPU, cuda_graphs=True)
    row_index = set()
    for index in range(6):
        case.learn(index)
        unroll, gradients = case.update._kept[BATCH], [p.grad for p in case.agent.parameters()]
        assert torch.equal(unroll.rows.observations[""], make_unroll(index).rows.observations[""])
        assert torch.equal(unroll.behaviour["policy"], make_unroll(index).behaviour["policy"])
        row_index.add((
            unroll.rows.observations[""].data_ptr(), unroll.agent_state.data_ptr(),
            *(gradient.data_ptr() for gradient in gradients if gradient is not None),
        ))  # fmt: skip
    assert len(row_index) == 1


@pytest.mark.parametrize("kind", ["adam", "rmsprop_tf"])
def test_graphs_are_of_planned_sizes_and_others_are_learned_from_all_the_same(
    monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    plain = make_case("r2d2", kind, CPU, cuda_graphs=False)
    record_on_cpu(monkeypatch)
    case = make_case("r2d2", kind, CPU, cuda_graphs=True)
    case.update.plan([2, 3])
    case.update.plan([1])
    sizes = [3, 2, 1, 3, 2, 1, 2, 3, 2, 1, 3, 2, 2, 3, 1, 2]
    for index, size in enumerate(sizes):
        found = []
        for each in (case, plain):
            each.update.load(make_unroll(index).select(torch.arange(size)))
            found.append(each.update.backward().scalars)
            each.update.step(0.01)
        assert found[0] == pytest.approx(found[1], rel=1e-3, abs=1e-4)
    assert {size: call._replay is not None for size, call in case.update._planned.items()} == {
        2: True, 3: True,
    }  # fmt: skip
    assert (case.weights() - plain.weights()).abs().max() < 1e-3


def test_plain_calls_copy_no_unroll_and_keep_none() -> None:
    case = make_case("vtrace", "adam", CPU, cuda_graphs=False)
    for index in range(6):
        unroll = make_unroll(index)
        case.update.load(unroll)
        assert case.update._unroll is not None
        assert case.update._unroll.rows.observations[""] is unroll.rows.observations[""]
        case.update.backward()
        observations = weakref.ref(unroll.rows.observations[""])
        case.update.step(0.1)
        del unroll
        assert observations() is None


# A GPU's optimizer holds its learning rate and its count of steps there, a CPU's does not.
@pytest.mark.parametrize("kind", ["adam", "rmsprop_tf"])
@pytest.mark.parametrize(("saved", "restored"), [(True, False), (False, True), (True, True)])
def test_a_checkpoint_goes_on_with_and_without_graphs(
    monkeypatch: pytest.MonkeyPatch, kind: Kind, saved: bool, restored: bool
) -> None:
    record_on_cpu(monkeypatch)
    first, second = (
        make_case("vtrace", kind, CPU, cuda_graphs=graphs) for graphs in (saved, restored)
    )
    for index in range(6):
        first.learn(index)
    packed = checkpoint.pack({"agent": first.agent}, first.optimizer)
    packed = {name: tensor.detach().clone() for name, tensor in packed.items()}
    checkpoint.unpack_module(packed, "agent", second.agent)
    checkpoint.unpack_optimizer(packed, second.agent, second.optimizer)
    for index in range(6, 14):
        first.learn(index)
        second.learn(index)
    torch.testing.assert_close(first.weights(), second.weights(), rtol=1e-4, atol=1e-6)


class Weighing:
    """The loss is the weight times the observations' mean."""

    def loss(self, agent: nn.Module, target: None, unroll: Unroll, config: Any) -> LossResult:
        mean = unroll.rows.observations[""].mean()
        return LossResult(agent(mean[None]).sum(), {"seen": mean}, mean.repeat(BATCH))


def test_measuring_changes_no_weight_and_applying_does() -> None:
    agent = nn.Linear(1, 1, bias=False)
    nn.init.ones_(agent.weight)
    optimizer = torch.optim.SGD(agent.parameters(), lr=7.0)
    update = Update(Config(), cast(Algorithm, Weighing()), agent, None, optimizer)
    unroll = make_unroll(4)
    mean = unroll.rows.observations[""].mean().item()
    update.load(unroll)
    for _ in range(2):
        outcome = update.backward()
        assert agent.weight.item() == 1.0
        assert outcome.scalars == pytest.approx(
            {"loss": mean, "grad_norm": abs(mean), "policy_version_mean": 4.0, "seen": mean}
        )
        assert outcome.priorities is not None
        assert outcome.priorities.tolist() == pytest.approx([mean] * BATCH)
    update.step(0.5)
    assert agent.weight.item() == pytest.approx(1.0 - 0.5 * mean)


@pytest.mark.parametrize("version", [3_000_001, 2**40 + 1])
def test_the_mean_of_versions_is_exact(version: int) -> None:
    case = make_case("vtrace", "adam", CPU, cuda_graphs=False)
    unroll = make_unroll(0)
    for versions, expected in [
        (torch.full_like(unroll.policy_versions, version), version),
        # The last row was acted on by whoever acts next; the first two are burn-in.
        (torch.tensor([9, 9, 0, 0, 0, 1, 1, 9])[:, None] + version - 1, version - 0.6),
    ]:
        whole = versions.expand_as(unroll.policy_versions).clone()
        case.update.load(replace(unroll, policy_versions=whole))
        assert case.update.backward().scalars["policy_version_mean"] == expected


class Pulling:
    """The gradient of each of two weights is what is observed, times a factor of its own."""

    def loss(self, agent: nn.Module, target: None, unroll: Unroll, config: Any) -> LossResult:
        mean = unroll.rows.observations[""].mean()
        weights = torch.stack([weight.sum() for weight in agent.parameters()])
        return LossResult((weights * torch.tensor([3.0, 4.0]) * mean).sum(), {})


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize(
    ("clips", "clipped"),
    [((None, None), (2.0, 2.0)), ((1.0, None), (1.0, 2.0)), ((0.0, 1.5), (3.0, 1.5)),
     ((9.0, 9.0), (3.0, 4.0))],
)  # fmt: skip
def test_each_group_is_clipped_by_itself_and_the_norm_is_of_all(
    monkeypatch: pytest.MonkeyPatch, clips: tuple[float | None, float | None],
    clipped: tuple[float, float], graphs: bool,
) -> None:  # fmt: skip
    if graphs:
        record_on_cpu(monkeypatch)
    agent = nn.ParameterList([torch.zeros(1), torch.zeros(1)])
    groups = {
        str(index): Group([weight], rate, clip)
        for index, (weight, rate, clip) in enumerate(zip(agent, (None, 0.5), clips, strict=True))
    }
    config = Config(
        learner=LearnerConfig(cuda_graphs=graphs), optimizer=OptimizerConfig(clip_norm=2.0)
    )
    optimizer = torch.optim.SGD(make_optimizer(groups, config.optimizer).param_groups)
    if graphs:
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(0.0)
    update = Update(config, cast(Algorithm, Pulling()), agent, None, optimizer)
    unroll = make_unroll(0)
    ones = {"": torch.ones_like(unroll.rows.observations[""])}
    for _ in range(6):
        before = [weight.item() for weight in agent]
        update.load(replace(unroll, rows=replace(unroll.rows, observations=ones)))
        assert update.backward().scalars["grad_norm"] == pytest.approx(5.0)
        assert [weight.grad.item() for weight in agent] == pytest.approx(clipped)
        update.step(0.1, 0.5)
        moved = [old - weight.item() for old, weight in zip(before, agent, strict=True)]
        assert moved == pytest.approx([0.1 * clipped[0], 0.25 * clipped[1]], rel=1e-4)
