"""An algorithm and environments from outside `seed/` run through the real command, unedited."""

from __future__ import annotations

import pytest

from tests.end_to_end.commands import Train, last_known


def test_outside_algorithm_learns_catch(train: Train) -> None:
    lines = train("tests/outside/reinforce.toml", "--algorithm.discount", 0.98, goal=0.6)
    assert max(line["episode_return_mean"] or -1.0 for line in lines) > 0.5


@pytest.mark.parametrize(("ending", "value"), [("truncates", 10.0), ("no-truncates", 1.0)])
def test_truncation_bootstraps_and_termination_does_not(
    train: Train, ending: str, value: float
) -> None:
    """Reward 1 a step and gamma 0.9: worth 1 / (1 - 0.9) where only cut off, 1 where it ends."""
    lines = train("tests/outside/endless.toml", f"--environment.kwargs.{ending}")
    assert last_known(lines, "value_mean") == pytest.approx(value, rel=0.15)
