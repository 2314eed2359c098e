"""What is wrong with a message, and checks on the values in its header."""

from __future__ import annotations

from typing import Any

from seed.wire.limits import MAX_NESTING


class WireError(ValueError):
    """A message that does not follow the protocol; its text says what was expected and came."""


def checked_map(value: object, what: str) -> dict[str, Any]:
    """The value as a map with string keys; raises WireError, which begins with `what`.

    Maps and lists in it are nested at most MAX_NESTING deep.
    """
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise WireError(f"{what}: expected a map with string keys, got {type(value).__name__}")
    # Without a call for each: this is done for every message.
    level = [each for each in value.values() if each.__class__ in (list, dict)]
    for _ in range(MAX_NESTING - 1):
        if not level:
            return value
        children = (each.values() if isinstance(each, dict) else each for each in level)
        level = [child for each in children for child in each if type(child) in (list, dict)]
    raise WireError(f"{what}: expected maps and lists nested at most {MAX_NESTING} deep")


def is_count(value: object) -> bool:
    """Whether the value is a positive integer, and not a bool."""
    return type(value) is int and value > 0
