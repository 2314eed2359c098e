from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from envservers.environments import describe, make_group
from envservers.environments.atari import AtariOptions
from envservers.environments.group import InvalidEnvironment
from seed.config.schema import AtariConfig, EnvironmentConfig
from seed.wire.spaces import SpaceSpec


@pytest.mark.parametrize(
    ("environment", "observation", "action"),
    [({"kind": "atari", "id": "pong"},
      SpaceSpec("uint8", (84, 84)), SpaceSpec("int64", (), 6)),
     ({"kind": "gymnasium", "id": "CartPole-v1", "vectorization": "async"},
      SpaceSpec("float32", (4,)), SpaceSpec("int64", (), 2)),
     ({"kind": "function", "id": "envservers.tasks.catch:make", "kwargs": {"rows": 7}},
      SpaceSpec("float32", (7, 5)), SpaceSpec("int64", (), 3))],
)  # fmt: skip
def test_describe_reads_the_specs(
    environment: dict[str, Any], observation: SpaceSpec, action: SpaceSpec
) -> None:
    assert describe(environment) == (observation, action)


def test_the_learners_table_is_understood_as_it_is() -> None:
    environment = dataclasses.asdict(EnvironmentConfig(kind="atari", id="pong"))
    group = make_group(environment, 3)
    assert (group.num_envs, group.observation) == (3, SpaceSpec("uint8", (84, 84)))
    assert group.reset(np.arange(3)).observations.shape == (3, 84, 84)
    group.close()
    assert dataclasses.asdict(AtariConfig()) == dataclasses.asdict(AtariOptions())


@pytest.mark.parametrize(
    ("environment", "reason"),
    [({"id": "pong"}, "environment.kind"),
     ({"kind": "dmlab", "id": "x"}, "expected atari, gymnasium, function, got 'dmlab'"),
     ({"kind": "atari"}, "environment.id"),
     ({"kind": "atari", "id": "pong", "frameskip": 4}, "unknown option frameskip"),
     ({"kind": "atari", "id": "pong", "atari": {"frameskip": 4}}, "unknown option frameskip"),
     ({"kind": "atari", "id": "pong", "kwargs": {"x": 1}}, "environment.atari"),
     ({"kind": "gymnasium", "id": "CartPole-v1", "vectorization": "jax"}, "vectorization"),
     ({"kind": "gymnasium", "id": "CartPole-v1", "kwargs": 3}, "environment.kwargs")],
)  # fmt: skip
def test_tables_that_do_not_fit_are_refused(environment: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidEnvironment, match=reason):
        make_group(environment, 1)
