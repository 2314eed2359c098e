"""What environment servers are offered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from seed.config.schema import ConfigError
from seed.wire import codec, messages
from seed.wire.errors import WireError
from seed.wire.spaces import SpaceSpec

Int64Array = npt.NDArray[np.int64]

_SMALLEST_FRAME_LIMIT_BYTES = 65_536


@dataclass(frozen=True)
class Offer:
    """What a WELCOME tells an environment server to run."""

    environment: dict[str, Any]
    observation: SpaceSpec
    action: SpaceSpec
    seed: tuple[int, ...]

    def welcome(self, session: int, env_ids: Int64Array, seeds: Int64Array) -> messages.Welcome:
        """The WELCOME for one session."""
        return messages.Welcome(
            session, self.environment, self.observation, self.action, env_ids, seeds
        )

    def draw_seeds(self, num_envs: int, sessions_opened: int) -> Int64Array:
        """A seed for each environment of the newest session. `[num_envs] int64`"""
        sequence = np.random.SeedSequence((*self.seed, sessions_opened))
        return (sequence.generate_state(num_envs) >> 1).astype(np.int64)

    def largest_frame_bytes(self, max_batch: int) -> int:
        """Bytes beyond which a connection is cut; below, a wrong frame is told what is wrong."""
        return max(_SMALLEST_FRAME_LIMIT_BYTES, max_batch * self.observation.nbytes)

    def check(self) -> None:
        """Raises ConfigError where a WELCOME could not be read by an environment server."""
        none = np.zeros(0, np.int64)
        try:
            codec.decode(codec.encode(self.welcome(2**63, none, none)))
        except WireError as error:
            raise ConfigError(
                f"environment: too large to be sent to environment servers ({error}); shorten the "
                "texts in environment.kwargs, to 250 bytes each and 3000 in all"
            ) from None
