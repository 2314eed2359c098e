"""Cores are counted as the container has them, by files as Linux writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from seed.process import cores
from seed.process.cores import usable_cores


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        # Without control groups the affinity counts.
        ("", {}, 8),
        ("0::/", {}, 8),
        ("0::/", {"cpu.max": "max 100000\n"}, 8),
        ("0::/", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/", {"cpu.max": "10000 100000\n"}, 1),
        ("0::/", {"cpu.max": "1600000 100000\n"}, 8),
        ("0::/", {"cpu.max": "nonsense"}, 8),
        # Of Slurm's or systemd's nested groups the narrowest counts, wherever it is.
        ("0::/job/step", {"job/cpu.max": "300000 100000", "job/step/cpu.max": "max 100000"}, 3),
        ("0::/job/step", {"job/cpu.max": "300000 100000", "job/step/cpu.max": "50000 50000"}, 1),
        # A name with a colon; a container that sees none of the folders above its own.
        ("0::/a:b/c", {"a:b/c/cpu.max": "500000 100000"}, 5),
        ("0::/not/there", {"cpu.max": "400000 100000"}, 4),
        ("0::/../..", {"cpu.max": "400000 100000"}, 4),
        ("4:memory:/\n3:cpu,cpuacct:/d/1\n0::/",
         {"cpu,cpuacct/cpu.cfs_quota_us": "250000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"},
         3),
        ("1:cpu:/", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ("2:cpuacct:/\n1:cpuset:/", {"cpu/cpu.cfs_quota_us": "100000",
                                     "cpu/cpu.cfs_period_us": "100000"}, 8),
    ],
)  # fmt: skip
def test_the_containers_quota_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, files: dict[str, str], expected: int
) -> None:
    if own:
        (tmp_path / "own").write_text(f"{own}\n")
    for name, text in files.items():
        (tmp_path / "mount" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mount" / name).write_text(text)
    monkeypatch.setattr(cores, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(cores, "_MOUNT", tmp_path / "mount")
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    assert usable_cores() == expected
