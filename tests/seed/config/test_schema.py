"""What follows from the fields of a configuration."""

from __future__ import annotations

import pytest

from seed.config.checks import check
from seed.config.schema import AtariConfig, Config, EnvironmentConfig


@pytest.mark.parametrize(("kind", "frames"), [("atari", 3), ("gymnasium", 2), ("function", 2)])
def test_frames_of_a_step(kind: str, frames: int) -> None:
    environment = EnvironmentConfig(
        kind=kind, frames_per_step=2, atari=AtariConfig(action_repeat=3)  # type: ignore[arg-type]
    )
    assert environment.frames_per_env_step == frames


def test_defaults_can_run() -> None:
    check(Config())
