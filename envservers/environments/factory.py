"""From the learner's `[environment]` table to environments that run."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from envservers.environments.fault_tracker import ENVIRONMENT_ERRORS, FaultTracker
from envservers.environments.group import Group, GroupRow, InvalidEnvironment
from envservers.environments.instances import Instances
from envservers.environments.restarting_group import RestartingGroup
from seed.wire.spaces import SpaceSpec

__all__ = [
    "Group", "GroupRow", "InvalidEnvironment", "describe", "make_group", "make_restarting_group",
    "make_sample",
]  # fmt: skip

_KEYS = ("kind", "id", "vectorization", "kwargs", "atari", "frames_per_step")
_KINDS = ("atari", "gymnasium", "function")
_VECTORIZATIONS = ("sync", "async", "native")


Specs: TypeAlias = tuple[SpaceSpec, SpaceSpec]


def make_group(environment: Mapping[str, Any], num_envs: int) -> Group:
    """Makes `num_envs` environments that are stepped as one group.

    What they raise later on goes to the caller.

    Args:
        environment: The `[environment]` table: `kind`, `id`, and optionally `vectorization`,
            `kwargs`, `atari`; `frames_per_step` is the learner's business and has no effect here.
        num_envs: Number of environments, at least 1.

    Raises:
        InvalidEnvironment: where the table or the environment that it names cannot be used.
    """
    single, vector = _makers(environment, num_envs, Instances())
    if single is None:
        return vector()
    from envservers.environments.sync_group import SyncGroup

    return SyncGroup(single, num_envs)


def make_restarting_group(
    environment: Mapping[str, Any],
    num_envs: int,
    new_tracker: Callable[[int, bool], FaultTracker],
    expected: Specs,
    instances: Instances,
) -> tuple[Group, FaultTracker]:
    """Makes the same group so that it goes on when its environments fail, and its fault tracker.

    Args:
        environment: As for `make_group`.
        num_envs: As for `make_group`.
        new_tracker: Of a number of units, and of whether the one unit is the group.
        expected: Specs of observations and actions, if nothing of the group may be made any more.
        instances: Of all groups.

    Raises:
        InvalidEnvironment: as `make_group` does.
    """
    single, vector = _makers(environment, num_envs, instances)
    if single is None:
        tracker = new_tracker(1, True)
        return RestartingGroup(vector, num_envs, tracker, expected), tracker
    from envservers.environments.sync_group import SyncGroup

    tracker = new_tracker(num_envs, False)
    return SyncGroup(single, num_envs, tracker, expected, instances), tracker


def _makers(
    environment: Mapping[str, Any], num_envs: int, instances: Instances
) -> tuple[Callable[[], Any] | None, Callable[[], Group]]:
    """What makes a single environment, None where there is none to be had, and what the group."""
    _check(environment)
    kwargs, id_ = dict(environment.get("kwargs", {})), environment["id"]
    if environment["kind"] == "atari":
        return None, lambda: _make_atari(environment, kwargs, num_envs)
    from envservers.environments import gymnasium_groups

    vectorization = environment.get("vectorization", "sync")
    if environment["kind"] == "function":
        maker = gymnasium_groups.FunctionMaker(id_, kwargs)
        if maker.makes_vectors:
            return None, lambda: maker.make_vector(num_envs, instances)
        single = maker.make_single
    elif vectorization == "native":
        return None, lambda: gymnasium_groups.make_native_vector(id_, kwargs, num_envs, instances)
    else:
        single = gymnasium_groups.gymnasium_maker(id_, kwargs)
    in_processes = gymnasium_groups.make_in_processes
    whole = vectorization == "async"
    return None if whole else single, lambda: in_processes(id_, single, num_envs, instances)


def make_sample(environment: Mapping[str, Any]) -> Group:
    """Makes one environment, for its specs: without a process for it where others have one.

    Raises:
        InvalidEnvironment: as `make_group` does.
    """
    if environment.get("vectorization") == "async":
        environment = {**environment, "vectorization": "sync"}
    return make_group(environment, 1)


def describe(environment: Mapping[str, Any]) -> Specs:
    """The observation and the action spec of an environment, which is made here and closed.

    Raises:
        InvalidEnvironment: as `make_group` does.
    """
    group = make_sample(environment)
    # Some cannot be closed before their first reset, and nothing depends on it.
    with contextlib.suppress(*ENVIRONMENT_ERRORS):
        group.close()
    return group.observation, group.action


def _make_atari(environment: Mapping[str, Any], kwargs: Mapping[str, Any], num_envs: int) -> Group:
    from envservers.environments.atari import AtariGroup, AtariOptions

    if kwargs:
        raise InvalidEnvironment(
            f'environment.kwargs: expected none where kind is "atari", got {", ".join(kwargs)}; '
            "the emulator's options stand in environment.atari"
        )
    options = environment.get("atari", {})
    known = [field.name for field in dataclasses.fields(AtariOptions)]
    _refuse_unknown("environment.atari", options, known)
    return AtariGroup(environment["id"], num_envs, AtariOptions(**options))


def _check(environment: Mapping[str, Any]) -> None:
    _refuse_unknown("environment", environment, _KEYS)
    _expect_one_of("environment.kind", environment.get("kind"), _KINDS)
    _expect_one_of(
        "environment.vectorization", environment.get("vectorization", "sync"), _VECTORIZATIONS
    )
    id_ = environment.get("id")
    if not isinstance(id_, str) or not id_:
        raise InvalidEnvironment(f"environment.id: expected a name, got {id_!r}")
    for key in ("kwargs", "atari"):
        if not isinstance(environment.get(key, {}), Mapping):
            raise InvalidEnvironment(f"environment.{key}: expected a table")


def _refuse_unknown(where: str, table: Mapping[str, Any], known: Sequence[str]) -> None:
    unknown = sorted(set(table) - set(known))
    if unknown:
        raise InvalidEnvironment(
            f"{where}: unknown option {', '.join(unknown)}; expected {', '.join(known)}"
        )


def _expect_one_of(where: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InvalidEnvironment(f"{where}: expected {', '.join(choices)}, got {value!r}")
