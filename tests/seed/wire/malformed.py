"""Messages that no environment server may send, and what is wrong with each.

The decoder, the decisions on sessions, the socket's loop and the fuzzer are all fed with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgpack
import numpy as np

from seed.wire import codec, messages
from seed.wire.limits import MAX_HEADER_BYTES, MAX_TRACEBACK_BYTES, PROTOCOL_VERSION
from seed.wire.spaces import SpaceSpec


class Malformed(NamedTuple):
    """A message, and a pattern of what it is refused with."""

    frames: list[bytes]
    reason: str


def _frames(message: messages.Message) -> list[bytes]:
    return [bytes(frame) for frame in codec.encode(message)]


def _changed(frames: Sequence[bytes], **changes: Any) -> list[bytes]:
    """The message with other values in its header."""
    return [msgpack.packb({**msgpack.unpackb(frames[0]), **changes}), *frames[1:]]


_HELLO = _frames(messages.Hello(1, (2, 1), "name"))
_PING = _frames(messages.Ping(1))
_FAULT = _frames(messages.Fault(1, 0, 0, "hung", 0, False, False, ""))
_SPACE = SpaceSpec("uint8", (84, 84))
_WELCOME = _frames(
    messages.Welcome(1, {"kind": "atari"}, _SPACE, _SPACE, np.arange(3), np.arange(3))
)
_STEP = _frames(messages.Step(1, 0, 0, [b""] * 5))
_NO_MAP = "not a msgpack map|extension type"

_HEADERS = {
    "nothing": ([b""], "not a msgpack"),
    "unused byte": ([b"\xc1"], "not a msgpack"),
    "more than a map": ([_PING[0] + b"\x00"], "not a msgpack"),
    "list": ([msgpack.packb([1, 2])], "map with string keys, got list"),
    "key that is no string": ([msgpack.packb({1: "ping"})], "not a msgpack"),
    "key twice as long as any": ([msgpack.packb({"x" * 257: 1})], "not a msgpack"),
    "no utf-8": ([b"\x81\xa4type\xa4\xff\xff\xff\xff"], "not a msgpack"),
    "extension": (_changed(_PING, session=msgpack.ExtType(5, b"x")), _NO_MAP),
    "timestamp": (_changed(_PING, session=msgpack.Timestamp(0)), _NO_MAP),
    "bytes": (_changed(_PING, pad=b"x"), "not a msgpack"),
    "long string": (_changed(_PING, pad="x" * 257), "not a msgpack"),
    "long list": (_changed(_PING, pad=[0] * 65), "not a msgpack"),
    "long map": ([msgpack.packb({str(i): i for i in range(33)})], "not a msgpack"),
    "lists without end": ([b"\x91" * 4000], "not a msgpack"),
    "too large": ([b"\x81" * (MAX_HEADER_BYTES + 1)], "at most 4096 bytes"),
    "no type": ([msgpack.packb({"session": 1})], "message type"),
    "unknown type": (_changed(_HELLO, type="hi"), "message type.*'hi'"),
    "type that is a list": ([msgpack.packb({"type": []})], "message type"),
}  # fmt: skip
# Each opening stands for a list, map or string that would be far larger than the header it is in.
_HUGE = [
    b"\xdc\x00\x40", b"\xde\x00\x20\xa0", b"\xdc\xff\xff", b"\xdd\x7f\xff\xff\xff",
    b"\xdf\x7f\xff\xff\xff\xa0", b"\x9f", b"\x8f\xa1a", b"\xdb\x7f\xff\xff\xff",
]  # fmt: skip
_HELLOS: dict[str, tuple[dict[str, Any], str]] = {
    "no groups": ({"groups": []}, "1 to 64"),
    "too many groups": ({"groups": [1] * 65}, "not a msgpack"),
    "empty group": ({"groups": [0]}, "positive"),
    "group that is a bool": ({"groups": [True]}, "positive"),
    "too many environments": ({"groups": [65_536, 1]}, "65536 environments at most"),
    "groups that are no list": ({"groups": 4}, "list"),
    "negative server_id": ({"server_id": -1}, "server_id"),
    "server_id with a fraction": ({"server_id": 1.0}, "server_id"),
    "no name": ({"name": None}, "name: expected a string"),
    "protocol that is a text": ({"protocol": "1"}, "protocol"),
}
_FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "fault of a negative group": ({"group": -1}, "group"),
    "fault of half an index": ({"index": 1.5}, "index"),
    "fault of no kind": ({"kind": None}, "kind"),
    "fault without restarts": ({"restarts": None}, "restarts"),
}
_FRAMES = {
    "three empty frames": ([b""] * 3, "not a msgpack"),
    "eight empty frames": ([b""] * 8, "not a msgpack"),
    "hello of two frames": ([*_HELLO, b""], "expected 1 frames"),
    "step of five frames": (_STEP[:-1], "expected 6 frames"),
    "step of seven frames": ([*_STEP, b""], "expected 6 frames"),
    "actions of one frame": (_frames(messages.Actions(1, 0, 0, b""))[:1], "expected 2 frames"),
    "welcome of two frames": (_WELCOME[:2], "expected 3 frames"),
    "welcome of four frames": ([*_WELCOME, b""], "expected 3 frames"),
    "welcome with half a number": ([_WELCOME[0], b"1234567", b""], "expected .* bytes"),
    "welcome without a seed": ([_WELCOME[0], bytes(16), bytes(8)], "expected 16 bytes"),
    "welcome of another version": (_changed(_WELCOME, protocol=1), "install the same version"),
    "long traceback": ([_FAULT[0], b"a" * (MAX_TRACEBACK_BYTES + 1)], "at most 8192 bytes"),
}  # fmt: skip


def _nested() -> Iterator[tuple[str, Malformed]]:
    """What is nested deeply: to print it would take more stack than there is."""
    for field in ("type", "protocol", "server_id", "groups", "name"):
        head, tail = msgpack.packb(
            {"type": "hello", "protocol": PROTOCOL_VERSION, "server_id": 1, "groups": [1],
             "name": "", field: 0}
        ).split(msgpack.packb(field) + b"\x00")  # fmt: skip
        for depth in (8, 100, 900, 1000, 1023):
            for kind, opening in (("lists", b"\x91"), ("maps", b"\x81\xa0")):
                header = head + msgpack.packb(field) + opening * depth + b"\x00" + tail
                yield f"{depth} {kind} in {field}", Malformed([header], "expected|not a msgpack")


# Refused by the decoder.
MALFORMED: dict[str, Malformed] = {
    **{name: Malformed(*case) for name, case in {**_HEADERS, **_FRAMES}.items()},
    **{name: Malformed(_changed(_HELLO, **changes), reason)
       for name, (changes, reason) in _HELLOS.items()},
    **{name: Malformed(_changed(_FAULT, **changes), reason)
       for name, (changes, reason) in _FAULTS.items()},
    **{f"asks for memory by {opening.hex()}":
       Malformed([(b"\x81\xa4type" + opening * 4096)[:MAX_HEADER_BYTES]], "not a msgpack")
       for opening in _HUGE},
    **dict(_nested()),
}  # fmt: skip
# Well-formed, and not for a learner.
MISDIRECTED: dict[str, Malformed] = {
    type(message).__name__: Malformed(_frames(message), "is not for a learner")
    for message in (
        messages.Actions(1, 0, 0, b""), messages.Ping(1), messages.Refusal("no", retry=True),
    )
}  # fmt: skip


def wrong_rows(good: Sequence[bytes], group_size: int) -> dict[str, Malformed]:
    """A STEP's good raw frames, each time with one thing wrong that no space allows."""
    wrong = {}
    for index, name in enumerate(("run_ids", "observations", "rewards", "flags", "episodes")):
        changes = {"longer": good[index] + b"\x00", "shorter": good[index][:-1], "empty": b""}
        for how, frame in changes.items():
            # No episodes may end in a row.
            if frame != good[index] and not (name == "episodes" and how == "empty"):
                wrong[f"{how} {name}"] = (index, frame, f"{name}: expected .* bytes")
    records = {
        "episode of nobody": ([(group_size, 1, 0.0)], "indices below"),
        "episode that returned NaN": ([(0, 1, np.nan)], "finite returns"),
        "more episodes than environments": ([(0, 0, 0.0)] * (group_size + 1), "at most"),
    }
    for name, (episodes, reason) in records.items():
        wrong[name] = (4, np.array(episodes, messages.EPISODE_DTYPE).tobytes(), reason)
    for value in (np.nan, np.inf, -np.inf):
        rewards = np.array([0] * (group_size - 1) + [value], "<f4")
        wrong[f"reward of {value}"] = (2, rewards.tobytes(), "rewards: expected finite")
    wrong["unknown flag"] = (3, b"\x00" * (group_size - 1) + b"\x08", "flags")
    return {
        name: Malformed([*good[:index], frame, *good[index + 1 :]], reason)
        for name, (index, frame, reason) in wrong.items()
    }
