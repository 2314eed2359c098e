from __future__ import annotations

from pathlib import Path

import pytest

import tools.bench.peers
from tools.bench.peers.starts import INSTALLS, STARTS, Start, command, parse_peer

MODULES = Path(tools.bench.peers.__file__).parent


def test_every_start_has_a_module_and_a_name_of_its_own() -> None:
    starts = [start for of_peer in STARTS.values() for start in of_peer]
    assert all((MODULES / f"{start.module}.py").is_file() for start in starts)
    assert len({start.name for start in starts}) == len(starts)
    assert set(INSTALLS) == set(STARTS)


def test_the_command_has_threads_module_and_folder() -> None:
    start = Start("any", "sb3", ("ppo", "--out=FOLDER/x"))
    words = command(start, Path("/venv/bin/python"), 2, Path("/empty"))
    assert words == [
        "env", "OMP_NUM_THREADS=2", "/venv/bin/python", "-m", "tools.bench.peers.sb3", "ppo",
        "--out=/empty/x",
    ]  # fmt: skip


def test_a_peer_is_a_name_and_a_file(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.touch()
    link.symlink_to(real)
    # A virtual environment is known by the link that it is started by.
    assert parse_peer(f"sample-factory={link}") == ("sample-factory", link)


def test_what_is_no_peer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="NAME of stable-baselines3"):
        parse_peer("unknown=/bin/sh")
    with pytest.raises(ValueError, match="there is no file"):
        parse_peer(f"sample-factory={tmp_path / 'none'}")
    with pytest.raises(ValueError, match="there is no file"):
        parse_peer("sample-factory")
