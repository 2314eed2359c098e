"""What becomes of updates whose numbers are no numbers: skipped, counted, and at last the end."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping

import torch
from torch import nn

from seed.process.exit_codes import EXIT_DIVERGED, CommandError
from seed.process.rates import RateLimit

log = logging.getLogger(__name__)

MOST_SKIPPED_IN_A_ROW = 10
_LOG_INTERVAL_S = 10.0
_MOST_NAMED = 4


class Diverged(CommandError):
    """The training has left the numbers; the checkpoints are all from before."""

    exit_code = EXIT_DIVERGED


class UpdateGuard:
    """Decides whether an update is made, by its loss and its gradient; owned by the learner.

    Other threads may read `skipped`.
    """

    def __init__(self) -> None:
        """Nothing skipped yet."""
        self.skipped = 0
        self._in_a_row = 0
        # Of the batches in this row.
        self._extremes: dict[str, float] = {}
        self._log_limit = RateLimit(_LOG_INTERVAL_S)

    def accepts(
        self,
        update: int,
        scalars: Mapping[str, float],
        find_extremes: Callable[[], Mapping[str, float]] = dict,
    ) -> bool:
        """Whether "loss" and "grad_norm" are finite: else the update must leave no trace.

        Args:
            update: The update's number, for messages.
            scalars: What was measured.
            find_extremes: Magnitudes in the batch that are extreme, by what they are and whose;
                called only where the update is not made.

        Raises:
            Diverged: at the tenth that is not, with none between that is.
        """
        loss, norm = scalars["loss"], scalars["grad_norm"]
        if math.isfinite(loss) and math.isfinite(norm):
            self._in_a_row, self._extremes = 0, {}
            return True
        self.skipped += 1
        self._in_a_row += 1
        for text, magnitude in find_extremes().items():
            self._extremes[text] = max(magnitude, self._extremes.get(text, 0.0))
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

    def _blame(self) -> str:
        """What was extreme in these batches, the largest first; an appendix to a sentence."""
        if not self._extremes:
            return ""
        ordered = sorted(self._extremes.items(), key=lambda item: item[1], reverse=True)
        named = ", ".join(f"{text}: {value:.3g}" for text, value in ordered[:_MOST_NAMED])
        more = f" and {len(ordered) - _MOST_NAMED} more" if len(ordered) > _MOST_NAMED else ""
        return f"; extreme in these batches: {named}{more}"


def check_weights(modules: Mapping[str, nn.Module]) -> None:
    """Raises Diverged where a parameter is not finite, or a buffer NaN.

    A buffer may be infinite for good reasons: a mask, say.
    """
    for name, module in modules.items():
        for key, parameter in module.named_parameters():
            if not torch.isfinite(parameter).all():
                raise _broken(f"{name}.{key}")
        for key, buffer in module.named_buffers():
            if torch.isnan(buffer).any():
                raise _broken(f"{name}.{key}")


def check_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Raises Diverged where a tensor of the optimizer's state is not finite."""
    for index, state in optimizer.state_dict()["state"].items():
        for key, tensor in state.items():
            if not torch.isfinite(tensor).all():
                raise _broken(f"optimizer.{index}.{key}")


def _broken(name: str) -> Diverged:
    return Diverged(
        f"{name} holds what is no finite number, though loss and gradient were finite. All "
        "checkpoints are from before. Try a smaller optimizer.learning_rate, or an "
        "optimizer.clip_norm above 0"
    )
