"""Many environment servers at one learner: all are let in, and each costs little memory."""

from __future__ import annotations

import json
from pathlib import Path

from tools.bench import scaling

CONNECTIONS = 1_000


# By hand, with `--connections 4000`: docs/reliability.md.
def test_a_thousand_servers_register_and_take_little_memory(tmp_path: Path) -> None:
    figures_path = tmp_path / "figures.json"
    arguments = [
        "--parts", "connections", "--connections", str(CONNECTIONS // 100), str(CONNECTIONS),
        "--middle", str(CONNECTIONS), "--repetitions", "1", "--seconds", "0.5",
        "--json", str(figures_path),
    ]  # fmt: skip
    assert scaling.main(arguments) == 0
    few, many = json.loads(figures_path.read_text())["points"]
    assert many["connections"] == CONNECTIONS
    each_bytes = (many["memory_bytes"] - few["memory_bytes"]) / (CONNECTIONS - few["connections"])
    assert each_bytes <= 64 * 1024
    # How long it took is judged by hand, on a machine that has the time.
    assert many["registered_s"]["median"] > 0
