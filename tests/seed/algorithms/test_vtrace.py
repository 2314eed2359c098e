"""The V-trace loss against a twin that cuts every unroll into its episodes first."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from seed.algorithms.vtrace import Config, act, loss, make_agent
from seed.config.schema import NetworkConfig
from seed.contract import ActOutput, Fleet, LossResult
from seed.networks.actor_critic import ActorCritic
from seed.ops.reward_shaping import shape_rewards
from seed.store.rows import Unroll
from seed.wire.spaces import SpaceSpec
from tests.seed.random_rows import random_rows

DISCRETE, BOX = SpaceSpec("int64", (), 3), SpaceSpec("float32", (2, 2))
VECTOR, NUMBERED = SpaceSpec("float32", (4,)), SpaceSpec("int64", (), 5)
PLAIN = NetworkConfig(torso="mlp", hidden_sizes=(8,))
RECURRENT = NetworkConfig(torso="mlp", hidden_sizes=(8,), lstm_size=6)
CONFIG = Config(
    discount=0.9, lambda_=0.8, clip_rho=1.2, clip_pg_rho=0.7, value_cost=0.6, entropy_cost=0.05,
    reward_scale=0.5, reward_clip=1.0, reduction="sum",
)  # fmt: skip
KINDS = pytest.mark.parametrize(
    ("observation", "action", "network"),
    [
        (VECTOR, DISCRETE, PLAIN),
        (VECTOR, DISCRETE, RECURRENT),
        (NUMBERED, DISCRETE, RECURRENT),
        (VECTOR, BOX, RECURRENT),
        (NUMBERED, BOX, PLAIN),
    ],
)


def shaped(rewards: Tensor) -> Tensor:
    return shape_rewards(rewards, CONFIG.reward_scale, CONFIG.reward_clip)


class Case(NamedTuple):
    """An agent and a batch of unrolls for it."""

    agent: ActorCritic
    unroll: Unroll

    def loss(self, config: Config = CONFIG) -> LossResult:
        return loss(self.agent, None, self.unroll, config)

    def act(self, *, greedy: bool) -> ActOutput:
        """Acts at the unroll's first row."""
        state = self.unroll.agent_state
        fleet = Fleet(torch.zeros(len(state)), torch.zeros(len(state), dtype=torch.bool))
        rows = self.unroll.rows.between(0, 1)
        with torch.no_grad():
            return act(self.agent, rows, state, CONFIG, fleet=fleet, greedy=greedy)


def make_case(
    observation: SpaceSpec = VECTOR,
    action: SpaceSpec = DISCRETE,
    network: NetworkConfig = PLAIN,
    *,
    seed: int = 0,
    end_share: float = 0.3,
) -> Case:
    """Random unrolls as the store gives them, some rows ending an episode."""
    torch.manual_seed(seed)
    agent = make_agent(observation, action, network, CONFIG)
    # Larger than at the start of a run, so that the ratios are far from 1.
    torch.nn.init.normal_(agent.policy_head.weight)
    rng = np.random.default_rng(seed)
    length, batch = int(rng.integers(1, 9)), int(rng.integers(1, 5))
    shape = (length + 1, batch)
    rows, actions = random_rows(observation, action, shape, end_share)
    behaviour = torch.randn(*shape, agent.policy.parameter_count)
    versions = torch.zeros(shape, dtype=torch.int64)
    state = torch.randn(batch, agent.state_size)
    unroll = Unroll(
        rows, actions, {"policy": behaviour}, versions, state, torch.ones(batch), burn_in=0
    )
    return Case(agent, unroll)


class Said(NamedTuple):
    """What the network says of an unroll, and the ratios' logs. `[T + 1, B]` each."""

    log_probs: Tensor
    log_rhos: Tensor
    values: Tensor
    entropy: Tensor


def say(case: Case) -> Said:
    agent, unroll = case
    output = agent(unroll.rows, shaped(unroll.rows.rewards), unroll.agent_state)
    log_probs = agent.policy.log_prob(output.policy, unroll.actions)
    log_mus = agent.policy.log_prob(unroll.behaviour["policy"], unroll.actions)
    entropy = agent.policy.entropy(output.policy)
    return Said(log_probs, (log_probs - log_mus).detach(), output.values, entropy)


def twin_targets(case: Case, said: Said) -> dict[tuple[int, int], tuple[float, float]]:
    """The value target and the advantage of every transition (t, b), episode by episode."""
    rows = case.unroll.rows
    targets: dict[tuple[int, int], tuple[float, float]] = {}
    last = rows.first.shape[0] - 1
    for b in range(rows.first.shape[1]):
        start = 0
        for t in range(last + 1):
            terminated, truncated = bool(rows.terminated[t, b]), bool(rows.truncated[t, b])
            if terminated or truncated or t == last:
                values = said.values[start : t + 1, b].detach().double().numpy().copy()
                if terminated:
                    values[-1] = 0.0
                rewards = rows.rewards[start + 1 : t + 1, b].double().numpy()
                ratios = said.log_rhos[start:t, b].double().exp().numpy()
                for s, pair in enumerate(episode_targets(values, rewards, ratios)):
                    targets[start + s, b] = pair
                start = t + 1
    return targets


def episode_targets(
    values: NDArray[np.float64], rewards: NDArray[np.float64], ratios: NDArray[np.float64]
) -> list[tuple[float, float]]:
    """The paper's sums over one episode of n transitions and n + 1 values."""
    n, gamma = len(rewards), CONFIG.discount
    rewards = np.clip(rewards * CONFIG.reward_scale, -1, 1)
    rho, c = np.minimum(ratios, CONFIG.clip_rho), CONFIG.lambda_ * np.minimum(ratios, 1.0)
    delta = rho * (rewards + gamma * values[1:] - values[:-1])
    vs = values.copy()
    for s in range(n):
        for t in range(s, n):
            vs[s] += gamma ** (t - s) * np.prod(c[s:t]) * delta[t]
    advantages = np.minimum(ratios, CONFIG.clip_pg_rho) * (rewards + gamma * vs[1:] - values[:-1])
    return list(zip(vs[:-1].tolist(), advantages.tolist(), strict=True))


def twin_loss(case: Case) -> tuple[Tensor, int]:
    """The loss with constants as targets, and the number of transitions."""
    said = say(case)
    total = torch.zeros(())
    targets = twin_targets(case, said)
    for (t, b), (value_target, advantage) in targets.items():
        total = total - said.log_probs[t, b] * advantage
        total = total + CONFIG.value_cost * 0.5 * (value_target - said.values[t, b]) ** 2
        total = total - CONFIG.entropy_cost * said.entropy[t, b]
    return total, len(targets)


def gradients(case: Case, total: Tensor) -> list[Tensor]:
    found = torch.autograd.grad(total, list(case.agent.parameters()), allow_unused=True)
    return [torch.zeros(1) if gradient is None else gradient for gradient in found]


@KINDS
@pytest.mark.parametrize("seed", range(6))
def test_matches_the_twin_and_its_gradient(
    observation: SpaceSpec, action: SpaceSpec, network: NetworkConfig, seed: int
) -> None:
    case = make_case(observation, action, network, seed=seed)
    expected, _ = twin_loss(case)
    actual = case.loss().loss
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    if expected.requires_grad:
        pairs = zip(gradients(case, actual), gradients(case, expected), strict=True)
        for gradient, expected_gradient in pairs:
            torch.testing.assert_close(gradient, expected_gradient, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("seed", range(6))
def test_the_mean_is_over_the_transitions(seed: int) -> None:
    case = make_case(seed=seed)
    expected, count = twin_loss(case)
    mean = case.loss(replace(CONFIG, reduction="mean"))
    torch.testing.assert_close(mean.loss, expected / max(count, 1), rtol=1e-4, atol=1e-4)


@KINDS
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_step_between_episodes_counts_for_nothing(
    observation: SpaceSpec, action: SpaceSpec, network: NetworkConfig, reduction: Any
) -> None:
    config = replace(CONFIG, reduction=reduction)
    case = make_case(observation, action, network, seed=3, end_share=0.6)
    before = case.loss(config)
    before_gradients = gradients(case, before.loss)
    rows = case.unroll.rows
    ended, first = rows.terminated | rows.truncated, rows.first
    assert ended[:-1].any()
    with torch.no_grad():
        changed = (case.unroll.actions + 1) % 3 if action.n else case.unroll.actions + 5
        case.unroll.actions[ended] = changed[ended]
        case.unroll.behaviour["policy"][ended] += torch.randn(case.agent.policy.parameter_count)
        rows.rewards[first] = 100.0
        rows.previous_actions[first] = 1
    after = case.loss(config)
    assert torch.equal(after.loss, before.loss)
    for left, right in zip(gradients(case, after.loss), before_gradients, strict=True):
        assert torch.equal(left, right)
    for name, value in before.metrics.items():
        assert torch.equal(value, after.metrics[name]), name


# The same changes must count where no episode ends, or the test above could not fail.
@pytest.mark.parametrize("changed", ["actions", "behaviour", "rewards"])
def test_the_same_changes_count_within_an_episode(changed: str) -> None:
    case = make_case(seed=3, end_share=0.0)
    before = case.loss().loss
    with torch.no_grad():
        if changed == "actions":
            case.unroll.actions[0] = (case.unroll.actions[0] + 1) % 3
        elif changed == "behaviour":
            case.unroll.behaviour["policy"][0, :, 0] += 1
        else:
            case.unroll.rows.rewards[1] *= -1
    assert not torch.equal(case.loss().loss, before)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_an_unroll_without_any_transition_is_harmless(reduction: Any) -> None:
    case = make_case(seed=1)
    case.unroll.rows.terminated[:] = True
    result = case.loss(replace(CONFIG, reduction=reduction))
    assert result.loss == 0
    assert all(not gradient.any() for gradient in gradients(case, result.loss))
    assert all(torch.isfinite(value) for value in result.metrics.values())


def test_on_policy_metrics() -> None:
    case = make_case(seed=4, end_share=0.0)
    unroll = case.unroll
    rewards = shaped(unroll.rows.rewards)
    output = case.agent(unroll.rows, rewards, unroll.agent_state)
    unroll.behaviour["policy"] = output.policy.detach()
    metrics = case.loss().metrics
    assert metrics["rho_mean"].item() == pytest.approx(1.0)
    assert metrics["rho_clipped_share"] == 0
    assert metrics["behaviour_kl"].item() == pytest.approx(0.0, abs=1e-6)
    assert metrics["value_mean"].item() == pytest.approx(output.values[:-1].mean().item())
    assert 0 < metrics["entropy"] <= math.log(3) + 1e-6
    assert not any(value.requires_grad or value.dim() for value in metrics.values())


def test_the_loss_is_the_sum_of_its_parts() -> None:
    result = make_case(seed=5).loss()
    metrics = result.metrics
    off = make_case(seed=5).loss(replace(CONFIG, entropy_cost=0.0))
    parts = metrics["policy_loss"] + CONFIG.value_cost * metrics["value_loss"]
    torch.testing.assert_close(off.loss, parts)
    assert result.loss < off.loss
    assert result.priorities is None


def test_the_loss_changes_neither_unroll_nor_network() -> None:
    case = make_case(network=RECURRENT, seed=6)
    rewards, actions = case.unroll.rows.rewards.clone(), case.unroll.actions.clone()
    weights = [parameter.detach().clone() for parameter in case.agent.parameters()]
    assert torch.equal(case.loss().loss, case.loss().loss)
    assert torch.equal(case.unroll.rows.rewards, rewards)
    assert torch.equal(case.unroll.actions, actions)
    assert all(map(torch.equal, case.agent.parameters(), weights))


@pytest.mark.parametrize(
    ("name", "value"),
    [("discount", -0.01), ("discount", 1.01), ("discount", math.nan), ("lambda_", -0.01),
     ("lambda_", 1.01), ("clip_rho", 0.0), ("clip_rho", math.nan), ("clip_pg_rho", -1.0),
     ("reward_clip", -0.5), ("reward_clip", math.nan)],
)  # fmt: skip
def test_refuses_settings_outside_the_formulas_range(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{name} = {value}: expected "):
        replace(CONFIG, **cast(Any, {name: value}))


@pytest.mark.parametrize("clip", [0.7, 100.0, 0.0])
def test_the_share_of_clipped_rewards_is_a_metric(clip: float) -> None:
    case = make_case(seed=4)
    config = replace(CONFIG, reward_scale=0.5, reward_clip=clip)
    metrics = loss(case.agent, None, case.unroll, config).metrics
    found = metrics.get("reward_clipped_share")
    if not clip:
        assert found is None
        return
    rewards = case.unroll.rows.rewards
    beyond = [abs(0.5 * rewards[t + 1, b].item()) > clip for t, b in twin_targets(case, say(case))]
    assert found == pytest.approx(sum(beyond) / len(beyond))
    assert any(beyond) == (clip < 1)


@KINDS
def test_acting_keeps_the_policy_and_the_state(
    observation: SpaceSpec, action: SpaceSpec, network: NetworkConfig
) -> None:
    case = make_case(observation, action, network, seed=7)
    rows, state = case.unroll.rows.between(0, 1), case.unroll.agent_state
    # With gradients, other kernels give the same up to rounding.
    with torch.no_grad():
        output = case.agent(rows, shaped(rows.rewards), state)
    acted, greedy = case.act(greedy=False), case.act(greedy=True)
    assert acted.actions.shape == (len(state), *action.shape)
    assert acted.actions.dtype == (torch.int64 if action.n else torch.float32)
    assert torch.equal(acted.behaviour["policy"], output.policy[0])
    assert torch.equal(acted.agent_state, output.agent_state)
    modes = case.agent.policy.mode(output.policy[0])
    assert torch.equal(greedy.actions, modes.view_as(greedy.actions))


def test_acting_samples() -> None:
    case = make_case(seed=8)
    torch.nn.init.zeros_(case.agent.policy_head.weight)
    drawn = {int(case.act(greedy=False).actions[0]) for _ in range(100)}
    assert drawn == {0, 1, 2}
