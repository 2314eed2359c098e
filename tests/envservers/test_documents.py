"""The examples in the documents do what the text beside them says."""

from __future__ import annotations

import contextlib
import io
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from envservers.environments.factory import make_group
from seed.wire import codec, limits, messages

DOCS = Path(__file__).parents[2] / "docs"


def python_blocks() -> list[str]:
    return re.findall(
        r"```python\n(.*?)```", (DOCS / "writing_an_environment.md").read_text(), re.S
    )


def importable(name: str, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType(name)
    exec(compile(source, name, "exec"), vars(module))
    monkeypatch.setitem(sys.modules, name, module)


def test_the_wrapped_environment_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    importable("my_blackjack", python_blocks()[0], monkeypatch)
    kwargs = {"max_episode_steps": 50}
    group = make_group({"kind": "function", "id": "my_blackjack:make", "kwargs": kwargs}, 2)
    # One-hot codes of a sum below 32, a card below 11, and a usable ace.
    row = group.reset(np.arange(2))
    assert row.observations.shape == (2, 32 + 11 + 2)
    assert (row.observations.sum(axis=1) == 3).all()
    group.close()


def test_the_corridor_keeps_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    _, corridor, trial = python_blocks()
    importable("my_corridor", corridor, monkeypatch)
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(compile(trial, "trial", "exec"), {})
    assert "SpaceSpec(dtype='float32', shape=(1,), n=None)" in output.getvalue()
    environment = {"kind": "function", "id": "my_corridor:make", "kwargs": {"length": 5}}
    group = make_group(environment, 3)
    rows = [group.reset(np.arange(3))]
    for _ in range(20):
        rows.append(group.step(np.ones(3, np.int64)))
        before, row = rows[-2:]
        moved = np.round(5 * (row.observations - before.observations)[:, 0])
        np.testing.assert_array_equal(row.first, before.terminated)
        np.testing.assert_array_equal(moved[~row.first], 1)
        np.testing.assert_array_equal(row.terminated, row.observations[:, 0] == 1)
    assert sum(len(row.episodes) for row in rows) >= 9
    group.close()


def test_the_dumped_hello_is_what_is_sent() -> None:
    text = (DOCS / "protocol.md").read_text()
    dump = "".join(re.findall(r"^[0-9a-f]{4}  ((?:[0-9a-f]{2} )+) ", text, re.M))
    hello = messages.Hello(0x0123456789ABCDEF, (2, 1), "a:1")
    assert [bytes.fromhex(dump)] == codec.encode(hello)


def test_the_limits_are_the_codes() -> None:
    text = " ".join((DOCS / "protocol.md").read_text().split())
    for phrase in (
        f"a msgpack map, at most {limits.MAX_HEADER_BYTES} bytes",
        f"1 to {limits.MAX_GROUPS} groups and at most {limits.MAX_ENVS_PER_SERVER} environments",
        f"at most {limits.MAX_OBSERVATION_BYTES >> 20} MiB",
        f"| {messages.EPISODE_DTYPE.itemsize} k, k \u2264 n |",
        f"the version described here is **{limits.PROTOCOL_VERSION}**",
        f"1 = the episode terminated here by the task's own rules, {messages.TRUNCATED} = it was",
        f"{messages.FIRST} = the row is the first of an episode",
    ):
        assert phrase in text
