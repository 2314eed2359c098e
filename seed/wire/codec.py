"""Messages between environment servers and the learner, as bytes and back.

A message is a list of frames. Frame 0 is a msgpack map, the header; what is large or per
environment follows in raw little-endian frames whose exact length both sides know from the
handshake. `docs/protocol.md` describes every field for writers of other clients. No sockets here.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgpack
import numpy as np

from seed.wire.errors import WireError, checked_map, is_count
from seed.wire.limits import (
    MAX_ENVS_PER_SERVER,
    MAX_GROUPS,
    MAX_HEADER_BYTES,
    MAX_TRACEBACK_BYTES,
    PROTOCOL_VERSION,
)
from seed.wire.messages import (
    EPISODE_DTYPE,
    FIRST,
    TERMINATED,
    TRUNCATED,
    Actions,
    Array,
    Fault,
    Frame,
    Goodbye,
    Hello,
    Message,
    Ping,
    Refusal,
    Step,
    StepArrays,
    Welcome,
)
from seed.wire.spaces import SpaceSpec

_ALL_FLAGS = TERMINATED | TRUNCATED | FIRST
_NO_EPISODES = np.empty(0, EPISODE_DTYPE)


def encode(message: Message) -> list[Frame]:
    """The message as frames, ready for `send_multipart`."""
    match message:
        case Step():
            return [_header("step", session=message.session, group=message.group, seq=message.seq),
                    *message.frames]  # fmt: skip
        case Actions():
            return [_header("actions", session=message.session, group=message.group,
                            seq=message.seq), message.actions]  # fmt: skip
        case Hello():
            return [_header("hello", protocol=message.protocol, server_id=message.server_id,
                            groups=list(message.group_sizes),
                            name=_clip(message.name))]  # fmt: skip
        case Welcome():
            return [_header("welcome", protocol=PROTOCOL_VERSION, session=message.session,
                            environment=message.environment,
                            observation=message.observation.to_map(),
                            action=message.action.to_map()),
                    message.env_ids.astype("<i8").tobytes(),
                    message.seeds.astype("<i8").tobytes()]  # fmt: skip
        case Refusal():
            return [_header("refusal", protocol=PROTOCOL_VERSION, session=message.session,
                            reason=_clip(message.reason), retry=message.retry)]  # fmt: skip
        case Goodbye():
            return [_header("goodbye", session=message.session, reason=_clip(message.reason))]
        case Ping():
            return [_header("ping", session=message.session)]
        case Fault():
            return [_header("fault", session=message.session, group=message.group,
                            index=message.index, kind=_clip(message.kind),
                            restarts=message.restarts, quarantined=message.quarantined,
                            repeated=message.repeated),
                    _clip_middle(message.traceback)]  # fmt: skip


def step_frames(arrays: StepArrays) -> list[Frame]:
    """A STEP's raw frames, in order: run_ids, observations, rewards, flags, episodes."""
    return [
        _buffer(arrays.run_ids, "<u8"),
        _buffer(arrays.observations, arrays.observations.dtype.newbyteorder("<")),
        _buffer(arrays.rewards, "<f4"),
        _buffer(arrays.flags, "u1"),
        _buffer(arrays.episodes, EPISODE_DTYPE),
    ]


def decode(frames: Sequence[Frame]) -> Message:
    """Reads a message that `encode` wrote, from an untrusted peer.

    A HELLO of another protocol version is read as far as its version, so that it can be answered.

    Raises:
        WireError: for anything that is not a well-formed message.
    """
    header = _unpack_header(frames)
    kind = header.get("type")
    if kind == "step":
        _expect_frames(frames, 6, "STEP")
        return Step(_uint(header, "session"), _uint(header, "group"), _uint(header, "seq"),
                    frames[1:])  # fmt: skip
    if kind == "actions":
        _expect_frames(frames, 2, "ACTIONS")
        return Actions(_uint(header, "session"), _uint(header, "group"), _uint(header, "seq"),
                       frames[1])  # fmt: skip
    if kind == "welcome":
        return _decode_welcome(header, frames)
    if kind == "fault":
        return _decode_fault(header, frames)
    _expect_frames(frames, 1, str(kind)[:16])
    if kind == "hello":
        return _decode_hello(header)
    if kind == "refusal":
        # A learner of another version may not name a session.
        session = _uint(header, "session") if "session" in header else 0
        return Refusal(_text(header, "reason"), header.get("retry") is True, session)
    if kind == "goodbye":
        return Goodbye(_uint(header, "session"), _text(header, "reason"))
    if kind == "ping":
        return Ping(_uint(header, "session"))
    raise WireError(f"message type: expected a message of the protocol, got {str(kind)[:32]!r}")


def check_step(step: Step, observation: SpaceSpec, group_size: int) -> StepArrays:
    """The frames of a STEP as arrays, after checking lengths and values exactly.

    Raises:
        WireError: where a frame has another length than agreed, or a value is out of its range.
    """
    run_ids, observations, rewards, flags, episodes = step.frames
    arrays = StepArrays(
        _array(run_ids, "<u8", (group_size,), "run_ids"),
        _array(observations, observation.dtype, (group_size, *observation.shape), "observations"),
        _array(rewards, "<f4", (group_size,), "rewards"),
        _array(flags, "u1", (group_size,), "flags"),
        _episodes(episodes, group_size),
    )
    # Counting is the cheapest way to look at a few numbers.
    if np.count_nonzero(arrays.flags > _ALL_FLAGS):
        raise WireError(f"flags: expected bits 1, 2 and 4 only, got {int(arrays.flags.max())}")
    if np.count_nonzero(np.isfinite(arrays.rewards)) < group_size:
        raise WireError("rewards: expected finite numbers")
    _check_observations(arrays.observations, observation)
    return arrays


def _check_observations(values: Array, observation: SpaceSpec) -> None:
    if observation.n is not None and ((values < 0) | (values >= observation.n)).any():
        raise WireError(f"observations: expected integers in 0..{observation.n - 1}")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise WireError("observations: expected finite numbers")
    if values.dtype.kind == "b" and (values.view(np.uint8) > 1).any():
        raise WireError("observations: expected bools of 0 or 1")


def check_actions(message: Actions, action: SpaceSpec, group_size: int) -> Array:
    """The actions `[n, *shape]` of an ACTIONS message.

    Raises:
        WireError: where the frame has another length than agreed, or a value is out of range.
    """
    actions = _array(message.actions, action.dtype, (group_size, *action.shape), "actions")
    if action.n is not None and ((actions < 0) | (actions >= action.n)).any():
        raise WireError(f"actions: expected integers in 0..{action.n - 1}")
    if action.n is None and not np.isfinite(actions).all():
        raise WireError("actions: expected finite numbers")
    return actions


def _decode_hello(header: Mapping[str, Any]) -> Hello:
    protocol = _uint(header, "protocol")
    if protocol != PROTOCOL_VERSION:
        return Hello(0, (), "", protocol)
    groups = header.get("groups")
    if not isinstance(groups, list) or not 1 <= len(groups) <= MAX_GROUPS:
        raise WireError(f"groups: expected a list of 1 to {MAX_GROUPS} sizes, got {groups!r}")
    if not all(is_count(size) for size in groups) or sum(groups) > MAX_ENVS_PER_SERVER:
        raise WireError(
            f"groups: expected positive sizes, {MAX_ENVS_PER_SERVER} environments at most, "
            f"got {groups!r}"
        )
    return Hello(_uint(header, "server_id"), tuple(groups), _text(header, "name"), protocol)


def _decode_fault(header: Mapping[str, Any], frames: Sequence[Frame]) -> Fault:
    _expect_frames(frames, 2, "FAULT")
    text = memoryview(frames[1])
    if text.nbytes > MAX_TRACEBACK_BYTES:
        raise WireError(f"traceback: expected at most {MAX_TRACEBACK_BYTES} bytes")
    return Fault(
        _uint(header, "session"),
        None if header.get("group") is None else _uint(header, "group"),
        None if header.get("index") is None else _uint(header, "index"),
        _text(header, "kind"),
        _uint(header, "restarts"),
        header.get("quarantined") is True,
        header.get("repeated") is True,
        bytes(text).decode(errors="replace"),
    )


def _decode_welcome(header: Mapping[str, Any], frames: Sequence[Frame]) -> Welcome:
    protocol = header.get("protocol")
    if protocol != PROTOCOL_VERSION:
        raise WireError(
            f"the learner speaks protocol {protocol!r}, this side {PROTOCOL_VERSION}: "
            "install the same version of this package on both sides"
        )
    _expect_frames(frames, 3, "WELCOME")
    count = memoryview(frames[1]).nbytes // 8
    return Welcome(
        _uint(header, "session"),
        checked_map(header.get("environment"), "environment"),
        SpaceSpec.from_map(header.get("observation")),
        SpaceSpec.from_map(header.get("action")),
        _array(frames[1], "<i8", (count,), "env_ids"),
        _array(frames[2], "<i8", (count,), "seeds"),
    )


def _header(kind: str, /, **fields: Any) -> bytes:
    packed: bytes = msgpack.packb({"type": kind, **fields}, buf_size=256)  # not 256 KiB
    if len(packed) > MAX_HEADER_BYTES:
        raise WireError(f"{kind} header of {len(packed)} bytes: at most {MAX_HEADER_BYTES}")
    return packed


def _unpack_header(frames: Sequence[Frame]) -> dict[str, Any]:
    if not frames or memoryview(frames[0]).nbytes > MAX_HEADER_BYTES:
        raise WireError(f"header: expected one frame of at most {MAX_HEADER_BYTES} bytes")
    try:
        header = msgpack.unpackb(
            frames[0], strict_map_key=True, max_map_len=32, max_array_len=MAX_GROUPS,
            max_str_len=256, max_bin_len=0, max_ext_len=0, ext_hook=_refuse_ext,
        )  # fmt: skip
    # msgpack raises several unrelated classes for malformed input, all of them ValueErrors or these
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise WireError(f"header: not a msgpack map of the protocol ({error})") from None
    return checked_map(header, "the header")


def _refuse_ext(code: int, data: bytes) -> None:
    raise WireError(f"header: msgpack extension type {code} is not part of the protocol")


def _uint(header: Mapping[str, Any], key: str) -> int:
    value = header.get(key)
    if type(value) is not int or value < 0:
        raise WireError(f"{key}: expected an unsigned integer, got {str(value)[:32]!r}")
    return value


def _text(header: Mapping[str, Any], key: str) -> str:
    value = header.get(key)
    if not isinstance(value, str):
        raise WireError(f"{key}: expected a string, got {type(value).__name__}")
    return value


def _clip(text: str) -> str:
    """The longest start of a text that the other side's decoder takes, as valid UTF-8."""
    return text.encode(errors="replace")[:250].decode(errors="ignore")


def _clip_middle(text: str) -> bytes:
    """A text as UTF-8 of at most `MAX_TRACEBACK_BYTES`: what is too much goes from its middle."""
    encoded = text.encode(errors="replace")
    if len(encoded) <= MAX_TRACEBACK_BYTES:
        return encoded
    mark = b"\n[...]\n"
    half = (MAX_TRACEBACK_BYTES - len(mark)) // 2
    # Letters that the cut goes through are left out.
    ends = (part.decode(errors="ignore").encode() for part in (encoded[:half], encoded[-half:]))
    return mark.join(ends)


def _expect_frames(frames: Sequence[Frame], count: int, kind: str) -> None:
    if len(frames) != count:
        raise WireError(f"{kind}: expected {count} frames, got {len(frames)}")


@functools.cache
def _little_endian(dtype: str) -> np.dtype[Any]:
    return np.dtype(dtype).newbyteorder("<")


def _array(frame: Frame, dtype: str, shape: tuple[int, ...], what: str) -> Array:
    element = _little_endian(dtype)
    expected_bytes = math.prod(shape) * element.itemsize
    actual_bytes = memoryview(frame).nbytes
    if actual_bytes != expected_bytes:
        raise WireError(f"{what}: expected {expected_bytes} bytes, got {actual_bytes}")
    return np.frombuffer(frame, element).reshape(shape)


def _episodes(frame: Frame, group_size: int) -> Array:
    if not len(frame):
        return _NO_EPISODES
    count, rest = divmod(memoryview(frame).nbytes, EPISODE_DTYPE.itemsize)
    if rest or count > group_size:
        raise WireError(
            f"episodes: expected at most {group_size} records of {EPISODE_DTYPE.itemsize} bytes, "
            f"got {memoryview(frame).nbytes} bytes"
        )
    episodes = np.frombuffer(frame, EPISODE_DTYPE)
    if count and (episodes["index"] >= group_size).any():
        raise WireError(f"episodes: expected indices below {group_size}")
    if count and not np.isfinite(episodes["episode_return"]).all():
        raise WireError("episodes: expected finite returns")
    return episodes


def _buffer(array: Array, dtype: Any) -> Frame:
    return np.ascontiguousarray(array, dtype=dtype).reshape(-1).view(np.uint8).data
