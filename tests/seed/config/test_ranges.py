"""Every number of a configuration has an end in both directions."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
from collections.abc import Iterator
from operator import attrgetter
from typing import Any

import pytest

from seed.algorithms import a2c, r2d2, vtrace
from seed.config.checks import check, check_source
from seed.config.ranges import RANGES
from seed.config.schema import Config, ConfigError
from tests.seed.configs import change

HUGE = (10**18, 1e300, math.inf, -math.inf, math.nan, 10**400, -(10**400))
# Any finite number is taken.
UNBOUNDED = {
    "algorithm.clip_rho", "algorithm.clip_pg_rho", "algorithm.value_cost",
    "algorithm.entropy_cost", "algorithm.reward_scale", "algorithm.reward_clip",
    "algorithm.loss_scale",    "algorithm.rescale_epsilon", "algorithm.epsilon_last_power",
}  # fmt: skip
ACCEPTED = {"seed": 10**18, "optimizer.clip_norm": 10**18}


def numbers(table: Any, path: str = "") -> Iterator[str]:
    """The full names of all numbers, but those in tables of the user's own."""
    for field in dataclasses.fields(table):
        value = getattr(table, field.name)
        if dataclasses.is_dataclass(value):
            yield from numbers(value, f"{path}{field.name}.")
        elif type(value) in (int, float):
            yield path + field.name


def refusal(config: Config, source: Any) -> str:
    """What is said of it; empty where it is taken."""
    try:
        check(config)
        check_source(config, source)
    except ConfigError as error:
        return str(error)
    return ""


CASES = [
    pytest.param(module.DATA_SOURCE, name, Config(algorithm=module.Config()), id=name)
    for module in (vtrace, r2d2, a2c)
    for name in numbers(Config(algorithm=module.Config()))
    if module is vtrace or name.startswith(("algorithm.", "replay."))
]


@pytest.mark.parametrize(("source", "name", "config"), CASES)
@pytest.mark.parametrize("value", HUGE, ids=lambda value: repr(value)[:6])
def test_what_is_beyond_all_use_is_refused_by_name(
    source: str, name: str, config: Config, value: float
) -> None:
    is_float = isinstance(attrgetter(name)(config), float)
    # Loading refuses integers that are no float.
    if ACCEPTED.get(name) == value or (is_float and abs(value) == 10**400):
        return
    if name.startswith("algorithm."):
        field = name.removeprefix("algorithm.")
        # An infinite limit is none.
        taken = name in UNBOUNDED and (math.isfinite(value) or ("_rho" in name and value > 0))
        refused = pytest.raises(ValueError, match=f"^{field} = .*: expected ")
        with contextlib.nullcontext() if taken else refused:
            change(config, name, value)
        return
    assert re.match(rf"({name}|replay)( =|:) ", refusal(change(config, name, value), source))


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("end", [0, 1])
def test_both_ends_are_in_the_range(name: str, end: int) -> None:
    value = RANGES[name][end]
    # What does not fit another field says so.
    said = refusal(change(Config(), name, value), "queue")
    assert re.match(r"$|replay: |.*: expected .*(inference|learner|local)\.", said), said
    beyond = value + (1 if end else -1) * max(1, abs(value)) * 1e-3
    said = refusal(change(Config(), name, beyond), "queue")
    assert re.match(f"{name} = .*: expected at (least|most) ", said)
