"""Checkpoints whose bytes are as they were written, and that are of another form all the same."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seed.config.schema import OptimizerConfig
from seed.learner import checkpoint
from seed.learner.checkpoint import MANIFEST, STATE, TENSORS, CheckpointError
from seed.learner.optimizers import make_optimizer
from tests.seed.checkpoints import loaded_frames, make_network, sample, save, update


@pytest.mark.parametrize("part", [TENSORS, STATE, MANIFEST])
@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_plain_file_is_not_read(tmp_path: Path, part: str, kind: str) -> None:
    save(tmp_path, 1)
    path = save(tmp_path, 2) / part
    path.unlink()
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "device":
            path.symlink_to("/dev/zero")
    assert loaded_frames(tmp_path) == 1
    with pytest.raises(CheckpointError, match="Not a plain file"):
        checkpoint.load(path.parent)


def with_state(path: Path, content: bytes) -> Path:
    """The checkpoint there with another state, and the digest of that one."""
    (path / STATE).write_bytes(content)
    digests = json.loads((path / MANIFEST).read_text())
    digests[STATE] = hashlib.sha256(content).hexdigest()
    (path / MANIFEST).write_text(json.dumps(digests))
    return path


@pytest.mark.parametrize("name", ["env_frames", "env_steps", "learner_steps", "time_s"])
@pytest.mark.parametrize("value", [None, -1, "1", True, [], 10**30, float("nan"), float("inf")])
def test_a_state_of_another_form_is_passed_over(tmp_path: Path, name: str, value: Any) -> None:
    save(tmp_path, 1)
    state = sample(2).state | {name: value}
    path = with_state(save(tmp_path, 2), json.dumps(state).encode())
    with pytest.raises(CheckpointError, match=rf"state.json: of another form \({name} = "):
        checkpoint.load(path)
    assert loaded_frames(tmp_path) == 1


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"null", b"1", b'"x"', b"{}", b"\xff", b"[" * 100_000, b'{"a":' * 900 + b"1",
     b'{"env_frames": ' + b"9" * 5_000 + b"}"],
    ids=lambda content: repr(content[:9]),
)  # fmt: skip
def test_a_state_that_is_none_is_passed_over(tmp_path: Path, content: bytes) -> None:
    save(tmp_path, 1)
    with_state(save(tmp_path, 2), content)
    assert loaded_frames(tmp_path) == 1


def spoil(tensors: dict[str, Tensor], key: str, tensor: Tensor | None) -> dict[str, Tensor]:
    rest = {name: kept for name, kept in tensors.items() if name != key}
    return rest if tensor is None else {**rest, key: tensor}


def unpack(
    tensors: dict[str, Tensor], network: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    checkpoint.unpack_module(tensors, "agent", network)
    checkpoint.unpack_optimizer(tensors, optimizer)


@pytest.mark.parametrize(
    ("key", "tensor", "reason"),
    [
        ("agent.0.weight", torch.zeros(2, 3), r"'agent.0.weight' is float32 \[2, 3\] there, float"),
        ("agent.0.weight", torch.zeros(3, 2, dtype=torch.int64), r"int64 \[3, 2\] there, float32"),
        ("agent.0.weight", None, r"'agent.0.weight' is missing there, float32 \[3, 2\] here"),
        ("agent.9.weight", torch.zeros(1), r"'agent.9.weight' is float32 \[1\] there, missing her"),
        ("agent.0.weight", torch.full((3, 2), torch.nan), "no finite number"),
        ("agent.1.running_var", torch.full((3,), torch.nan), "no finite number"),
        ("optimizer.0.exp_avg", torch.zeros(2, 3), r"another optimizer or network: .*\[2, 3\]"),
        ("optimizer.0.exp_avg", torch.zeros(3, 2, dtype=torch.bool), "another optimizer or netw"),
        ("optimizer.0.exp_avg", None, "optimizer.0 lacks exp_avg$"),
        ("optimizer.0.step", torch.zeros(3, 2), "another optimizer or network: 'optimizer.0.step"),
        ("optimizer.0.exp_avg_sq", torch.full((3, 2), torch.inf), "no finite number"),
        ("optimizer.999.exp_avg", torch.zeros(1), "'optimizer.999.exp_avg' is float32"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(
    key: str, tensor: Tensor | None, reason: str
) -> None:
    network = make_network()
    optimizer = make_optimizer(network.parameters(), OptimizerConfig())
    update(network, optimizer, torch.randn(4, 2))
    tensors = checkpoint.pack({"agent": network}, optimizer)
    unpack(tensors, network, optimizer)
    spoiled = spoil(tensors, key, tensor)
    with pytest.raises(CheckpointError, match=reason):
        unpack(spoiled, network, optimizer)
