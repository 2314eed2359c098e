"""The same commands with everything on a GPU."""

from __future__ import annotations

import pytest
import torch

from tests.end_to_end.commands import Train, last_known

DEVICES = ("--inference.device", "cuda", "--learner.device", "cuda")
BOTH = ("--learner.cuda-graphs", "--inference.cuda-graphs")

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def test_every_unroll_is_right_on_a_gpu(train: Train) -> None:
    lines = train("tests/outside/counter.toml", "--total-env-frames", 30_000, *DEVICES)
    assert last_known(lines, "unrolls_checked") > 2_000


@pytest.mark.parametrize(
    ("config", "overrides"),
    [
        ("catch_vtrace", DEVICES),
        ("memory_chain_vtrace", (*DEVICES[:2], "--learner.device", "cpu")),
        # Rows and recurrent states on the GPU, or in host memory with both networks on the GPU.
        *(("memory_chain_r2d2", (*DEVICES, "--replay.device", on)) for on in ("cuda", "cpu")),
        # Captured while the other thread draws or learns on the same GPU.
        *((config, (*DEVICES, *graphs)) for graphs in (BOTH, BOTH[:1], BOTH[1:])
          for config in ("catch_vtrace", "memory_chain_vtrace", "memory_chain_r2d2")),
    ],
)  # fmt: skip
def test_learns_on_a_gpu(train: Train, config: str, overrides: tuple[str, ...]) -> None:
    lines = train(f"configs/{config}.toml", *overrides)
    figure = "evaluation" if config == "memory_chain_r2d2" else "episode"
    assert last_known(lines, f"{figure}_return_mean") > 0.9


def test_a_checkpoint_of_graphs_goes_on_without_them(train: Train) -> None:
    graphs = (*DEVICES, "--learner.cuda-graphs")
    train("configs/catch_vtrace.toml", *graphs, "--total-env-frames", 20_000)
    lines = train("configs/catch_vtrace.toml", *DEVICES)
    assert last_known(lines, "episode_return_mean") > 0.9
