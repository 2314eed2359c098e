"""The same commands with everything on a GPU."""

from __future__ import annotations

import pytest
import torch

from tests.end_to_end.commands import Train, last_known

DEVICES = ("--inference.device", "cuda", "--learner.device", "cuda")

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def test_every_unroll_is_right_on_a_gpu(train: Train) -> None:
    lines = train("tests/outside/counter.toml", "--total-env-frames", 30_000, *DEVICES)
    assert last_known(lines, "unrolls_checked") > 2_000


def test_catch_on_a_gpu(train: Train) -> None:
    lines = train("configs/catch_vtrace.toml", *DEVICES)
    assert last_known(lines, "episode_return_mean") > 0.9


def test_memory_chain_with_the_learner_on_the_cpu(train: Train) -> None:
    lines = train("configs/memory_chain_vtrace.toml", *DEVICES[:2], "--learner.device", "cpu")
    assert last_known(lines, "episode_return_mean") > 0.9


@pytest.mark.parametrize("replay", ["cuda", "cpu"])
def test_memory_chain_from_replay(train: Train, replay: str) -> None:
    """Rows and recurrent states on the GPU, or in host memory with both networks on the GPU."""
    lines = train("configs/memory_chain_r2d2.toml", *DEVICES, "--replay.device", replay)
    assert last_known(lines, "evaluation_return_mean") > 0.9


@pytest.mark.parametrize("graphs", ["--learner.cuda-graphs", "--inference.cuda-graphs", "both"])
@pytest.mark.parametrize(
    ("config", "figure"),
    [
        ("catch_vtrace", "episode_return_mean"),
        ("memory_chain_vtrace", "episode_return_mean"),
        ("memory_chain_r2d2", "evaluation_return_mean"),
    ],
)
def test_learns_with_graphs(train: Train, config: str, figure: str, graphs: str) -> None:
    """Captured while the other thread draws or learns on the same GPU."""
    both = ("--learner.cuda-graphs", "--inference.cuda-graphs")
    lines = train(f"configs/{config}.toml", *DEVICES, *(both if graphs == "both" else (graphs,)))
    assert last_known(lines, figure) > 0.9


def test_a_checkpoint_of_graphs_goes_on_without_them(train: Train) -> None:
    graphs = (*DEVICES, "--learner.cuda-graphs")
    train("configs/catch_vtrace.toml", *graphs, "--total-env-frames", 20_000)
    lines = train("configs/catch_vtrace.toml", *DEVICES)
    assert last_known(lines, "episode_return_mean") > 0.9
