"""The A2C loss against the sums of the paper, episode by episode, and against V-trace on policy."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from seed.algorithms import a2c, vtrace
from seed.config.schema import NetworkConfig
from seed.contract import Fleet
from seed.networks.actor_critic import ActorCritic
from seed.store.rows import Unroll
from seed.wire.spaces import SpaceSpec
from tests.seed.random_rows import random_rows

CONFIG = a2c.Config(
    discount=0.9, lambda_=0.8, value_cost=0.6, entropy_cost=0.05, loss_scale=5.0,
    reward_scale=0.5, reward_clip=1.0,
)  # fmt: skip
VECTOR = SpaceSpec("float32", (4,))
KINDS = pytest.mark.parametrize("lstm_size", [0, 6])
ACTIONS = pytest.mark.parametrize("action", [SpaceSpec("int64", (), 3), SpaceSpec("float32", (2,))])


def make_case(action: SpaceSpec, lstm_size: int, seed: int) -> tuple[ActorCritic, Unroll]:
    """An agent, and random unrolls in which its own policy has acted."""
    torch.manual_seed(seed)
    network = NetworkConfig(torso="mlp", hidden_sizes=(8,), lstm_size=lstm_size)
    agent = a2c.make_agent(VECTOR, action, network, CONFIG)
    torch.nn.init.normal_(agent.policy_head.weight)
    rows, actions = random_rows(VECTOR, action, (7, 5), end_share=0.3)
    state = torch.randn(5, agent.state_size)
    with torch.no_grad():
        rewards = (rows.rewards * 0.5).clamp(-1, 1)
        behaviour = {"policy": agent(rows, rewards, state).policy}
    versions = torch.zeros(7, 5, dtype=torch.int64)
    return agent, Unroll(rows, actions, behaviour, versions, state, torch.ones(5), burn_in=0)


@KINDS
@ACTIONS
@pytest.mark.parametrize("seed", range(3))
def test_loss(action: SpaceSpec, lstm_size: int, seed: int) -> None:
    agent, unroll = make_case(action, lstm_size, seed)
    rows = unroll.rows
    shaped = np.clip(rows.rewards.double().numpy() * 0.5, -1, 1)
    with torch.no_grad():
        output = agent(rows, torch.from_numpy(shaped).float(), unroll.agent_state)
        values = output.values.double().numpy()
        log_probs = agent.policy.log_prob(output.policy, unroll.actions).double().numpy()
        entropies = agent.policy.entropy(output.policy).double().numpy()
    terminated, ended = rows.terminated.numpy(), (rows.terminated | rows.truncated).numpy()
    terms = []
    for t, b in np.ndindex(6, 5):
        if ended[t, b]:
            continue
        advantage, k, factor = 0.0, t, 1.0
        while k < 6 and not ended[k, b]:
            following = 0.0 if terminated[k + 1, b] else values[k + 1, b]
            advantage += factor * (shaped[k + 1, b] + 0.9 * following - values[k, b])
            factor *= 0.9 * 0.8
            k += 1
        # The target of the value is this advantage above it.
        terms.append(-log_probs[t, b] * advantage + 0.6 * 0.5 * advantage**2
                     - 0.05 * entropies[t, b])  # fmt: skip
    result = a2c.loss(agent, None, unroll, CONFIG)
    assert result.loss.item() == pytest.approx(5.0 * np.mean(terms), rel=1e-4)
    assert all(not value.requires_grad for value in result.metrics.values())


@KINDS
@ACTIONS
@pytest.mark.parametrize("burn_in", [0, 2])
def test_it_is_v_trace_where_the_policy_itself_has_acted(
    action: SpaceSpec, lstm_size: int, burn_in: int
) -> None:
    """Its ratios are 1 then, and with lambda = 1 its advantages those of n-step returns."""
    agent, unroll = make_case(action, lstm_size, seed=7)
    unroll = replace(unroll, burn_in=burn_in)
    shared = {"discount": 0.9, "value_cost": 0.6, "entropy_cost": 0.05, "reward_scale": 0.5,
              "reward_clip": 1.0}  # fmt: skip
    results = (
        a2c.loss(agent, None, unroll, a2c.Config(**shared)),
        vtrace.loss(agent, None, unroll, vtrace.Config(**shared, reduction="mean")),
    )
    torch.testing.assert_close(results[0].loss, results[1].loss)
    assert results[0].count == results[1].count
    parameters = list(agent.parameters())
    ours, theirs = (torch.autograd.grad(result.loss, parameters) for result in results)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert any(gradient.abs().max() > 1e-3 for gradient in ours)


@pytest.mark.parametrize("algorithm", [a2c, vtrace])
@ACTIONS
def test_nothing_is_learned_from_burn_in(algorithm: Any, action: SpaceSpec) -> None:
    agent, unroll = make_case(action, lstm_size=6, seed=3)
    config = algorithm.Config(reward_clip=1.0)
    with torch.no_grad():
        before = unroll.rows.between(0, 2)
        state = agent(before, before.rewards.clamp(-1, 1), unroll.agent_state).agent_state
    short = Unroll(
        unroll.rows.between(2), unroll.actions[2:], {"policy": unroll.behaviour["policy"][2:]},
        unroll.policy_versions[2:], state, unroll.importance, burn_in=0,
    )  # fmt: skip
    results = (
        algorithm.loss(agent, None, replace(unroll, burn_in=2), config),
        algorithm.loss(agent, None, short, config),
    )
    torch.testing.assert_close(results[0].metrics, results[1].metrics)
    parameters = list(agent.parameters())
    ours, theirs = (torch.autograd.grad(result.loss, parameters) for result in results)
    torch.testing.assert_close(ours, theirs)


def test_it_acts_by_its_policy_and_keeps_nothing() -> None:
    agent, unroll = make_case(SpaceSpec("int64", (), 3), 0, seed=1)
    fleet = Fleet(torch.zeros(5), torch.zeros(5, dtype=torch.bool))
    rows = unroll.rows.between(0, 1)
    acted = a2c.act(agent, rows, unroll.agent_state, CONFIG, fleet=fleet, greedy=True)
    assert acted.actions.tolist() == unroll.behaviour["policy"][0].argmax(-1).tolist()
    assert acted.behaviour == {}
    drawn = [
        a2c.act(agent, rows, unroll.agent_state, CONFIG, fleet=fleet, greedy=False).actions
        for _ in range(50)
    ]
    assert len({tuple(actions.tolist()) for actions in drawn}) > 10


@pytest.mark.parametrize(
    ("field", "value"),
    [("discount", 1.1), ("lambda_", -0.1), ("value_cost", math.nan), ("entropy_cost", math.inf),
     ("loss_scale", 0.0), ("loss_scale", math.inf), ("reward_clip", -1.0)],
)  # fmt: skip
def test_settings_out_of_range_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        a2c.Config(**{field: value})
