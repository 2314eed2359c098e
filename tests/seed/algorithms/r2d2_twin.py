"""Random unrolls for R2D2, and a twin of its loss that walks forward from every row, in float64."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from seed.algorithms.r2d2 import Config, RecurrentQ, loss, make_agent
from seed.config.schema import NetworkConfig
from seed.contract import LossResult
from seed.store.rows import Rows, Unroll
from seed.wire.spaces import SpaceSpec
from tests.seed.random_rows import random_rows

Array = NDArray[np.float64]
ACTION = SpaceSpec("int64", (), 3)
VECTOR = SpaceSpec("float32", (4,))
PLAIN = NetworkConfig(torso="mlp", hidden_sizes=(8,))
RECURRENT = NetworkConfig(torso="mlp", hidden_sizes=(8,), lstm_size=6)
CONFIG = Config(
    discount=0.9, n_steps=3, dueling_size=8, max_priority_share=0.7, rescale_epsilon=0.01,
    reward_scale=0.5, reward_clip=1.0,
)  # fmt: skip


class Case(NamedTuple):
    """An agent, another one as its target, and a batch of unrolls for them."""

    agent: RecurrentQ
    target: RecurrentQ
    unroll: Unroll

    def loss(self, config: Config = CONFIG) -> LossResult:
        return loss(self.agent, self.target, self.unroll, config)

    def gradients(self, config: Config = CONFIG) -> list[Tensor]:
        """The loss's, of every weight."""
        return list(torch.autograd.grad(self.loss(config).loss, list(self.agent.parameters())))


def make_case(
    network: NetworkConfig = RECURRENT,
    *,
    seed: int = 0,
    burn_in: int | None = None,
    end_share: float = 0.3,
) -> Case:
    """Random unrolls as replay gives them, some rows ending an episode."""
    torch.manual_seed(seed)
    agent, target = (make_agent(VECTOR, ACTION, network, CONFIG) for _ in range(2))
    for parameter in (*agent.head.parameters(), *target.head.parameters()):
        # Larger than at the start of a run, so that the actions' values are far apart.
        nn.init.normal_(parameter, std=0.7)
    rng = np.random.default_rng(seed)
    length, batch = int(rng.integers(1, 9)), int(rng.integers(1, 5))
    burn_in = int(rng.integers(0, 5)) if burn_in is None else burn_in
    shape = (burn_in + length + 1, batch)
    rows, actions = random_rows(VECTOR, ACTION, shape, end_share)
    unroll = Unroll(
        rows, actions,
        behaviour={"q_taken": torch.randn(shape), "q_max": torch.randn(shape)},
        policy_versions=torch.zeros(shape, dtype=torch.int64),
        agent_state=torch.randn(batch, agent.state_size),
        importance=torch.rand(batch) + 0.5,
        burn_in=burn_in,
    )  # fmt: skip
    return Case(agent, target, unroll)


def h(x: float, epsilon: float) -> float:
    return math.copysign(math.sqrt(abs(x) + 1) - 1, x) + epsilon * x


def h_inverse(x: float, epsilon: float) -> float:
    root = math.sqrt(1 + 4 * epsilon * (abs(x) + 1 + epsilon))
    return math.copysign(((root - 1) / (2 * epsilon)) ** 2 - 1, x)


def walk(rows: Rows, bootstraps: Array, config: Config) -> dict[tuple[int, int], float]:
    """The rescaled target of every transition (t, b); bootstraps `[T + 1, B]` are rescaled too."""
    clip = config.reward_clip or math.inf
    rewards = np.clip(rows.rewards.double().numpy() * config.reward_scale, -clip, clip)
    ends = (rows.terminated | rows.truncated).numpy()
    terminated, first = rows.terminated.numpy(), rows.first.numpy()
    last = len(rewards) - 1
    targets = {}
    for b in range(rewards.shape[1]):
        for t in range(last):
            if ends[t, b] or first[t + 1, b]:
                continue
            total, weight, row = 0.0, 1.0, t
            while row < min(t + config.n_steps, last):
                if ends[row, b] or first[row + 1, b]:
                    break
                row += 1
                total += weight * rewards[row, b]
                weight *= config.discount
            value = h_inverse(bootstraps[row, b], config.rescale_epsilon)
            total += 0.0 if terminated[row, b] else weight * value
            targets[t, b] = h(total, config.rescale_epsilon)
    return targets


class Twin(NamedTuple):
    """What the loss should be; errors by transition (t, b)."""

    loss: float
    errors: dict[tuple[int, int], float]
    targets: dict[tuple[int, int], float]
    priorities: list[float]


def twin(
    q_values: Array, target_q_values: Array, unroll: Unroll, config: Config, *, double: bool = True
) -> Twin:
    """From Q `[T + 1, B, A]` of both networks, the rows after the burn-in."""
    rows, actions = unroll.rows.between(unroll.burn_in), unroll.actions[unroll.burn_in :]
    chosen = (q_values if double else target_q_values).argmax(axis=-1)
    bootstraps = np.take_along_axis(target_q_values, chosen[..., None], -1)[..., 0]
    targets = walk(rows, bootstraps, config)
    errors = {(t, b): y - q_values[t, b, actions[t, b]] for (t, b), y in targets.items()}
    total, priorities = 0.0, []
    for b, importance in enumerate(unroll.importance.tolist()):
        own = [abs(error) for (_, column), error in errors.items() if column == b]
        total += importance * sum(error**2 for error in own) / 2
        share, mean = config.max_priority_share, sum(own) / max(len(own), 1)
        priorities.append(share * max(own, default=0.0) + (1 - share) * mean)
    return Twin(total / len(priorities), errors, targets, priorities)


def say(agent: RecurrentQ, unroll: Unroll, config: Config = CONFIG) -> Tensor:
    """Q of the rows after the burn-in, from one run over all rows. `[T + 1, B, A]`"""
    state = unroll.agent_state if config.stored_state else torch.zeros_like(unroll.agent_state)
    rewards = (unroll.rows.rewards * config.reward_scale).clamp(-1, 1)
    q_values: Tensor = agent(unroll.rows, rewards, state)[0]
    return q_values[unroll.burn_in :]


def twin_of(case: Case, config: Config = CONFIG, *, double: bool = True) -> Twin:
    q_values, target_q_values = (
        say(agent, case.unroll, config).detach().double().numpy()
        for agent in (case.agent, case.target)
    )
    return twin(q_values, target_q_values, case.unroll, config, double=double)
