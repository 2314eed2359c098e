"""What 50 updates from fixed batches make of fixed weights, as numbers to keep.

They belong to the algorithms, and stay what they are when code around them is moved or extended. A
change of an algorithm that is meant changes them, and then they are made anew:

    python -m tests.seed.algorithms.recorded
"""

from __future__ import annotations

import copy
import hashlib
import json
import platform
import re
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from seed.config.schema import Config, NetworkConfig, OptimizerConfig
from seed.contract.loading import load_algorithm, optional_update_target
from seed.learner.optimizers import linear_learning_rate, make_optimizer
from seed.learner.update import Update
from seed.networks.policy import make_policy
from seed.store.rows import Rows, Unroll
from seed.wire.spaces import SpaceSpec

PATH = Path(__file__).with_name("recorded.json")
UPDATES = 50
# After these the scalars are kept.
KEPT = (1, 2, 5, 10, 20, 50)

VECTOR, IMAGE = SpaceSpec("float32", (4,)), SpaceSpec("uint8", (36, 36))
DISCRETE, BOX = SpaceSpec("int64", (), 3), SpaceSpec("float32", (2,))
PLAIN = NetworkConfig(torso="mlp", hidden_sizes=(16,))
RECURRENT = NetworkConfig(torso="mlp", hidden_sizes=(16,), lstm_size=8)
STACKED = NetworkConfig(torso="impala_shallow", frame_stack=2)
# Small gradients that were divided by their own size would be little more than rounding errors.
ADAM = OptimizerConfig(kind="adam", learning_rate=3e-3, epsilon=1e-3, clip_norm=0.5)
RMSPROP = OptimizerConfig(
    kind="rmsprop_tf", learning_rate=3e-3, decay=0.9, momentum=0.5, epsilon=0.01, clip_norm=5.0,
    final_learning_rate_fraction=0.5,
)  # fmt: skip


class Case(NamedTuple):
    """An algorithm with all that its numbers depend on."""

    algorithm: str
    observation: SpaceSpec
    action: SpaceSpec
    network: NetworkConfig
    optimizer: OptimizerConfig
    settings: dict[str, Any]
    burn_in: int = 0
    length: int = 6
    batch: int = 3


CASES = {
    "vtrace, Discrete": Case(
        "vtrace", VECTOR, DISCRETE, PLAIN, ADAM,
        {"reduction": "mean", "lambda_": 0.9, "reward_scale": 0.5},
    ),
    "vtrace, Box": Case("vtrace", VECTOR, BOX, PLAIN, RMSPROP, {"clip_rho": 2.0}),
    "vtrace, Discrete, LSTM": Case(
        "vtrace", VECTOR, DISCRETE, RECURRENT, RMSPROP, {"reward_clip": 1.0}
    ),
    "vtrace, Box, LSTM": Case(
        "vtrace", VECTOR, BOX, RECURRENT, ADAM, {"reduction": "mean", "clip_pg_rho": 1.5}
    ),
    # Few rows: of many units, one is so near to 0 that rounding decides whether it is active.
    "vtrace, images in stacks": Case(
        "vtrace", IMAGE, DISCRETE, STACKED, ADAM, {"reduction": "mean", "reward_clip": 1.0},
        length=3, batch=1,
    ),
    "r2d2": Case(
        "r2d2", VECTOR, DISCRETE, PLAIN, RMSPROP,
        {"dueling_size": 8, "n_steps": 3, "target_period_updates": 8, "reward_clip": 1.0},
    ),
    "r2d2, LSTM": Case(
        "r2d2", VECTOR, DISCRETE, RECURRENT, ADAM,
        {"dueling_size": 8, "n_steps": 3, "target_period_updates": 8}, burn_in=2,
    ),
}  # fmt: skip


class Draws:
    """Numbers from a seed, of which torch's own generator knows nothing."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def shares(self, *shape: int) -> NDArray[np.float64]:
        """At least 0 and below 1."""
        return self._rng.random(shape)

    def numbers(self, *shape: int) -> Tensor:
        """From -2 to 2, float32."""
        return torch.tensor(4 * self.shares(*shape) - 2, dtype=torch.float32)

    def flags(self, share: float, *shape: int) -> Tensor:
        return torch.tensor(self.shares(*shape) < share)

    def values(self, space: SpaceSpec, *shape: int) -> Tensor:
        """Observations or actions of a space."""
        if space.n is not None:
            return torch.tensor((self.shares(*shape) * space.n).astype(np.int64))
        if space.dtype == "uint8":
            return torch.tensor((self.shares(*shape, *space.shape) * 256).astype(np.uint8))
        return self.numbers(*shape, *space.shape)


def record(case: Case) -> dict[str, Any]:
    """Scalars of some of the updates, and the weights after the last one."""
    # In a thread of its own: torch's number of threads is mostly its alone.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_record, case).result()


def _record(case: Case) -> dict[str, Any]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _learn(case)
    finally:
        torch.set_num_threads(threads)


def _learn(case: Case) -> dict[str, Any]:
    algorithm = load_algorithm(case.algorithm)
    settings = algorithm.Config(**case.settings)
    with torch.random.fork_rng(devices=[]):
        agent = algorithm.make_agent(case.observation, case.action, case.network, settings)
    draw_weights(agent)
    state_size = cast(int, agent.state_size)
    update_target = optional_update_target(algorithm)
    target = copy.deepcopy(agent).requires_grad_(False) if update_target else None
    config = Config(algorithm=settings, network=case.network, optimizer=case.optimizer)
    optimizer = make_optimizer(agent.parameters(), case.optimizer)
    update = Update(config, algorithm, agent, target, optimizer)
    scalars: dict[str, dict[str, float]] = {}
    for index in range(UPDATES):
        update.load(draw_unroll(case, state_size, index))
        found = update.backward()
        values = dict(found.scalars)
        if found.priorities is not None:
            values["priorities"] = found.priorities.sum().item()
        update.step(linear_learning_rate(case.optimizer, index / UPDATES))
        if update_target is not None and target is not None:
            update_target(agent, target, index + 1, settings)
        if index + 1 in KEPT:
            scalars[str(index + 1)] = values
    return {"scalars": scalars, "weights": _describe_weights(agent)}


def draw_weights(agent: nn.Module) -> None:
    """Gives every weight a value that depends on its name and its place alone."""
    with torch.no_grad():
        for name, parameter in agent.named_parameters():
            draws = Draws(zlib.crc32(name.encode()))
            width = parameter[0].numel() if parameter.dim() > 1 else 100
            parameter.copy_(draws.numbers(*parameter.shape) / np.sqrt(width))


def draw_unroll(case: Case, state_size: int, index: int) -> Unroll:
    """The batch of an update: episodes that end, are cut off, or break."""
    draws = Draws(1000 + index)
    shape = (case.burn_in + case.length + 1, case.batch)
    terminated, cut = draws.flags(0.1, *shape), draws.flags(0.1, *shape)
    truncated = cut & ~terminated
    first = draws.flags(0.05, *shape)
    first[1:] |= (terminated | truncated)[:-1]
    actions = draws.values(case.action, *shape)
    previous = torch.cat([torch.zeros_like(actions[:1]), actions[:-1]])
    previous[first] = 0
    stack = (case.network.frame_stack,) if case.network.frame_stack > 1 else ()
    rows = Rows(
        observations={"": draws.values(case.observation, *shape, *stack)},
        previous_actions=previous,
        rewards=draws.numbers(*shape).masked_fill(first, 0.0),
        terminated=terminated,
        truncated=truncated,
        first=first,
    )
    return Unroll(
        rows=rows,
        actions=actions,
        behaviour={"policy": draws.numbers(*shape, make_policy(case.action).parameter_count) / 4},
        policy_versions=torch.full(shape, index),
        agent_state=draws.numbers(case.batch, state_size) / 2,
        importance=torch.tensor(draws.shares(case.batch), dtype=torch.float32),
        burn_in=case.burn_in,
    )


def _describe_weights(agent: nn.Module) -> dict[str, dict[str, Any]]:
    """Of each parameter a digest of its bits, its mean, and its first and last value."""
    described: dict[str, dict[str, Any]] = {}
    for name, tensor in agent.state_dict().items():
        flat = tensor.detach().flatten()
        described[name] = {
            "shape": list(tensor.shape),
            "sha256": hashlib.sha256(flat.numpy().tobytes()).hexdigest()[:16],
            "mean": flat.double().mean().item(),
            "ends": [flat[0].item(), flat[-1].item()],
        }
    return described


def made_by() -> dict[str, str]:
    """What the last bits depend on."""
    return {"torch": str(torch.__version__), "cpu": _cpu_type()}


def _cpu_type() -> str:
    """The processor's name and version, and what torch and the libraries find it can do."""
    capability = torch.backends.cpu.get_cpu_capability()
    try:
        lines = Path("/proc/cpuinfo").read_text()
    except OSError:
        return f"{platform.machine()} {platform.processor()}, {capability}"
    found: dict[str, str] = dict(reversed(re.findall(r"^([\w ]+?)\s*: (.*)$", lines, re.M)))
    version = "-".join(found.get(name, "") for name in ("cpu family", "model", "stepping"))
    flags = found.get("flags", found.get("Features", ""))
    digest = f"{zlib.crc32(' '.join(sorted(flags.split())).encode()):08x}"
    return f"{found.get('model name', platform.machine())}, {version}, {capability}, flags {digest}"


def main() -> None:
    """Writes what this machine finds."""
    cases = {name: record(case) for name, case in CASES.items()}
    PATH.write_text(_write({"made_by": made_by(), "cases": cases}, "") + "\n")


def _write(value: dict[str, Any], indent: str) -> str:
    """As JSON, a line for each set of numbers."""
    if not any(isinstance(each, dict) for each in value.values()):
        return json.dumps(value)
    inner = indent + "  "
    lines = [f"{inner}{json.dumps(name)}: {_write(each, inner)}" for name, each in value.items()]
    return "{\n" + ",\n".join(lines) + f"\n{indent}}}"


if __name__ == "__main__":
    main()
