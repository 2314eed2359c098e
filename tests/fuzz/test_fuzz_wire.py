"""A short run of the fuzzer; the long ones are by hand."""

from __future__ import annotations

import random

from seed.wire import codec, messages
from seed.wire.errors import WireError
from tests.fuzz import fuzz_wire


def test_the_examples_are_messages() -> None:
    kinds = {type(codec.decode(frames)) for frames in fuzz_wire.examples()}
    assert kinds == {messages.Hello, messages.Welcome, messages.Step, messages.Actions,
                     messages.Refusal, messages.Goodbye, messages.Ping}  # fmt: skip


def test_damaged_and_random_messages_end_nothing() -> None:
    findings = fuzz_wire.Findings()
    fuzz_wire._fuzz_by_chance(10_000, 1, findings)
    assert findings.executions == 10_000
    # Beyond the message itself.
    assert findings.peak_bytes < 1024 * 1024


# Else it would look at nothing but refusals.
def test_many_damaged_messages_are_read() -> None:
    rng, bases, read = random.Random(1), fuzz_wire.examples(), 0
    for _ in range(1000):
        try:
            codec.decode(fuzz_wire.damage(rng, bases))
            read += 1
        except WireError:
            continue
    assert 100 < read < 900
