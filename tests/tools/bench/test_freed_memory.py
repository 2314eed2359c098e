"""Page faults of updates, counted rather than timed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_kept_memory_is_not_asked_for_again(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    subprocess.run(
        [
            sys.executable, "-m", "tools.bench.freed_memory", "--repetitions", "1",
            "--updates", "2", "--unroll", "4", "--burn-in", "0", "--json", str(figures),
        ],
        cwd=ROOT, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    medians = json.loads(figures.read_text())["medians"]
    assert medians["kept"]["page_faults"] < 0.5 * medians["returned"]["page_faults"]
