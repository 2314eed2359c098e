"""The names of all fields of a configuration, and which of them a wrong name may have meant."""

from __future__ import annotations

import dataclasses
import difflib
import typing

# Of difflib: names less alike than that have nothing to do with each other.
_ALIKE = 0.75


def names_of(config_type: type, start: str = "") -> list[str]:
    """Every field of a dataclass and of those in it, such as "learner.batch_size"."""
    names = []
    hints = typing.get_type_hints(config_type)
    for field in dataclasses.fields(config_type):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            names += names_of(hint, f"{start}{field.name}.")
        else:
            names.append(start + field.name)
    return names


def meant(name: str, names: list[str]) -> list[str]:
    """The fields that this may stand for: of that last word, of its initials, or of one like it."""
    word = _last(name)
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
