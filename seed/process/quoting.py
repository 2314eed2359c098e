"""How a message quotes what could not be used: in one line, escaped, and not at any length."""

from __future__ import annotations

from typing import Any

from seed.wire.terminal import printable

_LONGEST = 200
# Of numbers with more digits, these take long to be written out, and say nothing.
_MOST_BITS = 256


def shorten(text: str) -> str:
    """The text in one line, its beginning where it is long."""
    return _cut(printable(" ".join(text.split())))


def quote(value: Any) -> str:
    """A value as TOML and JSON have it, its beginning where it is long."""
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        return "a number of more than 77 digits"
    try:
        said = repr(value)
    except ValueError:
        # Such a number is in it.
        return f"a {type(value).__name__} with numbers of more digits than can be shown"
    return _cut(said)


def _cut(said: str) -> str:
    return said if len(said) <= _LONGEST else f"{said[:_LONGEST]}..."
