from __future__ import annotations

import tracemalloc
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from seed.wire import codec, messages
from seed.wire.errors import WireError
from seed.wire.limits import MAX_TRACEBACK_BYTES
from seed.wire.spaces import SpaceSpec
from tests.seed.wire.malformed import MALFORMED, Malformed
from tests.seed.wire.strategies import specs, unhurried

uint64s = st.integers(0, 2**64 - 1)
# The longest name is counted in characters, the longest string that a decoder takes in bytes.
texts = st.text(st.characters(max_codepoint=127), max_size=128)
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | texts
hellos = st.builds(
    messages.Hello,
    uint64s,
    st.lists(st.integers(1, 1000), min_size=1, max_size=64).map(tuple),
    texts,
)
steps = st.builds(
    messages.Step,
    uint64s,
    st.integers(0, 63),
    uint64s,
    st.lists(st.binary(), min_size=5, max_size=5),
)
small_messages = st.one_of(
    st.builds(messages.Actions, uint64s, st.integers(0, 63), uint64s, st.binary()),
    st.builds(messages.Refusal, texts, st.booleans(), uint64s),
    st.builds(messages.Goodbye, uint64s, texts),
    st.builds(messages.Ping, uint64s),
    st.builds(
        messages.Fault, uint64s, st.none() | uint64s, st.none() | uint64s, texts, uint64s,
        st.booleans(), st.booleans(), texts,
    ),
)  # fmt: skip
int64_arrays = npst.arrays(np.int64, st.shared(st.integers(0, 20), key="count"))
welcomes = st.builds(
    messages.Welcome, uint64s, st.dictionaries(texts, scalars, max_size=8), specs, specs,
    int64_arrays, int64_arrays,
)  # fmt: skip

def as_received(message: messages.Message) -> list[messages.Frame]:
    return [bytes(frame) for frame in codec.encode(message)]


@unhurried
@given(hellos | steps | small_messages)
def test_messages_come_back_as_they_went(message: messages.Message) -> None:
    assert codec.decode(as_received(message)) == message


@unhurried
@given(welcomes)
def test_welcome_comes_back_as_it_went(message: messages.Welcome) -> None:
    decoded = codec.decode(as_received(message))
    assert isinstance(decoded, messages.Welcome)
    for field in ("session", "environment", "observation", "action"):
        assert getattr(decoded, field) == getattr(message, field)
    np.testing.assert_array_equal(decoded.env_ids, message.env_ids)
    np.testing.assert_array_equal(decoded.seeds, message.seeds)


@st.composite
def step_arrays(draw: st.DrawFn) -> tuple[SpaceSpec, messages.StepArrays]:
    spec, size = draw(specs), draw(st.integers(1, 5))
    observations: messages.Array
    if spec.n is not None:
        values = st.integers(0, spec.n - 1)
        spec = SpaceSpec("int64", (), spec.n)
        observations = draw(npst.arrays(np.int64, size, elements=values))
    else:
        observations = draw(npst.arrays(np.dtype(spec.dtype), (size, *spec.shape)))
        assume(np.isfinite(observations).all())
    returns = st.floats(allow_nan=False, allow_infinity=False)
    rewards = st.floats(width=32, allow_nan=False, allow_infinity=False)
    records = st.tuples(st.integers(0, size - 1), st.integers(0, 2**32 - 1), returns)
    episodes = np.array(draw(st.lists(records, max_size=size)), messages.EPISODE_DTYPE)
    return spec, messages.StepArrays(
        draw(npst.arrays(np.uint64, size)),
        observations,
        draw(npst.arrays(np.float32, size, elements=rewards)),
        draw(npst.arrays(np.uint8, size, elements=st.integers(0, 7))),
        episodes,
    )


@unhurried
@given(step_arrays())
def test_rows_come_back_as_they_went(drawn: tuple[SpaceSpec, messages.StepArrays]) -> None:
    spec, arrays = drawn
    frames = as_received(messages.Step(1, 0, 0, codec.step_frames(arrays)))
    decoded = codec.decode(frames)
    assert isinstance(decoded, messages.Step)
    checked = codec.check_step(decoded, spec, len(arrays.flags))
    for field in ("run_ids", "observations", "rewards", "flags", "episodes"):
        ours, theirs = getattr(arrays, field), getattr(checked, field)
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def test_arrays_in_other_orders_are_sent_in_the_protocols() -> None:
    spec = SpaceSpec("int32", (2, 3))
    observations = np.arange(12, dtype=">i4").reshape(2, 2, 3, order="F")
    flags, rewards = np.array([0, 4]), np.array([0.5, -1.0])
    arrays = messages.StepArrays(
        np.array([1, 2], ">u8"), observations, rewards, flags, np.zeros(0, messages.EPISODE_DTYPE)
    )
    frames = [bytes(frame) for frame in codec.step_frames(arrays)]
    checked = codec.check_step(messages.Step(1, 0, 0, frames), spec, 2)
    np.testing.assert_array_equal(checked.observations, observations)
    np.testing.assert_array_equal(checked.rewards, rewards)
    assert frames[0] == bytes([1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0])


header_like = st.recursive(
    scalars | st.floats() | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)
kinds = st.sampled_from(["hello", "welcome", "step", "actions", "refusal", "goodbye", "ping",
                         "fault"])  # fmt: skip
keys = st.sampled_from(
    ["protocol", "server_id", "groups", "name", "session", "environment", "observation", "action",
     "group", "seq", "reason", "retry", "index", "kind", "restarts", "quarantined", "repeated"]
)  # fmt: skip


def decodes_or_refuses(frames: list[messages.Frame]) -> None:
    try:
        message = codec.decode(frames)
        if isinstance(message, messages.Step):
            codec.check_step(message, SpaceSpec("float32", (1,)), 1)
        if isinstance(message, messages.Actions):
            codec.check_actions(message, SpaceSpec("int64", (), 2), 1)
    except WireError:
        return


@unhurried
@given(st.lists(st.binary(max_size=64), max_size=7))
def test_random_bytes_raise_nothing_but_wire_errors(frames: list[messages.Frame]) -> None:
    decodes_or_refuses(frames)


@unhurried
@given(
    kinds, st.dictionaries(keys, header_like, max_size=8), st.lists(st.binary(max_size=32))
)  # fmt: skip
def test_almost_messages_raise_nothing_but_wire_errors(
    kind: str, header: dict[str, Any], frames: list[messages.Frame]
) -> None:
    decodes_or_refuses([msgpack.packb({**header, "type": kind}), *frames])


@unhurried
@given(hellos | steps | welcomes | small_messages, st.data())
def test_damaged_messages_raise_nothing_but_wire_errors(
    message: messages.Message, data: st.DataObject
) -> None:
    frames = [bytearray(frame) for frame in as_received(message)]
    damaged = data.draw(st.sampled_from(frames[:1] + [frame for frame in frames if frame]))
    position = data.draw(st.integers(0, len(damaged) - 1))
    damaged[position] = data.draw(st.integers(0, 255))
    del frames[data.draw(st.integers(1, len(frames))) :]
    decodes_or_refuses([*frames])


@pytest.mark.parametrize("case", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_message_is_refused_and_costs_no_memory(case: Malformed) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(WireError, match=case.reason):
            codec.decode(case.frames)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_message_without_frames_is_refused() -> None:
    with pytest.raises(WireError, match="expected one frame"):
        codec.decode([])


def test_no_header_larger_than_the_limit_is_sent() -> None:
    environment = {f"option-{index}": "x" * 250 for index in range(20)}
    spec = SpaceSpec("float32", (1,))
    with pytest.raises(WireError, match="at most 4096"):
        codec.encode(messages.Welcome(1, environment, spec, spec, np.arange(1), np.arange(1)))


@unhurried
@given(st.text(min_size=200))
def test_long_reasons_arrive_cut(reason: str) -> None:
    decoded = codec.decode(as_received(messages.Goodbye(1, reason)))
    assert isinstance(decoded, messages.Goodbye)
    assert reason.startswith(decoded.reason)
    assert len(decoded.reason.encode()) > min(len(reason.encode()), 250) - 4


def test_a_hello_of_another_version_is_read_as_far_as_that() -> None:
    hello = codec.decode([msgpack.packb({"type": "hello", "protocol": 9, "anything": "else"})])
    assert isinstance(hello, messages.Hello)
    assert hello.protocol == 9


# Only the message matters to one that is asked by a learner of an older version.
def test_a_refusal_may_name_no_session() -> None:
    frame = msgpack.packb({"type": "refusal", "reason": "no", "retry": True})
    assert codec.decode([frame]) == messages.Refusal("no", True, 0)


@pytest.mark.parametrize("text", ["a" * 8192, "a" * 8193, "ä" * 4097 + "b", "🂡" * 9000, "\ud800"])
def test_long_tracebacks_lose_their_middle(text: str) -> None:
    frame = codec.encode(messages.Fault(1, 0, 0, "raised", 0, False, False, text))[1]
    assert memoryview(frame).nbytes <= MAX_TRACEBACK_BYTES
    assert memoryview(frame).nbytes > min(len(text.encode(errors="replace")), 8192) - 8
    sent = bytes(frame).decode()
    if text.isascii():
        assert (sent == text) == (len(text) <= 8192)
    start, _, end = sent.partition("\n[...]\n")
    assert text.encode(errors="replace").decode().startswith(start)
    assert text.encode(errors="replace").decode().endswith(end)


def test_a_traceback_that_is_no_utf8_is_read_as_far_as_it_goes() -> None:
    header, _ = codec.encode(messages.Fault(1, 0, 0, "hung", 0, False, False, ""))
    decoded = codec.decode([header, b"a\xffb"])
    assert isinstance(decoded, messages.Fault)
    assert decoded.traceback == "a\ufffdb"
