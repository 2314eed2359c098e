"""The actor-critic: shapes, names, its first policy, memory, and how it chooses actions."""

from __future__ import annotations

import pytest
import torch

from seed.config.schema import NetworkConfig
from seed.networks.actor_critic import ActorCritic, ActorCriticOutput
from seed.store.rows import Rows
from seed.wire.spaces import SpaceSpec
from tests.seed.random_rows import random_rows

VECTOR, DISCRETE, BOX = (
    SpaceSpec("float32", (4,)), SpaceSpec("int64", (), 3), SpaceSpec("float32", (2, 2))
)  # fmt: skip
PLAIN = NetworkConfig(torso="mlp", hidden_sizes=(8,))
RECURRENT = NetworkConfig(torso="mlp", hidden_sizes=(8,), lstm_size=6)
LENGTH, BATCH = 7, 3


def make_agent(action: SpaceSpec = DISCRETE, network: NetworkConfig = PLAIN) -> ActorCritic:
    torch.manual_seed(0)
    return ActorCritic(VECTOR, action, network)


def make_rows(action: SpaceSpec = DISCRETE) -> Rows:
    torch.manual_seed(1)
    return random_rows(VECTOR, action, (LENGTH, BATCH), 0.3)[0]


def run(agent: ActorCritic, rows: Rows, state: torch.Tensor) -> ActorCriticOutput:
    with torch.no_grad():
        output: ActorCriticOutput = agent(rows, rows.rewards, state)
    return output


@pytest.mark.parametrize("network", [PLAIN, RECURRENT])
@pytest.mark.parametrize(("action", "parameters"), [(DISCRETE, 3), (BOX, 8)])
def test_what_it_says_has_the_shapes(
    action: SpaceSpec, parameters: int, network: NetworkConfig
) -> None:
    agent = make_agent(action, network)
    assert agent.state_size == 2 * network.lstm_size
    output = run(agent, make_rows(action), torch.randn(BATCH, agent.state_size))
    assert output.policy.shape == (LENGTH, BATCH, parameters)
    assert output.values.shape == (LENGTH, BATCH)
    assert output.agent_state.shape == (BATCH, agent.state_size)
    assert {tensor.dtype for tensor in output} == {torch.float32}


def test_checkpoints_know_its_weights_by_these_names() -> None:
    names = [name for name in make_agent().state_dict() if not name.startswith("body.")]
    assert names == ["policy_head.weight", "policy_head.bias", "value_head.weight",
                     "value_head.bias"]  # fmt: skip


def test_the_first_policy_is_near_uniform() -> None:
    policy = run(make_agent(), make_rows(), torch.zeros(BATCH, 0)).policy
    assert (policy.softmax(-1) - 1 / 3).abs().max() < 0.02


def test_rows_one_by_one_are_like_all_at_once() -> None:
    """The state passes from row to row, and is left behind where an episode starts."""
    agent, rows = make_agent(network=RECURRENT), make_rows()
    assert rows.first[1:].any()
    state = torch.randn(BATCH, agent.state_size)
    whole, policies = run(agent, rows, state), []
    for t in range(LENGTH):
        output = run(agent, rows.between(t, t + 1), state)
        policies.append(output.policy)
        state = output.agent_state
    torch.testing.assert_close(torch.cat(policies), whole.policy)
    torch.testing.assert_close(state, whole.agent_state)


@pytest.mark.parametrize(("action", "parameters"), [(DISCRETE, 3), (BOX, 8)])
def test_actions_have_the_spaces_form(action: SpaceSpec, parameters: int) -> None:
    agent = make_agent(action)
    policy = torch.randn(BATCH, parameters)
    drawn, best = agent.choose(policy, greedy=False), agent.choose(policy, greedy=True)
    assert drawn.shape == best.shape == (BATCH, *action.shape)
    assert drawn.dtype == best.dtype == (torch.int64 if action.n else torch.float32)
    assert torch.equal(best, agent.policy.mode(policy).view_as(best))


def test_burn_in_is_for_the_state_alone() -> None:
    agent, rows = make_agent(network=RECURRENT), make_rows()
    state = torch.randn(BATCH, agent.state_size, requires_grad=True)
    whole = agent(rows, rows.rewards, state)
    output = agent(rows, rows.rewards, state, 3)
    for part, of_whole in [(output.policy, whole.policy), (output.values, whole.values)]:
        torch.testing.assert_close(part, of_whole[3:])
    torch.testing.assert_close(output.agent_state, whole.agent_state)
    (gradient,) = torch.autograd.grad(output.values.sum(), state, allow_unused=True)
    assert gradient is None


def test_only_greedy_actions_are_always_the_same() -> None:
    agent, policy = make_agent(), torch.tensor([[0.0, 0.1, 0.0]])
    torch.manual_seed(2)
    assert {int(agent.choose(policy, greedy=True)) for _ in range(50)} == {1}
    assert {int(agent.choose(policy, greedy=False)) for _ in range(50)} == {0, 1, 2}
