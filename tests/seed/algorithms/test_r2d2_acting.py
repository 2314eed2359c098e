"""R2D2 outside its loss: acting, the target's copies, the agent and the settings."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from seed.algorithms.r2d2 import Config, act, initial_priorities, make_agent, update_target
from seed.contract import ActOutput, Fleet
from seed.store.rows import Rows
from seed.wire.spaces import SpaceSpec
from tests.seed.algorithms.r2d2_twin import ACTION, CONFIG, RECURRENT, VECTOR, make_case


def test_the_target_is_copied_every_period() -> None:
    agent, target, _ = make_case()
    config = replace(CONFIG, target_period_updates=3)
    copied = []
    for learner_steps in range(1, 8):
        with torch.no_grad():
            for parameter in agent.parameters():
                parameter.add_(1.0)
        before = [parameter.detach().clone() for parameter in agent.parameters()]
        update_target(agent, target, learner_steps, config)
        assert all(map(torch.equal, agent.parameters(), before))
        if all(map(torch.equal, agent.parameters(), target.parameters())):
            copied.append(learner_steps)
    assert copied == [3, 6]


def act_once(
    positions: Tensor, evaluation: Tensor, config: Config = CONFIG, *, greedy: bool = False
) -> tuple[ActOutput, Tensor]:
    """What an agent does where all environments show the same, and the Q that it sees `[B, A]`."""
    torch.manual_seed(0)
    agent = make_agent(VECTOR, ACTION, RECURRENT, config)
    batch = len(positions)
    never = torch.zeros(1, batch, dtype=torch.bool)
    rows = Rows(
        observations={"": torch.ones(1, batch, 4)}, rewards=torch.full((1, batch), 0.3),
        previous_actions=torch.ones(1, batch, dtype=torch.int64),
        terminated=never, truncated=never, first=never,
    )  # fmt: skip
    state = torch.ones(batch, agent.state_size)
    with torch.inference_mode():
        acted = act(agent, rows, state, config, fleet=Fleet(positions, evaluation), greedy=greedy)
        q_values, after = agent(rows, rows.rewards * config.reward_scale, state)
    assert torch.equal(acted.agent_state, after)
    return acted, q_values[0]


def test_acting_keeps_q_of_the_action_and_the_largest() -> None:
    positions = torch.linspace(0.0, 1.0, 50)
    acted, q_values = act_once(positions, torch.zeros(50, dtype=torch.bool))
    assert acted.actions.dtype == torch.int64
    assert len(set(acted.actions.tolist())) > 1
    assert {name: value.dtype for name, value in acted.behaviour.items()} == {
        "q_taken": torch.float32, "q_max": torch.float32,
    }  # fmt: skip
    for b, action in enumerate(acted.actions):
        assert acted.behaviour["q_taken"][b] == q_values[b, action]
        assert acted.behaviour["q_max"][b] == max(q_values[b])


def test_every_environment_explores_as_its_standing_says() -> None:
    config = replace(CONFIG, epsilon_base=0.8, epsilon_last_power=4.0, evaluation_epsilon=0.1)
    count = 40_000
    positions = torch.tensor([0.0, 0.5, 1.0, 0.0]).repeat(count)
    evaluation = torch.tensor([False, False, False, True]).repeat(count)
    acted, q_values = act_once(positions, evaluation, config)
    explored = (acted.actions != q_values.argmax(dim=-1)).float().view(count, 4).mean(dim=0)
    # Of random actions, one in three is the best one. The standard error is below 0.0025.
    expected = 2 / 3 * torch.tensor([0.8, 0.8**2.5, 0.8**4, 0.1])
    torch.testing.assert_close(explored, expected, rtol=0, atol=0.01)


def test_greedy_acting_never_explores() -> None:
    config = replace(CONFIG, epsilon_base=1.0, evaluation_epsilon=1.0)
    evaluation = torch.arange(200) < 100
    acted, q_values = act_once(torch.zeros(200), evaluation, config, greedy=True)
    assert torch.equal(acted.actions, q_values.argmax(dim=-1))


@pytest.mark.parametrize("action", [SpaceSpec("float32", (2,)), SpaceSpec("int64", (2,), 3)])
def test_refuses_actions_that_are_not_one_of_a_few(action: SpaceSpec) -> None:
    with pytest.raises(ValueError, match=r"expected a Discrete action space, got .* use algorithm"):
        make_agent(VECTOR, action, RECURRENT, CONFIG)


@pytest.mark.parametrize(
    ("name", "value"),
    [("discount", -0.01), ("discount", 1.01), ("discount", math.nan),
     ("max_priority_share", 1.01), ("epsilon_base", -0.01), ("evaluation_epsilon", 1.01),
     ("n_steps", 0), ("target_period_updates", 0), ("dueling_size", 0),
     ("epsilon_last_power", 0.99), ("epsilon_last_power", math.inf),
     ("epsilon_last_power", math.nan), ("rescale_epsilon", -0.1), ("rescale_epsilon", math.inf),
     ("reward_clip", -0.5), ("reward_clip", math.nan)],
)  # fmt: skip
def test_refuses_settings_outside_the_formulas_range(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{name} = {value}: expected "):
        replace(CONFIG, **cast(Any, {name: value}))


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_takes_the_ends_of_the_ranges(end: float) -> None:
    config = replace(
        CONFIG, discount=end, max_priority_share=end, rescale_epsilon=0.0, reward_clip=0.0,
        epsilon_base=end, evaluation_epsilon=end, epsilon_last_power=1.0,
    )  # fmt: skip
    assert torch.isfinite(make_case(seed=3).loss(config).loss)


def test_rewards_are_not_clipped_unless_asked() -> None:
    unroll = make_case(seed=1, burn_in=0, end_share=0.0).unroll
    unroll.rows.rewards[:] = 1e4
    for values in unroll.behaviour.values():
        values.zero_()
    config = Config(n_steps=1)
    # h(1e4) = sqrt(10 001) - 1 + 10
    assert initial_priorities(unroll, config)[0].item() == pytest.approx(109.005, rel=1e-5)
    clipped = replace(config, reward_scale=1e-5, reward_clip=0.05)
    # h(0.05)
    assert initial_priorities(unroll, clipped)[0].item() == pytest.approx(0.024745, rel=1e-3)
