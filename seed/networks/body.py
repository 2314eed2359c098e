"""The body of an agent's network: observations in, features for the algorithm's heads out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from seed.networks.atari import (
    SMALLEST_IMAGES,
    ImpalaDeepTorso,
    ImpalaShallowTorso,
    NatureTorso,
)
from seed.networks.images import ImageLayout, image_layout
from seed.networks.mlp import MlpTorso, one_hot
from seed.networks.recurrent import LstmCore
from seed.networks.scaling import describe_scale, observation_scale

if TYPE_CHECKING:
    from seed.config.schema import NetworkConfig
    from seed.wire.spaces import SpaceSpec

# A part of observations that says which actions are legal: for the policy, not for the body.
ACTION_MASK = "action_mask"

IMAGE_TORSOS: dict[str, type[NatureTorso | ImpalaShallowTorso | ImpalaDeepTorso]] = {
    "nature": NatureTorso,
    "impala_shallow": ImpalaShallowTorso,
    "impala_deep": ImpalaDeepTorso,
}


class Body(nn.Module):
    """A torso, then an LSTM where `config.lstm_size` is not 0.

    The LSTM reads the torso's features, the previous action (one-hot if Discrete, else as it
    is) and the previous reward, as in IMPALA and R2D2. Torso "auto" is "nature" for images
    large enough for it (36x36) and "mlp" for all else. Each part states its initialisation.

    With precision "bfloat16" the products are computed in it (torch's autocast); weights,
    features and state are float32 all the same. "auto" must have been resolved before.

    output_size: the size of the features. state_size: the size of the recurrent state, 0
    without LSTM. description: in words, the torso, why it was chosen, and what becomes of the
    values.

    Raises ValueError when the torso cannot read the observation.
    """

    def __init__(self, observation: SpaceSpec, action: SpaceSpec, config: NetworkConfig) -> None:
        """Reads observations and actions of these forms; its weights are drawn at random."""
        super().__init__()
        self._observation_shape = observation.shape
        self._frame_stack = config.frame_stack
        self._num_actions = action.n
        self._bfloat16 = config.precision == "bfloat16"
        layout = image_layout(observation)
        name = _automatic_torso(layout) if config.torso == "auto" else config.torso
        self.torso: MlpTorso | NatureTorso | ImpalaShallowTorso | ImpalaDeepTorso
        if name == "mlp":
            self._layout = None
            self.torso = MlpTorso(observation, config.frame_stack, config.hidden_sizes)
        else:
            self._layout = _require_image(layout, name, observation)
            channels, height, width, _ = self._layout
            scale = self._layout.scale_of_channels(
                observation_scale(observation), observation.shape, config.frame_stack
            )
            self.torso = IMAGE_TORSOS[name](config.frame_stack * channels, height, width, scale)
        why = _reason(layout, observation, name) if config.torso == "auto" else "as configured"
        self.description = f'torso "{name}", {why}; {describe_scale(observation)}'
        self.core: LstmCore | None = None
        self.output_size: int = self.torso.output_size
        self.state_size = 0
        if config.lstm_size:
            action_size = math.prod(action.shape) if action.n is None else action.n
            self.core = LstmCore(
                self.output_size + action_size + 1, config.lstm_size, config.lstm_forget_bias
            )
            self.output_size = self.core.output_size
            self.state_size = self.core.state_size

    def round_weights(self) -> None:
        """Keeps the torso's weights in the precision of its products, for acting alone.

        Then they are not rounded anew for every batch; the features differ by no more than that
        rounding. What is learned must not be rounded: small changes would be lost.
        """
        if self._bfloat16:
            for parameter in self.torso.parameters():
                # Not its buffers: the scale of observations is no weight.
                parameter.data = parameter.data.to(torch.bfloat16)

    def initial_state(self, batch_size: int, device: torch.device | str | None = None) -> Tensor:
        """Return the state before any row: zeros [batch_size, state_size] float32."""
        return torch.zeros(batch_size, self.state_size, device=device)

    def forward(
        self,
        observations: dict[str, Tensor],
        previous_actions: Tensor,
        previous_rewards: Tensor,
        first: Tensor,
        state: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return features [T, B, output_size] float32 and the state after the last row.

        observations: as rows have them, one part: [T, B, *shape], or [T, B, frame_stack, *shape]
        when frames are stacked. A part "action_mask" is left out.
        previous_actions: [T, B] int64, or [T, B, *action shape] float32; the action before
        each row.
        previous_rewards: [T, B] float32, taken as given: the algorithm clips them.
        first: [T, B] bool, true where a row starts an episode: the state is zero before it,
        and its previous action and reward count as zeros.
        state: [B, state_size] float32, the state before row 0.
        """
        with torch.autocast(first.device.type, torch.bfloat16, enabled=self._bfloat16):
            features = self.torso(self._arrange(observations)).unflatten(0, first.shape)
            if self.core is None:
                return features.float(), state
            previous = self._encode_previous(previous_actions, previous_rewards, first)
            features, state = self.core(torch.cat([features, previous], dim=-1), first, state)
            return features.float(), state.float()

    def _arrange(self, observations: dict[str, Tensor]) -> Tensor:
        """Return the observations as the torso reads them: [T * B, ...], images [N, C, H, W]."""
        (values,) = (values for part, values in observations.items() if part != ACTION_MASK)
        rows = values.flatten(0, 1)
        if self._layout is None:
            return rows
        # A row without stack is a stack of one.
        frames = rows.reshape(-1, self._frame_stack, *self._observation_shape)
        return self._layout.to_channels_first(frames)

    def _encode_previous(
        self, previous_actions: Tensor, previous_rewards: Tensor, first: Tensor
    ) -> Tensor:
        """Return the previous action and reward, [T, B, action_size + 1] float32."""
        if self._num_actions is None:
            actions = previous_actions.reshape(*first.shape, -1)  # [T, B, A] float32
        else:
            actions = one_hot(previous_actions, self._num_actions)  # [T, B, num_actions] float32
        previous = torch.cat([actions, previous_rewards.unsqueeze(-1)], dim=-1)
        return previous.masked_fill(first.unsqueeze(-1), 0.0)


def _automatic_torso(layout: ImageLayout | None) -> str:
    if layout is None or min(layout.height, layout.width) < SMALLEST_IMAGES["nature"]:
        return "mlp"
    return "nature"


def _reason(layout: ImageLayout | None, observation: SpaceSpec, torso: str) -> str:
    """Return in words why `_automatic_torso` has chosen as it has."""
    if layout is None:
        return f"as the shape {observation.shape} is not that of an image"
    picture = f"an image of {layout.height}x{layout.width} pixels, {layout.channels} channels"
    if torso == "nature":
        return f"for {picture}"
    size = SMALLEST_IMAGES["nature"]
    return (
        f'for {picture}, which is too small for "nature" ({size}x{size}); "impala_deep" takes '
        "images of any size"
    )


def _require_image(layout: ImageLayout | None, torso: str, observation: SpaceSpec) -> ImageLayout:
    if torso not in IMAGE_TORSOS:
        raise ValueError(
            f'torso must be "auto", "mlp" or one of {", ".join(IMAGE_TORSOS)}, got "{torso}"'
        )
    if layout is None:
        raise ValueError(
            f'torso "{torso}" reads images of shape (H, W), (H, W, C), (C, H, W), or stacks of '
            f'them, (S, H, W, C) say; got shape {observation.shape}; use torso "mlp" or "auto"'
        )
    return layout
