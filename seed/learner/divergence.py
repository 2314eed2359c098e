"""NaN and infinity: which updates are skipped, whose extreme values led there, when a run ends."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from seed.learner.optimizers import named_state
from seed.process.exit_codes import EXIT_DIVERGED, CommandError
from seed.process.rates import RateLimit
from seed.store.pages import NO_ENVIRONMENT
from seed.store.rows import Unroll

log = logging.getLogger(__name__)

MOST_SKIPPED_IN_A_ROW = 10
_LOG_INTERVAL_S = 10.0
_MOST_NAMED = 4
# Squares of squares of larger numbers leave float32's range, summed over a network's units; nothing
# that is learned from in earnest comes near.
LARGEST_ORDINARY = 1e6


class Diverged(CommandError):
    """Training diverged: values became NaN or infinite. All checkpoints predate this."""

    exit_code = EXIT_DIVERGED


class UpdateGuard:
    """Decides whether an update is made, by its loss and its gradient; owned by the learner.

    Other threads may read `skipped`.
    """

    def __init__(self) -> None:
        self.skipped = 0
        self._in_a_row = 0
        # Of the batches skipped in a row, and of those that steep gradients came from.
        self._extremes: dict[str, float] = {}
        self._steep: dict[str, float] = {}
        self._log_limit = RateLimit(_LOG_INTERVAL_S)

    def accepts(
        self,
        update: int,
        scalars: Mapping[str, float],
        find_extremes: Callable[[], Mapping[str, float]] = dict,
    ) -> bool:
        """Whether "loss" and "grad_norm" are finite; if not, skip the update without a trace.

        Args:
            update: The update's number, for messages.
            scalars: What `Update.backward` found.
            find_extremes: Finds extreme magnitudes in the batch, by what they are and whose;
                called only where the update is skipped, or may break the weights.

        Raises:
            Diverged: at the tenth skipped in a row.
        """
        loss, norm = scalars["loss"], scalars["grad_norm"]
        if math.isfinite(loss) and math.isfinite(norm):
            self._in_a_row, self._extremes = 0, {}
            if norm > LARGEST_ORDINARY:
                _add(self._steep, find_extremes())
            return True
        self.skipped += 1
        self._in_a_row += 1
        _add(self._extremes, find_extremes())
        reason = f"update {update}: the loss is {loss}, the gradient's norm {norm}"
        if self._in_a_row >= MOST_SKIPPED_IN_A_ROW:
            remedy = "Try a smaller optimizer.learning_rate or optimizer.clip_norm"
            if self._extremes:
                remedy = "Bound them in the environment, or with algorithm.reward_clip"
            raise Diverged(
                f"{reason}, and so for {self._in_a_row} batches in a row{self._blame()}. All "
                f"checkpoints are from before. {remedy}"
            )
        if self._log_limit.take(time.monotonic()):
            log.warning("%s; skipped (%d skipped so far)%s", reason, self.skipped, self._blame())
        return False

    def check(
        self, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer | None = None
    ) -> None:
        """Raises Diverged where a weight or the optimizer's state is broken.

        It names what was extreme in batches with steep gradients since the last check.
        """
        broken = find_broken_weight(modules)
        if not broken and optimizer is not None:
            broken = find_broken_state(optimizer, modules["agent"])
        steep, self._steep = self._steep, {}
        if broken:
            raise Diverged(
                f"{broken} holds what is no finite number, though loss and gradient were finite"
                f"{_list(steep, 'batches shortly before')}. All checkpoints are from before. Try "
                "a smaller optimizer.learning_rate, or an optimizer.clip_norm above 0"
            )

    def _blame(self) -> str:
        return _list(self._extremes, "these batches")


def _add(known: dict[str, float], found: Mapping[str, float]) -> None:
    """Keeps the larger magnitude of what is in both."""
    for text, magnitude in found.items():
        known[text] = max(magnitude, known.get(text, 0.0))


def _list(extremes: Mapping[str, float], where: str) -> str:
    """The end of a sentence: what was extreme there, the largest first; empty for nothing."""
    if not extremes:
        return ""
    ordered = sorted(extremes.items(), key=lambda item: item[1], reverse=True)
    named = ", ".join(f"{text}: {value:.3g}" for text, value in ordered[:_MOST_NAMED])
    more = f" and {len(ordered) - _MOST_NAMED} more" if len(ordered) > _MOST_NAMED else ""
    return f"; extreme in {where}: {named}{more}"


def find_extremes(
    unroll: Unroll, env_ids: Sequence[int], server_of: Callable[[int], str]
) -> dict[str, float]:
    """The magnitude of what is extreme, by what it is and whose: `reward of environment 3 ...`.

    Where the rows themselves are ordinary, what acting left behind is looked at: it may still be
    extreme long after a row was. Waits for the device.

    Args:
        unroll: A batch of B unrolls.
        env_ids: Whose they are; NO_ENVIRONMENT for those of an earlier process. B of them
        server_of: The name of the environment server that an environment belongs to.
    """
    observations = {
        f"observation {part!r}" if part else "observation": values
        for part, values in unroll.rows.observations.items()
    }
    rows = _magnitudes({"reward": unroll.rows.rewards, **observations})
    left = _magnitudes({"recurrent state": unroll.agent_state[None], **unroll.behaviour})
    found: dict[str, float] = {}
    for index, env_id in enumerate(env_ids):
        for magnitudes in (rows, left):
            extreme = {
                f"{what} of {describe_environment(env_id, server_of)}": values[index]
                for what, values in magnitudes.items()
                if values[index] > LARGEST_ORDINARY
            }
            for text, magnitude in extreme.items():
                found[text] = max(magnitude, found.get(text, 0.0))
            if extreme:
                break
    return found


def _magnitudes(parts: dict[str, Tensor]) -> dict[str, list[float]]:
    """The largest magnitude in each unroll, of those `[T, B, ...]` that can be extreme at all.

    NaN and infinity count as infinite.
    """
    return {
        what: _largest(values.transpose(0, 1).flatten(1))
        for what, values in parts.items()
        if values.numel() and values.dtype not in (torch.uint8, torch.bool)
    }


def _largest(values: Tensor) -> list[float]:
    """The largest magnitude in each row of `[B, n]`."""
    magnitudes = values.to(torch.float32).abs().nan_to_num(nan=math.inf, posinf=math.inf)
    largest: list[float] = magnitudes.amax(dim=1).tolist()
    return largest


def describe_environment(env_id: int, server_of: Callable[[int], str]) -> str:
    """An environment with the name of its server, for messages."""
    if env_id == NO_ENVIRONMENT:
        return "an environment of an earlier process"
    return f"environment {env_id} ({server_of(env_id)})"


def find_broken_weight(modules: Mapping[str, nn.Module]) -> str:
    """The first parameter that is not finite, or buffer that has NaN; empty where all are whole.

    A buffer may be infinite for good reasons: a mask, say.
    """
    for name, module in modules.items():
        for key, parameter in module.named_parameters():
            if not torch.isfinite(parameter).all():
                return f"{name}.{key}"
        for key, buffer in module.named_buffers():
            if torch.isnan(buffer).any():
                return f"{name}.{key}"
    return ""


def find_broken_state(optimizer: torch.optim.Optimizer, agent: nn.Module) -> str:
    """The first tensor of the optimizer's state that is not finite; empty where all are."""
    for key, tensor in named_state(optimizer, agent).items():
        if not torch.isfinite(tensor).all():
            return f"optimizer.{key}"
    return ""
