"""The R2D2 loss against its twin, by hand, and what must not reach it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from seed.algorithms.r2d2 import initial_priorities, loss
from seed.config.schema import NetworkConfig
from seed.device.transfer import tensors_of
from seed.ops.value_rescaling import rescale, unscale
from seed.store.rows import Rows, Unroll
from tests.seed.algorithms.r2d2_twin import (
    CONFIG,
    PLAIN,
    RECURRENT,
    Case,
    make_case,
    say,
    twin_of,
)

NETWORKS = pytest.mark.parametrize("network", [PLAIN, RECURRENT], ids=["plain", "recurrent"])


@NETWORKS
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("n_steps", [1, 3, 20])
def test_matches_the_twin(network: NetworkConfig, seed: int, n_steps: int) -> None:
    config = replace(CONFIG, n_steps=n_steps)
    case = make_case(network, seed=seed)
    expected, actual = twin_of(case, config), case.loss(config)
    assert actual.loss.item() == pytest.approx(expected.loss, rel=1e-4, abs=1e-6)
    assert actual.priorities is not None
    np.testing.assert_allclose(actual.priorities, expected.priorities, rtol=1e-4, atol=1e-5)


@NETWORKS
@pytest.mark.parametrize("seed", range(4))
def test_metrics_match_the_twin(network: NetworkConfig, seed: int) -> None:
    case = make_case(network, seed=seed)
    expected, metrics = twin_of(case), case.loss().metrics
    targets, errors = (np.array(list(x.values())) for x in (expected.targets, expected.errors))
    assert not any(value.requires_grad or value.dim() for value in metrics.values())
    learned = case.unroll.rows.rewards[case.unroll.burn_in :].numpy()
    beyond = [abs(0.5 * learned[t + 1, b]) > 1 for t, b in expected.targets]
    assert {name: value.item() for name, value in metrics.items()} == pytest.approx(
        {
            "reward_clipped_share": np.mean(beyond),
            "q_mean": (targets - errors).mean(),
            "target_mean": targets.mean(),
            "td_error_mean": np.abs(errors).mean(),
            "priority_mean": np.mean(expected.priorities),
            "importance_mean": case.unroll.importance.mean().item(),
        },
        rel=1e-4, abs=1e-5,
    )  # fmt: skip


def test_without_clipping_there_is_no_metric_of_it() -> None:
    assert "reward_clipped_share" not in make_case().loss(replace(CONFIG, reward_clip=0.0)).metrics


# The walk above starts from the same state and runs over all rows at once: with the state of any
# other row, or with the burn-in left out, it must not agree.
@pytest.mark.parametrize("change", ["state", "burn-in", "zeros"])
def test_the_state_is_that_of_the_first_row_of_the_burn_in(change: str) -> None:
    case = make_case(seed=1, burn_in=3, end_share=0.0)
    expected, unroll = twin_of(case).loss, case.unroll
    assert case.loss().loss.item() == pytest.approx(expected, rel=1e-4)
    if change == "state":
        rows = unroll.rows.between(0, 1)
        unroll.agent_state[:] = case.agent.advance(rows, rows.rewards, unroll.agent_state).detach()
        other = case.loss()
    elif change == "burn-in":
        cut = {name: value[3:] for name, value in unroll.behaviour.items()}
        shorter = replace(
            unroll, rows=unroll.rows.between(3), actions=unroll.actions[3:], behaviour=cut,
            policy_versions=unroll.policy_versions[3:], burn_in=0,
        )  # fmt: skip
        other = case._replace(unroll=shorter).loss()
    else:
        other = case.loss(replace(CONFIG, stored_state=False))
    assert other.loss.item() != pytest.approx(expected, rel=1e-2)


def test_bootstraps_from_the_targets_value_of_the_agents_action() -> None:
    case = make_case(seed=2, end_share=0.0)
    actual, double = case.loss().loss.item(), twin_of(case).loss
    assert actual == pytest.approx(double, rel=1e-4)
    assert twin_of(case, double=False).loss != pytest.approx(double, rel=1e-2)
    swapped = Case(case.target, case.agent, case.unroll)
    assert twin_of(swapped).loss != pytest.approx(double, rel=1e-2)


@NETWORKS
def test_the_gradient_is_that_of_q_alone(network: NetworkConfig) -> None:
    case = make_case(network, seed=3, burn_in=0)
    errors = twin_of(case).errors
    q_values = say(case.agent, case.unroll)
    batch = len(case.unroll.importance)
    expected = sum(
        -case.unroll.importance[b] / batch * error * q_values[t, b, case.unroll.actions[t, b]]
        for (t, b), error in errors.items()
    )
    assert isinstance(expected, Tensor)
    wanted = torch.autograd.grad(expected, list(case.agent.parameters()))
    for gradient, other in zip(case.gradients(), wanted, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-3, atol=1e-5)
    assert any(gradient.any() for gradient in wanted)


def test_no_gradient_reaches_burn_in_or_target() -> None:
    case = make_case(seed=1, burn_in=3, end_share=0.0)
    observations = case.unroll.rows.observations[""].requires_grad_()
    case.loss().loss.backward()  # type: ignore[no-untyped-call]
    assert observations.grad is not None
    assert not observations.grad[:3].any()
    # Row T only gives the bootstrap value.
    assert observations.grad[3:-1].flatten(1).any(dim=1).all()
    assert not observations.grad[-1].any()
    assert all(parameter.grad is None for parameter in case.target.parameters())


def change_before(case: Case, row: int) -> None:
    """Makes the rows before this one, and the state before them all, different ones."""
    rows = case.unroll.rows
    rows.observations[""][:row] += 3.0
    rows.rewards[:row] -= 2.0
    rows.previous_actions[:row] = 2 - rows.previous_actions[:row]
    rows.terminated[:row] = ~rows.terminated[:row]
    case.unroll.agent_state[:] += 1.0


@pytest.mark.parametrize("start", [1, 2, 4])
def test_an_episode_that_starts_in_the_burn_in_forgets_what_was_before(start: int) -> None:
    case = make_case(seed=4, burn_in=4, end_share=0.0)
    case.unroll.rows.first[start] = True
    before, gradients = case.loss(), case.gradients()
    change_before(case, start)
    after = case.loss()
    assert torch.equal(after.loss, before.loss)
    assert all(map(torch.equal, case.gradients(), gradients))
    assert before.priorities is not None
    assert after.priorities is not None
    assert torch.equal(after.priorities, before.priorities)
    # Without a start the same changes count.
    case.unroll.rows.first[start] = False
    changed = case.loss().loss
    change_before(case, start)
    assert not torch.equal(case.loss().loss, changed)


class TableQ(nn.Module):
    """Q of every observation, which is a number, as a weight."""

    state_size = 0

    def __init__(self, values: list[list[float]]) -> None:
        """The values are given in units of reward."""
        super().__init__()
        self.table = nn.Parameter(rescale(torch.tensor(values), CONFIG.rescale_epsilon))

    def forward(self, rows: Rows, rewards: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return self.table[rows.observations[""]], state


def hand_targets(
    n_steps: int, terminated: int | None = None, truncated: int | None = None
) -> list[float]:
    """Targets of five rows in units of reward, read off the gradient; row t observes t.

    The discount is one half, the agent's values are [1, 0] and action 0 is taken everywhere. The
    target's values are [10 (t + 1), 1000]. The errors of pairs that are no transition are zero.
    """
    flags = torch.zeros(3, 5, 1, dtype=torch.bool)
    for flag, row in enumerate((terminated, truncated)):
        if row is not None:
            flags[flag, row] = True
            flags[2, row + 1 : row + 2] = True
    rows = Rows(
        observations={"": torch.arange(5)[:, None]},
        previous_actions=torch.zeros(5, 1, dtype=torch.int64),
        rewards=torch.tensor([900.0, 1.0, 2.0, 3.0, 4.0])[:, None].masked_fill(flags[2], 900.0),
        terminated=flags[0], truncated=flags[1], first=flags[2],
    )  # fmt: skip
    unroll = Unroll(
        rows, actions=torch.zeros(5, 1, dtype=torch.int64), behaviour={},
        policy_versions=torch.zeros(5, 1, dtype=torch.int64), agent_state=torch.zeros(1, 0),
        importance=torch.ones(1), burn_in=0,
    )  # fmt: skip
    agent = cast(Any, TableQ([[1.0, 0.0]] * 5))
    target = cast(Any, TableQ([[10.0 * (t + 1), 1000.0] for t in range(5)]))
    config = replace(CONFIG, discount=0.5, n_steps=n_steps, reward_scale=1.0, reward_clip=0.0)
    loss(agent, target, unroll, config).loss.backward()  # type: ignore[no-untyped-call]
    targets = agent.table.detach() - agent.table.grad
    units: list[float] = unscale(targets, CONFIG.rescale_epsilon)[:-1, 0].tolist()
    return units


def test_targets_by_hand() -> None:
    assert hand_targets(1) == pytest.approx([1 + 10, 2 + 15, 3 + 20, 4 + 25], rel=1e-4)
    # Two rewards and a quarter of the value; the last row has but one.
    assert hand_targets(2) == pytest.approx([2 + 7.5, 3.5 + 10, 5 + 12.5, 4 + 25], rel=1e-4)
    assert hand_targets(4)[0] == pytest.approx(1 + 1 + 0.75 + 0.5 + 50 / 16, rel=1e-4)


@pytest.mark.parametrize("n_steps", [2, 5])
def test_a_truncated_episode_bootstraps_from_its_final_observation(n_steps: int) -> None:
    # Row 2 is worth 30; Q is 1 where there is no transition, as it is not moved.
    expected = [1 + (2 + 15) / 2, 2 + 15, 1, 4 + 25]
    assert hand_targets(n_steps, truncated=2) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("n_steps", [2, 5])
def test_nothing_follows_a_terminated_row(n_steps: int) -> None:
    expected = [1 + 2 / 2, 2, 1, 4 + 25]
    assert hand_targets(n_steps, terminated=2) == pytest.approx(expected, rel=1e-4)


def test_an_end_in_the_last_row() -> None:
    assert hand_targets(1, terminated=4)[3] == pytest.approx(4, rel=1e-4)
    assert hand_targets(1, truncated=4)[3] == pytest.approx(4 + 25, rel=1e-4)


@NETWORKS
def test_what_pairs_that_are_no_transition_hold_does_not_matter(network: NetworkConfig) -> None:
    case = make_case(network, seed=5, end_share=0.6)
    before, gradients = case.loss(), case.gradients()
    rows, ended = case.unroll.rows, case.unroll.rows.terminated | case.unroll.rows.truncated
    assert ended[case.unroll.burn_in : -1].any()
    case.unroll.actions[ended] = (case.unroll.actions[ended] + 1) % 3
    rows.rewards[rows.first] = math.nan
    rows.previous_actions[rows.first] = 1
    after = case.loss()
    assert torch.equal(after.loss, before.loss)
    assert all(map(torch.equal, case.gradients(), gradients))
    assert all(torch.equal(value, after.metrics[name]) for name, value in before.metrics.items())


def test_a_sequence_without_any_transition_is_harmless() -> None:
    case = make_case(seed=6)
    case.unroll.rows.terminated[:] = True
    result = case.loss()
    assert result.loss == 0
    assert result.priorities is not None
    assert not result.priorities.any()
    assert not any(gradient.any() for gradient in case.gradients())
    assert all(torch.isfinite(value) for value in result.metrics.values())


def test_importance_weights_the_sequences_gradients() -> None:
    case = make_case(seed=7)
    weights = case.unroll.importance.clone()
    assert len(weights) > 1
    together, priorities = case.gradients(), case.loss().priorities
    sums = [torch.zeros_like(gradient) for gradient in together]
    for b, weight in enumerate(weights):
        case.unroll.importance.zero_()
        case.unroll.importance[b] = 1.0
        for total, gradient in zip(sums, case.gradients(), strict=True):
            total += weight * gradient
    for total, gradient in zip(sums, together, strict=True):
        torch.testing.assert_close(gradient, total, rtol=1e-3, atol=1e-5)
    assert priorities is not None
    assert torch.equal(cast(Tensor, case.loss().priorities), priorities)


@NETWORKS
@pytest.mark.parametrize("seed", range(4))
def test_initial_priorities_are_those_of_the_acting_network(
    network: NetworkConfig, seed: int
) -> None:
    case = make_case(network, seed=seed, burn_in=0)
    unroll = case.unroll
    q_values = say(case.agent, unroll).detach()
    unroll.behaviour["q_taken"] = q_values.gather(-1, unroll.actions[..., None])[..., 0]
    unroll.behaviour["q_max"] = q_values.amax(dim=-1)
    expected = loss(case.agent, case.agent, unroll, CONFIG).priorities
    unseen = replace(unroll.rows, observations={})
    actual = initial_priorities(replace(unroll, rows=unseen), CONFIG)
    torch.testing.assert_close(actual, expected)
    # What acting said where an episode ended, or of the last row's action, does not matter.
    ended = unroll.rows.terminated | unroll.rows.truncated
    unroll.behaviour["q_taken"][ended] = math.nan
    unroll.behaviour["q_taken"][-1] = math.nan
    assert torch.equal(initial_priorities(replace(unroll, rows=unseen), CONFIG), actual)


def snapshot(case: Case) -> list[Tensor]:
    """Copies of all that the loss is given."""
    weights = [*case.agent.parameters(), *case.target.parameters()]
    return [tensor.detach().clone() for tensor in (*tensors_of(case.unroll), *weights)]


def test_loss_and_priorities_change_nothing() -> None:
    case = make_case(seed=2, burn_in=2)
    before = snapshot(case)
    assert torch.equal(case.loss().loss, case.loss().loss)
    unroll = make_case(seed=2, burn_in=0).unroll
    assert torch.equal(initial_priorities(unroll, CONFIG), initial_priorities(unroll, CONFIG))
    assert all(map(torch.equal, snapshot(case), before))
