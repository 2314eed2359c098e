"""A run's hold on its folder."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

from seed.config import Config, EnvironmentConfig
from seed.run import write_config


# Were it "never" or a path, the same file could not go on with its own run.
def test_the_written_configuration_goes_on_with_the_run(tmp_path: Path) -> None:
    run_dir = tmp_path / "a" / "run"
    config = replace(Config(), run_dir=str(run_dir), resume="never", algorithm=EnvironmentConfig())
    for seed in (3, 4):
        write_config(replace(config, seed=seed), run_dir)
        tables = tomllib.loads((run_dir / "config.toml").read_text())
        assert (tables["resume"], tables["seed"]) == ("auto", seed)
    assert [path.name for path in run_dir.iterdir()] == ["config.toml"]
