"""Which peers there are, and how each is started.

A peer is installed in a virtual environment of its own; `INSTALLS` says what goes there. Its name
on the command line stands for all its starts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple


class Start(NamedTuple):
    """One way to train Pong with a peer.

    Attributes:
        name: What the table calls it.
        module: Of this package; runs in the peer's Python.
        options: Its command line. FOLDER in it stands for an empty folder.
    """

    name: str
    module: str
    options: tuple[str, ...] = ()


_SAMPLE_FACTORY = (
    "--algo=APPO", "--env=atari_pong", "--experiment=pong", "--train_dir=FOLDER", "--device=cpu",
)  # fmt: skip
# As many environments as published. What the library advises for few cores: a worker per core, two
# groups of environments each.
_WORKERS = (
    "atari", *_SAMPLE_FACTORY, "--num_workers=2", "--num_envs_per_worker=4",
    "--worker_num_splits=2",
)  # fmt: skip
# One worker instead of the four published: EnvPool has threads of its own.
_ENVPOOL = ("envpool.atari", *_SAMPLE_FACTORY, "--num_workers=1")

STARTS: Mapping[str, Sequence[Start]] = {
    "stable-baselines3": (
        Start("Stable-Baselines3 PPO, 4 epochs", "sb3", ("ppo",)),
        Start("Stable-Baselines3 PPO, 1 epoch", "sb3", ("ppo", "--epochs", "1")),
        Start("Stable-Baselines3 A2C", "sb3", ("a2c",)),
    ),
    "sample-factory": (
        Start("Sample Factory APPO, 4 epochs", "sample_factory", _WORKERS),
        Start(
            "Sample Factory APPO, 1 epoch", "sample_factory", (*_WORKERS, "--num_epochs=1"),
        ),
        Start(
            "Sample Factory APPO, 1 epoch, asynchronous", "sample_factory",
            (*_WORKERS, "--num_epochs=1", "--async_rl=True"),
        ),
        Start("Sample Factory APPO with EnvPool, 4 epochs", "sample_factory", _ENVPOOL),
        Start(
            "Sample Factory APPO with EnvPool, 1 epoch", "sample_factory",
            (*_ENVPOOL, "--num_epochs=1"),
        ),
    ),
    "torchrl": (
        Start("TorchRL PPO, 3 epochs", "torchrl_ppo"),
        Start("TorchRL PPO, 1 epoch", "torchrl_ppo", ("--epochs", "1")),
    ),
}  # fmt: skip

# `pip install torch==2.13.0 …` of what each peer needs; CPU builds of torch do.
INSTALLS: Mapping[str, str] = {
    "stable-baselines3": "stable-baselines3 ale-py opencv-python-headless",
    "sample-factory": (
        "sample-factory ale-py opencv-python-headless envpool==0.8.4 gym==0.26.2 'shimmy<2'"
    ),
    "torchrl": "torchrl torchvision hydra-core tqdm ale-py",
}


def command(start: Start, python: Path, threads: int, folder: Path) -> list[str]:
    """Returns the command line that trains until it is stopped.

    Args:
        start: From `STARTS`.
        python: Of the peer.
        threads: Of torch, in each process that does not set them itself.
        folder: An empty one, for what the peer writes.
    """
    options = [option.replace("FOLDER", str(folder)) for option in start.options]
    return [
        "env", f"OMP_NUM_THREADS={threads}", str(python), "-m",
        f"tools.bench.peers.{start.module}", *options,
    ]  # fmt: skip


def parse_peer(text: str) -> tuple[str, Path]:
    """Returns the parts of `NAME=PATH_TO_PYTHON`.

    Raises:
        ValueError: where there is no such peer, or no such file.
    """
    name, _, path = text.partition("=")
    if name not in STARTS:
        raise ValueError(f"{text!r}: expected NAME=PATH_TO_PYTHON, NAME of {', '.join(STARTS)}")
    if not Path(path).is_file():
        raise ValueError(f"{text!r}: there is no file {path!r}; it needs {INSTALLS[name]}")
    # Not resolved: a virtual environment's Python is a link, and its place is what matters.
    return name, Path(path).absolute()
