"""What the counters of a checkpoint look like: a file may be as it was written and yet be none."""

from __future__ import annotations

from typing import Any

# Names of checkpoints have so many digits, and no run comes near.
MOST_FRAMES, MOST_UPDATES = 10**14 - 1, 10**10 - 1
_LONGEST_TIME_S = 1e12
_COUNTS = {"env_frames": MOST_FRAMES, "env_steps": MOST_FRAMES, "learner_steps": MOST_UPDATES}
_OPTIONAL: dict[str, type] = {
    "optimizer": str, "environment": str, "version": str, "config": dict,
}  # fmt: skip
_LONGEST_TEXT = 4096
_DEEPEST = 32


def find_fault(state: Any) -> str:
    """What is wrong with the state of a checkpoint, in a few words; empty where nothing is.

    Everything that a run needs of it has its type and a possible value then. What else there is
    may be of a later version, and is only looked at for its depth.
    """
    if not isinstance(state, dict):
        return f"state: expected an object, found {type(state).__name__}"
    if _depth_of(state) > _DEEPEST:
        return f"state: nested more than {_DEEPEST} deep"
    for name, most in _COUNTS.items():
        count = state.get(name)
        if type(count) is not int or not 0 <= count <= most:
            return f"{name} = {_shorten(count)}: expected an integer from 0 to {most}"
    time_s = state.get("time_s")
    if not _is_time(time_s):
        return f"time_s = {_shorten(time_s)}: expected seconds from 0 to {_LONGEST_TIME_S:g}"
    for name, kind in _OPTIONAL.items():
        value = state.get(name)
        # Of the text, messages say it as it is.
        if value is not None and not (isinstance(value, kind) and _is_sayable(value)):
            return f"{name} = {_shorten(value)}: expected {_said(kind)}"
    return ""


def _is_time(time_s: Any) -> bool:
    # Integers are compared exactly, however large; NaN is never in range.
    return type(time_s) in (int, float) and 0 <= time_s <= _LONGEST_TIME_S


def _is_sayable(value: Any) -> bool:
    return not isinstance(value, str) or (len(value) <= _LONGEST_TEXT and value.isprintable())


def _said(kind: type) -> str:
    return "a line of text" if kind is str else "an object"


def _shorten(value: Any) -> str:
    """A value as a message can show it: in one line, and not at any length."""
    # Before its digits are written out, which takes long for a number of millions of them.
    if isinstance(value, int) and value.bit_length() > 256:
        return "a number of more than 77 digits"
    said = repr(value)
    return said if len(said) <= 60 else f"{said[:60]}..."


def _depth_of(value: Any) -> int:
    """How deep objects and lists are nested, without any recursion."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, (dict, list))]:
        depth += 1
        level = [
            inner for item in level
            for inner in (item.values() if isinstance(item, dict) else item)
        ]  # fmt: skip
    return depth
