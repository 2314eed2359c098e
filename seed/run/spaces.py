"""The forms of observations and actions of one run, as its checkpoints keep them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from seed.wire.spaces import SpaceSpec


@dataclass(frozen=True)
class Spaces:
    """The forms that observations and actions have on the wire."""

    observation: SpaceSpec
    action: SpaceSpec

    def to_map(self) -> dict[str, Any]:
        """A form for JSON, read back by `from_map`."""
        return {"observation": self.observation.to_map(), "action": self.action.to_map()}

    @staticmethod
    def from_map(spaces: dict[str, Any]) -> Spaces:
        """Reads what `to_map` wrote."""
        return Spaces(
            SpaceSpec.from_map(spaces["observation"]), SpaceSpec.from_map(spaces["action"])
        )
