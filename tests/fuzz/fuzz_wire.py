"""Feeds the decoder what no environment server would send, for as long as it is told.

    python -m tests.fuzz.fuzz_wire --executions 1000000

With Atheris installed it is guided by coverage, and otherwise by chance alone. Either way it begins
with the malformed messages that the tests know, and half of the other inputs are messages of the
protocol with a few bytes changed. It prints what was slowest, and
the most memory that decoding took beyond the message. Anything but a WireError ends it.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgpack
import numpy as np

try:
    import atheris
except ImportError:
    atheris = None

if atheris is not None:
    with atheris.instrument_imports(include=["seed", "msgpack"]):
        from seed.wire import codec, errors, messages, spaces
else:
    from seed.wire import codec, errors, messages, spaces

from tests.seed.wire.malformed import MALFORMED, wrong_rows

GROUP = 3
SPACES = [
    spaces.SpaceSpec("uint8", (4, 4)), spaces.SpaceSpec("float32", (3,)),
    spaces.SpaceSpec("bool", ()), spaces.SpaceSpec("int64", (), 5), spaces.SpaceSpec("float64", ()),
]  # fmt: skip
# One execution in so many is watched for memory, which takes ten times as long.
_WATCHED = 64


def examples() -> list[list[bytes]]:
    """A message of every kind, and a STEP for every space."""
    numbers, name = np.arange(GROUP), "host:1"
    spec = SPACES[0]
    said: list[messages.Message] = [
        messages.Hello(2**63, (GROUP, 1), name),
        messages.Welcome(
            7, {"kind": "atari", "kwargs": {"a": 1.5}}, spec, SPACES[3], numbers, numbers
        ),
        messages.Actions(7, 0, 3, bytes(8 * GROUP)), messages.Refusal("no", True, 7),
        messages.Goodbye(7, "done"), messages.Ping(7),
    ]  # fmt: skip
    for space in SPACES:
        arrays = messages.StepArrays(
            numbers.astype(np.uint64), np.zeros((GROUP, *space.shape), space.dtype),
            np.ones(GROUP, np.float32), np.array([0, 4, 1], np.uint8),
            np.array([(1, 20, 3.5)], messages.EPISODE_DTYPE),
        )  # fmt: skip
        said.append(messages.Step(7, 0, 3, codec.step_frames(arrays)))
    return [[bytes(frame) for frame in codec.encode(message)] for message in said]


def known_malformed() -> list[list[bytes]]:
    """The corpus of the tests, with rows that are wrong in a STEP for each space."""
    steps = [frames for frames in examples() if len(frames) == 6]
    rows = [[step[0], *case.frames] for step in steps
            for case in wrong_rows(step[1:], GROUP).values()]  # fmt: skip
    return [case.frames for case in MALFORMED.values()] + rows


def decode_all(frames: Sequence[bytes]) -> None:
    """What the learner does with a message that came; raises nothing."""
    try:
        message = codec.decode(frames)
    except errors.WireError:
        return
    if isinstance(message, messages.Step):
        for space in SPACES:
            try:
                codec.check_step(message, space, GROUP)
            except errors.WireError:
                continue


@dataclass
class Findings:
    """The worst that was seen.

    Attributes:
        executions: Messages decoded.
        slowest_ms: Longest time that one took.
        peak_bytes: Most memory that one took while it was decoded.
    """

    executions: int = 0
    slowest_ms: float = 0.0
    peak_bytes: int = 0

    def run(self, frames: Sequence[bytes]) -> None:
        """Decodes one message and takes note."""
        self.executions += 1
        if self.executions % _WATCHED == 0:
            tracemalloc.start()
            decode_all(frames)
            self.peak_bytes = max(self.peak_bytes, tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            return
        start_s = time.perf_counter()
        decode_all(frames)
        self.slowest_ms = max(self.slowest_ms, 1e3 * (time.perf_counter() - start_s))

    def __str__(self) -> str:
        return (
            f"{self.executions} messages, none but refused or read; slowest {self.slowest_ms:.2f} "
            f"ms, at most {self.peak_bytes / 1024:.0f} KiB while decoding"
        )


def damage(rng: random.Random, bases: list[list[bytes]]) -> list[bytes]:
    """A message of the protocol after a few accidents."""
    frames = [bytearray(frame) for frame in rng.choice(bases)]
    for _ in range(rng.randint(1, 6)):
        frame = rng.choice(frames) if frames else bytearray()
        at = rng.randrange(len(frame) + 1)
        match rng.randrange(7):
            case 0:
                frame[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                frame[at:at] = rng.randbytes(rng.randint(1, 9))
            case 2:
                del frame[at : at + rng.randint(1, 9)]
            case 3:
                frame[at:at] = rng.choice(OPENINGS) * rng.choice((1, 9, 100, 1000))
            case 4:
                frames.insert(rng.randrange(len(frames) + 1), bytearray(frame))
            case 5 if frames:
                del frames[rng.randrange(len(frames))]
            case _:
                frame[at:at] = msgpack.packb(rng.choice(VALUES))
    return [bytes(frame[:8192]) for frame in frames]


# Beginnings of maps, lists, strings and extensions, of few elements and of billions.
OPENINGS = [
    b"\x91", b"\x81\xa0", b"\xdc\x00\x40", b"\xdc\xff\xff", b"\xdd\xff\xff\xff\xff",
    b"\xde\x00\x20", b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff", b"\xc9\xff\xff\xff\xff\x01", b"\xd8\x01", b"\xc1", b"\xcf",
    b"\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00",
]  # fmt: skip
VALUES: list[object] = [
    None, True, -1, 2**64 - 1, 1e308, float("nan"), "", "x" * 256, "type", "hello", "step",
    "session", [1] * 64, [[]], {"dtype": "uint8", "shape": [1] * 8, "n": None},
    {"shape": [2**62] * 8},
]  # fmt: skip


def frames_of(data: bytes, bases: list[list[bytes]]) -> list[bytes]:
    """The message that a fuzzer's bytes stand for: a count, lengths, then the frames."""
    if data[:1] and data[0] & 1:
        base = list(bases[data[0] // 2 % len(bases)])
        return [data[1:], *base[1:]]
    frames: list[bytes] = []
    rest = data[1:]
    while rest and len(frames) < 8:
        size = rest[0] * (16 if rest[0] > 200 else 1)
        frames.append(rest[1 : 1 + size])
        rest = rest[1 + size :]
    return frames


def _fuzz_by_chance(executions: int, seed: int, findings: Findings) -> None:
    rng, bases = random.Random(seed), examples()
    for frames in known_malformed()[:executions]:
        findings.run(frames)
    for number in range(executions - findings.executions):
        if number % 2:
            findings.run(damage(rng, bases))
        else:
            findings.run(frames_of(rng.randbytes(rng.randrange(200)), bases))


def _fuzz_by_coverage(executions: int, seed: int, findings: Findings) -> None:
    bases = examples()

    def one_input(data: bytes) -> None:
        findings.run(frames_of(data, bases))
        # Its process ends without coming back.
        if findings.executions >= executions:
            print(findings, flush=True)

    with tempfile.TemporaryDirectory() as corpus:
        for number, data in enumerate(_first_inputs(bases)):
            Path(corpus, str(number)).write_bytes(data)
        options = [f"-atheris_runs={executions}", f"-seed={seed}", "-max_len=8192"]
        atheris.Setup([sys.argv[0], *options, corpus], one_input)
        atheris.Fuzz()


def _first_inputs(bases: list[list[bytes]]) -> list[bytes]:
    """What `frames_of` turns into the examples."""
    known = [*bases, *known_malformed()]
    short = [frames for frames in known if max(map(len, frames)) <= 200]
    whole = [b"\0" + b"".join(bytes([len(frame)]) + frame for frame in each) for each in short]
    return whole + [bytes([2 * number + 1]) + each[0] for number, each in enumerate(bases)]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--executions", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--by-chance", action="store_true", help="even where Atheris is installed")
    arguments = parser.parse_args()
    findings = Findings()
    by_chance = arguments.by_chance or atheris is None
    fuzz: Callable[[int, int, Findings], None] = _fuzz_by_chance if by_chance else _fuzz_by_coverage
    fuzz(arguments.executions, arguments.seed, findings)
    print(findings)


if __name__ == "__main__":
    main()
