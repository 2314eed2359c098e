"""All updates from one batch: what is prepared, in which parts, what is left out, what follows."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from seed.config.schema import Config, ConfigError
from seed.contract import Algorithm, Group, Passes
from seed.contract.answers import check_groups, check_prepared
from seed.contract.blame import refusing
from seed.contract.loading import (
    optional_after_batch,
    optional_groups,
    optional_passes,
    optional_prepare,
    optional_update_target,
)
from seed.device.graphs import can_capture, capture_lock
from seed.device.transfer import move
from seed.learner.divergence import UpdateGuard, describe_environment, find_extremes
from seed.learner.passes import as_rows, deal, sizes
from seed.learner.sources import Batch
from seed.learner.update import Update, UpdateResult
from seed.process.phases import Phases
from seed.process.rates import RateLimit
from seed.store.rows import Unroll

log = logging.getLogger(__name__)

# Finite gradients seldom make weights that are not: reading all of them each time costs too much.
_CHECK_WEIGHTS_EVERY_UPDATES = 100
_LOG_INTERVAL_S = 10.0
_MOST_NAMED = 4


class BatchResult(NamedTuple):
    """What became of a batch.

    Attributes:
        scalars: Means over its updates, by name; empty where it was skipped.
        kept: Which of its unrolls were learned from. `[n] int64`
        priorities: Of those, for replay. `[n] float32`, or None
    """

    scalars: dict[str, float]
    kept: Tensor
    priorities: Tensor | None


class Rate(NamedTuple):
    """The learning rate of all updates of a batch.

    Attributes:
        learning_rate: Of all parameters without a rate of their own.
        fraction: Of the others' own rates.
    """

    learning_rate: float
    fraction: float


class BatchUpdates:
    """Makes the updates of one batch after the other; the learner's thread.

    Other threads may read `learner_steps` and `unrolls_left_out`.

    Attributes:
        learner_steps: Updates made.
        unrolls_left_out: Unrolls that were not learned from, as their own loss was not finite.
        guard: Decides what is skipped.
    """

    def __init__(
        self,
        config: Config,
        algorithm: Algorithm,
        agent: nn.Module,
        target: nn.Module | None,
        optimizer: torch.optim.Optimizer,
        phases: Phases,
        server_of: Callable[[int], str] = lambda env_id: "",
    ) -> None:
        """All of the network is on one device.

        Args:
            config: The run.
            algorithm: Its loss, and what else it has.
            agent: What is trained.
            target: Where the algorithm updates one.
            optimizer: Of the agent's parameters.
            phases: Of the thread.
            server_of: Names the environment server of an env_id, for messages; thread-safe.
        """
        self.learner_steps = 0
        self.unrolls_left_out = 0
        self.guard = UpdateGuard()
        self._config = config
        self._agent = agent
        self._target = target
        self._phases = phases
        self._server_of = server_of
        self._device = next(agent.parameters()).device
        make_passes = optional_passes(algorithm)
        self._passes = None if make_passes is None else make_passes(config.algorithm)
        self._prepare = optional_prepare(algorithm)
        self._after_batch = optional_after_batch(algorithm)
        self._update_target = optional_update_target(algorithm)
        self._update = Update(config, algorithm, agent, target, optimizer, self._passes)
        self._update.plan(_planned_sizes(config, self._passes))
        self._log_limit = RateLimit(_LOG_INTERVAL_S)

    def learn(self, batch: Batch, rate: Rate) -> BatchResult:
        """All updates from a batch.

        Where loss or gradient are not finite, those unrolls whose own are not are left out, and
        the rest is learned from; if there are none such, or only such, the batch is skipped.

        Raises:
            Diverged: where nothing can be learned any more.
        """
        began = self.learner_steps
        find = partial(find_extremes, batch.unroll, batch.env_ids, self._server_of)
        kept = torch.arange(len(batch.unroll.importance))
        tally, failed = self._make_passes(batch.unroll, rate, began, find)
        if failed:
            finite = self._find_finite(batch.unroll)
            if 0 < len(finite) < len(kept):
                self._tell_left_out(batch, finite)
                kept = finite
                tally, failed = self._make_passes(batch.unroll.select(kept), rate, began, find)
        if failed:
            # Which says so, or ends the run.
            self.guard.accepts(self.learner_steps + 1, failed, find)
            return BatchResult({}, kept, None)
        if self._after_batch is not None:
            with self._computing():
                self._after_batch(
                    self._agent, self._target, tally.statistics, self.learner_steps,
                    self._config.algorithm,
                )  # fmt: skip
        return BatchResult(tally.scalars(began), kept, tally.priorities)

    def _make_passes(
        self,
        unroll: Unroll,
        rate: Rate,
        began: int,
        find: Callable[[], Mapping[str, float]],
    ) -> tuple[Tally, dict[str, float]]:
        """All updates from these unrolls, until one of them cannot be made or the passes stop.

        Returns:
            What they found, and the scalars of the update that could not be made, if any.
        """
        tally = Tally()
        for epoch, part in self._parts(self._prepared(unroll), began):
            self._update.load(part)
            self._phases.enter("loss")
            result = self._update.backward()
            if not result.is_finite:
                self._update.discard()
                return tally, result.scalars
            tally.add(result, len(part.importance), epoch)
            if self._stops(result):
                self._update.discard()
                break
            self.guard.accepts(self.learner_steps + 1, result.scalars, find)
            self._phases.enter("optimizer")
            self._update.step(rate.learning_rate, rate.fraction)
            self.learner_steps += 1
            self._phases.enter("bookkeeping")
            self._follow_update()
        return tally, {}

    def _prepared(self, unroll: Unroll) -> Unroll:
        """With what the algorithm prepares of these unrolls, where it does."""
        if self._prepare is None:
            return unroll
        self._phases.enter("prepare")
        unroll = move(unroll, self._device)
        with self._computing():
            prepared = self._prepare(self._agent, self._target, unroll, self._config.algorithm)
        prepared = check_prepared(
            prepared, self._config.algorithm_name,
            length=len(unroll.actions) - 1 - unroll.burn_in, batch=len(unroll.importance),
            device=self._device,
        )  # fmt: skip
        return dataclasses.replace(unroll, prepared=prepared)

    def _parts(self, unroll: Unroll, began: int) -> Iterator[tuple[int, Unroll]]:
        """What each update learns from, with its pass; all of it at once without `passes`."""
        if self._passes is None:
            yield 0, unroll
            return
        if self._passes.items == "rows":
            unroll = as_rows(unroll)
        # Once for all parts.
        unroll = move(unroll, self._device)
        count = len(unroll.importance)
        for epoch, items in deal(count, self._passes, self._config.seed, began):
            yield epoch, unroll.select(items)

    def _stops(self, result: UpdateResult) -> bool:
        """Whether the passes end before this update."""
        passes = self._passes
        if passes is None or not passes.stop:
            return False
        return result.scalars[passes.stop] > passes.limit

    def _follow_update(self) -> None:
        """What follows from every update."""
        if self.learner_steps % _CHECK_WEIGHTS_EVERY_UPDATES == 0:
            self.guard.check({"agent": self._agent})
        if self._update_target is not None and self._target is not None:
            self._update_target(
                self._agent, self._target, self.learner_steps, self._config.algorithm
            )

    def _find_finite(self, unroll: Unroll) -> Tensor:
        """Which of the unrolls have a finite loss and gradient, each by itself. `[n] int64`"""
        count = len(unroll.importance)
        if count == 1:
            return torch.empty(0, dtype=torch.int64)
        finite = []
        for item in range(count):
            self._phases.enter("loss")
            alone = self._prepared(unroll.select(torch.tensor([item])))
            by_rows = self._passes is not None and self._passes.items == "rows"
            self._update.load(as_rows(alone) if by_rows else alone)
            if self._update.backward().is_finite:
                finite.append(item)
            self._update.discard()
        return torch.tensor(finite, dtype=torch.int64)

    def _tell_left_out(self, batch: Batch, finite: Tensor) -> None:
        """Counts unrolls that are left out, and says now and then whose they are."""
        kept = set(finite.tolist())
        left = [env_id for item, env_id in enumerate(batch.env_ids) if item not in kept]
        self.unrolls_left_out += len(left)
        if not self._log_limit.take(time.monotonic()):
            return
        owners = dict.fromkeys(left)
        names = [describe_environment(env_id, self._server_of) for env_id in owners]
        more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        log.warning(
            "update %d: loss or gradient of unrolls of %s%s are not finite; left out of their "
            "batch (%d left out so far)",
            self.learner_steps + 1, ", ".join(names[:_MOST_NAMED]), more, self.unrolls_left_out,
        )  # fmt: skip

    @contextlib.contextmanager
    def _computing(self) -> Iterator[None]:
        """For the algorithm's functions that are not differentiated, and may draw numbers."""
        with torch.no_grad(), _lock(self._device):
            yield


def _planned_sizes(config: Config, passes: Passes | None) -> set[int]:
    """Unrolls, or rows as `[1, n]`, of the updates from a batch of the size that is planned."""
    count = config.learner.batch_size
    if passes is None:
        return {count}
    if passes.items == "rows":
        count *= config.learner.unroll_length
    return set(sizes(count, passes.minibatches))


def _lock(device: torch.device) -> contextlib.AbstractContextManager[None]:
    return capture_lock.compute() if can_capture(device) else contextlib.nullcontext()


def find_groups(
    algorithm: Algorithm, config: Config, agent: nn.Module
) -> Mapping[str, Group] | list[nn.Parameter]:
    """What the optimizer trains: the algorithm's groups, or else all parameters as one.

    Raises:
        ConfigError: where the groups are not what the contract says.
    """
    make = optional_groups(algorithm)
    if make is None:
        return list(agent.parameters())
    with refusing(algorithm, config.algorithm_name, "groups"):
        groups = make(agent, config.algorithm)
    return check_groups(groups, agent, config.algorithm_name)


class Tally:
    """What the updates of a batch found, together.

    Attributes:
        statistics: The algorithm's, summed over the first pass, by name.
        priorities: Of the last update.
    """

    def __init__(self) -> None:
        """Of no updates yet."""
        self.statistics: dict[str, Tensor] = {}
        self.priorities: Tensor | None = None
        self._found: list[tuple[float, dict[str, float]]] = []
        # Of the first pass: items and the mean version that acted at them.
        self._versions: list[tuple[int, float]] = []

    def add(self, result: UpdateResult, items: int, epoch: int) -> None:
        """Takes in what an update of so many items found, in this pass."""
        scalars = dict(result.scalars)
        version = scalars.pop("policy_version_mean")
        self._found.append((result.weight, scalars))
        self.priorities = result.priorities
        if epoch > 0:
            return
        self._versions.append((items, version))
        for name, values in (result.statistics or {}).items():
            # A copy: the next update may overwrite it.
            before = self.statistics.get(name, torch.zeros_like(values))
            if before.shape != values.shape:
                raise ConfigError(
                    f"statistics[{name!r}] of the loss has the shape {tuple(before.shape)} for one "
                    f"part of a batch and {tuple(values.shape)} for another; expected sums over "
                    "the rows"
                )
            self.statistics[name] = before + values

    def scalars(self, began: int) -> dict[str, float]:
        """Means over the updates, and the policy lag against the version `began`.

        Each counts by what its loss was divided by.
        """
        found = self._found[0][1] if len(self._found) == 1 else self._means()
        items = sum(count for count, _ in self._versions)
        # Differences first: versions are large, and lags small.
        behind = math.fsum(count * (began - version) for count, version in self._versions)
        return {**found, "policy_lag_mean": behind / items}

    def _means(self) -> dict[str, float]:
        weights = [weight for weight, _ in self._found]
        total = math.fsum(weights)
        if total == 0:
            weights, total = [1.0] * len(weights), float(len(weights))
        return {
            name: math.fsum(
                weight * scalars[name]
                for weight, (_, scalars) in zip(weights, self._found, strict=True)
            ) / total
            for name in self._found[0][1]
        }  # fmt: skip
