"""Who gets in: the real commands with real keys."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from seed.wire.keys import read_pair, read_public
from tests.end_to_end import bombs
from tests.end_to_end.commands import PATIENCE_S, Command, Start, read_metrics, wait_until
from tests.seed.handshakes import handshake

CONFIG = "configs/catch_vtrace.toml"
# Catch has small observations, so that the smallest limit applies.
_LARGEST_FRAME_BYTES = 65_536


class Fleet:
    """A learner with keys, and environment servers that come to it."""

    def __init__(self, start: Start, folder: Path) -> None:
        self._start, self._folder = start, folder
        self.allowed = folder / "allowed"
        self.allowed.mkdir()
        for name in ("learner", "good", "leaver", "stranger"):
            command = [sys.executable, "-m", "envservers.keys", "new", str(folder / name)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        for name in ("good", "leaver"):
            (folder / f"{name}.pub").rename(self.allowed / f"{name}.pub")

    def learner(self, *overrides: object, fault: str = "") -> tuple[Command, str]:
        """The learner, perhaps with a fault in it, and its address."""
        name = ("faulty-learner", fault) if fault else ("seed-learner",)
        command = self._start(
            *name, CONFIG, "--run-dir", self._folder / "run",
            "--inference.address", "tcp://127.0.0.1:*", "--total-env-frames", 10**9,
            "--inference.secret-key", self._folder / "learner.key",
            "--inference.allowed-keys", self.allowed, *overrides,
        )  # fmt: skip
        found = re.search(r"tcp://\S+\d", command.wait_for("listening on"))
        assert found is not None
        return command, found.group()

    def server(self, address: str, key: str = "", learner_key: str = "learner") -> Command:
        """An environment server with the key of that name."""
        keys = ("--key", self._folder / f"{key}.key",
                "--learner-key", self._folder / f"{learner_key}.pub") if key else ()  # fmt: skip
        return self._start(
            "seed-envserver", "--connect", address, "--num-envs", 2, "--name", key or "nobody",
            "--wait-s", PATIENCE_S, *keys,
        )  # fmt: skip

    def knock(self, address: str) -> str | None:
        """How an attempt to connect with a good key ends; see `handshake`."""
        pair = read_pair(self._folder / "good.key")
        return handshake(address, pair, read_public(self._folder / "learner.pub"))

    @property
    def has_metrics(self) -> bool:
        return bool(read_metrics(self._folder / "run"))

    @property
    def env_frames(self) -> int:
        lines = read_metrics(self._folder / "run")
        return int(lines[-1]["env_frames"]) if lines else 0


@pytest.fixture
def fleet(start: Start, tmp_path: Path) -> Fleet:
    return Fleet(start, tmp_path)


def test_only_allowed_keys_take_part(fleet: Fleet) -> None:
    learner, address = fleet.learner("--local-envservers", 1, "--local.envs-per-server", 2)
    good, leaver = fleet.server(address, "good"), fleet.server(address, "leaver")
    nobody, stranger = fleet.server(address), fleet.server(address, "stranger")
    misled = fleet.server(address, "good", learner_key="stranger")
    # Those that the learner starts have a key of their own, which is in no file.
    learner.wait_for("connected with 2 environments and the key 'local'")
    learner.wait_for("good connected with 2 environments and the key 'good'")
    learner.wait_for("leaver connected")
    for denied, words in ((nobody, "give --key and --learner-key"), (stranger, "does not allow")):
        assert denied.wait() == 76, denied.text
        assert words in denied.text
    misled.wait_for("what answers there is not the owner of --learner-key")
    # Revoked while it is connected, and when it comes again.
    (fleet.allowed / "leaver.pub").unlink()
    leaver.wait_for("the key is not allowed any more")
    learner.wait_for("keys revoked: leaver")
    assert fleet.server(address, "leaver").wait() == 76
    before = fleet.env_frames
    wait_until(lambda: fleet.env_frames > before)
    assert good.process.poll() is None
    assert "stranger connected" not in learner.text
    assert "nobody connected" not in learner.text
    assert "refused a message" not in learner.text


@pytest.mark.parametrize(
    ("fault", "watchdog_s", "said"),
    [
        ("end-authentication", 300, "RuntimeError: the authentication thread fell over"),
        ("stall-authentication", 8, "the authentication thread has made no sign of life for 8 s"),
    ],
)
def test_where_nobody_answers_for_keys_nobody_gets_in(
    fleet: Fleet, fault: str, watchdog_s: int, said: str
) -> None:
    learner, address = fleet.learner(
        "--local-envservers", 0, "--watchdog-s", watchdog_s, fault=fault
    )
    assert fleet.knock(address) == "HANDSHAKE_SUCCEEDED"
    (fleet.allowed / "fail").touch()
    learner.wait_for("failing")
    assert fleet.knock(address) != "HANDSHAKE_SUCCEEDED"
    assert learner.wait() == 1, learner.text
    assert said in learner.text
    assert "in refresh_or_fail" in learner.text, "the stack of what failed"
    assert " connected with " not in learner.text.partition("failing")[2]


def test_strangers_cost_the_learner_no_memory(fleet: Fleet) -> None:
    """Bombs from connections without an allowed key, then a good server."""
    learner, address = fleet.learner("--local-envservers", 0, "--log-interval-s", 0.1)
    # Metrics take memory of their own.
    wait_until(lambda: fleet.has_metrics)
    before_mib = bombs.peak_mib(learner.process.pid)
    for bomb in bombs.bombs(_LARGEST_FRAME_BYTES).values():
        bombs.throw(address, bomb, connections=4, most_bytes=8 * 2**20)
    assert bombs.peak_mib(learner.process.pid) - before_mib <= 16
    fleet.server(address, "good")
    wait_until(lambda: fleet.env_frames > 0)
    assert "refused a message" not in learner.text
