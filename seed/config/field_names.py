"""The names and types of all fields of a configuration; which field a wrong name may have meant."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from typing import Any, Literal

# Of difflib: names less alike than that have nothing to do with each other.
_ALIKE = 0.75
# What other programs, `seed-envserver` among them, call what is a field here.
_ELSEWHERE = {
    "num_envs": "local.envs_per_server",
    "n_envs": "local.envs_per_server",
    "port": "inference.address",
    "connect": "inference.address",
    "gamma": "algorithm.discount",
    "total_timesteps": "total_env_frames",
    "buffer_size": "replay.capacity_rows",
}


def names_of(config_type: type) -> list[str]:
    """Every field of a dataclass and of those in it, such as "learner.batch_size"."""
    return list(hints_of(config_type))


def hints_of(config_type: type, start: str = "") -> dict[str, Any]:
    """The same fields with their types."""
    found: dict[str, Any] = {}
    hints = typing.get_type_hints(config_type)
    for field in dataclasses.fields(config_type):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            found |= hints_of(hint, f"{start}{field.name}.")
        else:
            found[start + field.name] = hint
    return found


def describe(hint: Any) -> str:
    """A type as a message names it: "an integer", say."""
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return describe(typing.get_args(hint)[0])
    if origin is Literal:
        return " or ".join(repr(choice) for choice in typing.get_args(hint))
    if origin in (typing.Union, types.UnionType):
        # None is for what is not given, and nobody can give it.
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        return " or ".join(map(describe, options))
    if origin is tuple:
        return f"a list of {_several(typing.get_args(hint)[0])}"
    if origin is dict or dataclasses.is_dataclass(hint):
        return "a table"
    names = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}
    return names.get(hint, str(hint))


def _several(hint: Any) -> str:
    return {int: "integers", float: "numbers", str: "strings"}.get(hint) or describe(hint)


def meant(name: str, names: list[str]) -> list[str]:
    """The fields that this may stand for: of that last word, of its initials, or of one like it."""
    word = _last(name)
    if _ELSEWHERE.get(word) in names:
        return [_ELSEWHERE[word]]
    for is_meant in (
        lambda last: last == word,
        lambda last: "".join(part[:1] for part in last.split("_")) == word,
        lambda last: last.startswith(f"{word}_"),
        set(difflib.get_close_matches(word, map(_last, names), cutoff=_ALIKE)).__contains__,
    ):
        if found := [name for name in names if is_meant(_last(name))]:
            return found
    return []


def _last(name: str) -> str:
    return name.rpartition(".")[2]
