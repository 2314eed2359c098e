"""From files and command lines to configurations, and back to the text of config.toml."""

from __future__ import annotations

import dataclasses
import io
import os
import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from seed.config.loading import from_tables, parse_command_line, read_toml, to_toml
from seed.config.schema import Config, ConfigError
from seed.contract.loading import load_algorithm_config
from tests.seed.entries import put

FILE = """
run_dir = "runs/x"
total_env_frames = 1000
local_envservers = 3
[environment]
id = "Pendulum-v1"
kwargs = { g = 9.5, length = 3, name = "a b", fast = true }
[environment.atari]
action_repeat = 2
[network]
hidden_sizes = [16, 8]
[learner]
batch_size = 4
queue_batches = 2
[algorithm]
name = "vtrace"
discount = 0.5
"""


@dataclass(frozen=True)
class Shape:
    """A table within the algorithm's own table."""

    depth: int = 2
    """Layers."""


@dataclass(frozen=True)
class ForeignConfig:
    """Settings of an algorithm that is no file of this project."""

    temperature: float = 1.5
    """Kelvin, for the softmax."""
    shape: Shape = Shape()


def load_foreign(name: str) -> type:
    assert name == "elsewhere.algorithm"
    return ForeignConfig


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(FILE)
    return path


def load(text: str) -> Config:
    return from_tables(tomllib.loads(text), load_algorithm_config)


def parse(*arguments: object) -> Config:
    return parse_command_line([str(a) for a in arguments], load_algorithm_config).config


def test_reads_every_kind_of_field_and_writes_it_again() -> None:
    config = load(FILE)
    assert config.run_dir == "runs/x"
    assert config.environment.kwargs == {"g": 9.5, "length": 3, "name": "a b", "fast": True}
    assert config.environment.atari.action_repeat == 2
    assert config.network.hidden_sizes == (16, 8)
    assert config.local_envservers == 3
    # An integer where a float is declared.
    assert (config.learner.queue_batches, type(config.learner.queue_batches)) == (2.0, float)
    assert (config.algorithm_name, config.algorithm.discount) == ("vtrace", 0.5)
    # What the file leaves out keeps its default.
    assert config.optimizer == Config().optimizer
    assert config.learner.unroll_length == Config().learner.unroll_length
    assert config.algorithm.lambda_ == 1.0
    text = to_toml(config)
    assert load(text) == config
    assert to_toml(load(text)) == text
    assert "algorithm_name" not in text
    assert config != load(FILE.replace("0.5", "0.25"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a = ", r"not valid TOML \("),
        (b"\xff\xfe", r"not valid TOML \("),
        (None, r"cannot be read \("),
        (b"a = " + b"[" * 20_000 + b"]" * 20_000, r"not valid TOML \(nested too deep\)"),
        (b"[" + b".".join([b"a"] * 20_000) + b"]", "tables or lists more than 16 deep"),
        (b"a = " + b"[" * 100 + b"]" * 100, "tables or lists more than 16 deep"),
        (b"a = " + b"9" * 5_000, r"not valid TOML \(Exceeds the limit"),
        (b"a = 1\n" * 200_000, r"cannot be read \(More than 1048576 bytes\)"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_refuses_files_that_no_run_has(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    path = tmp_path / "odd.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"odd.toml: {reason}"):
        read_toml(path)


# A pipe would be waited for, a device never end.
@pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
def test_reads_plain_files_only(tmp_path: Path, kind: str) -> None:
    put(tmp_path / "odd.toml", kind)
    with pytest.raises(ConfigError, match=r"odd.toml: cannot be read \(Not a plain file\)"):
        read_toml(tmp_path / "odd.toml")


def test_command_line_takes_every_kind_of_field_and_beats_file_and_default(file: Path) -> None:
    config = parse(
        file, "--seed", 7, "--local-envservers", "auto", "--network.hidden-sizes", 3, 2,
        "--optimizer.kind", "adam", "--inference.insecure-no-auth",
        "--inference.address", "tcp://*:5555", "--environment.atari.action-repeat", 1,
        "--learner.batch-size", 8, "--algorithm.discount", 0.75,
    )  # fmt: skip
    assert (config.seed, config.local_envservers) == (7, "auto")
    assert config.network.hidden_sizes == (3, 2)
    assert config.inference.insecure_no_auth
    assert config.environment.atari.action_repeat == 1
    assert (config.learner.batch_size, config.algorithm.discount) == (8, 0.75)
    # What only the file says, and what neither does.
    assert config.learner.queue_batches == 2.0
    assert config.learner.unroll_length == Config().learner.unroll_length
    assert config.environment.kwargs == {"g": 9.5, "length": 3, "name": "a b", "fast": True}
    assert load(to_toml(config)) == config
    for words, dry_run in (((), False), (("--dry-run",), True)):
        command = parse_command_line([str(file), *words], load_algorithm_config)
        assert (command.config_file, command.dry_run) == (file, dry_run)
        assert command.config.learner.batch_size == 4


def complaint(monkeypatch: pytest.MonkeyPatch, encoding: str, *arguments: object) -> str:
    """What is said of a command line that cannot be parsed, on such a standard output."""
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    with pytest.raises(ConfigError) as refused:
        parse(*arguments)
    return str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--learner.batch-size", "four"), ("--learner.batch-size", "'four'")),
        (("--nosuch", "1"), ("Unrecognized options: --nosuch",)),
        (("--lr", "1"), ("options: --lr, 1; did you mean --optimizer.learning-rate?",)),
        (("--learner.learning-rate=1",), ("did you mean --optimizer.learning-rate?",)),
        (("--discount", "1"), ("--discount, 1; did you mean --algorithm.discount?;",)),
        (("--learner.batchsize", "1"), ("did you mean --learner.batch-size?;",)),
        (("--lambda", "1"), ("did you mean --algorithm.lambda_?;",)),
        (("--device", "cpu"), ("mean --inference.device or --learner.device or --replay.device?",)),
        (("--env", "pong"), ("Unrecognized options: --env, pong; --help",)),
        (("--optimizer.kind", "sgd"), ("optimizer.kind = 'sgd': expected 'rmsprop_tf' or 'adam'",)),
        (("--seed=x",), ("--seed = 'x': expected an integer;",)),
        (("--seed",), ("--seed: expected an integer;",)),
        (("--local-envservers", "all"), ("= 'all': expected an integer or 'auto';",)),
        (("--network.hidden-sizes", "a", "b"), ("'a b': expected integers, with spaces between;",)),
        (("--inference.cuda-graphs", "true"), (
            "--inference.cuda-graphs = 'true': it takes no value; expected "
            "--inference.cuda-graphs or --inference.no-cuda-graphs;",
        )),
        (("--dry-run=1",), ("--dry-run = '1': it takes no value; expected --dry-run alone;",)),
        (("--algorithm.discount", "2"), ("discount = 2.0: expected from 0 to 1",)),
    ],
)
def test_bad_overrides_are_refused_in_one_line(
    file: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    # Where boxes can be drawn, and where they are of plain letters.
    encoding = "ascii" if arguments[0] in ("--lr", "--seed=x", "--optimizer.kind") else "utf-8"
    said = complaint(monkeypatch, encoding, file, *arguments)
    assert "\n" not in said
    assert said.endswith("--help lists all fields")
    for word in words:
        assert word in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        # What the parser takes is checked.
        (("--learner.batch-size", "0"), r"^learner.batch_size = 0: expected at least 1$"),
        (("--environment.kwargs", "a", "3", "b"), "= 'a 3 b': expected names and values in turn"),
        # It would be the working folder, among whatever is there.
        (("--run-dir", ""), r"^run_dir = '': expected a folder"),
        (("--algorithm.name", "nosuch"), "^algorithm.name = 'nosuch': no module"),
        (("--algorithm.name",), "^algorithm.name = '': no module"),
        # The chosen algorithm must know the file's settings.
        (("--algorithm.name", "r2d2"), "algorithm.lambda_ = 0.5: unknown field of 'r2d2'"),
    ],
)
def test_what_an_override_makes_of_a_file_is_refused(
    tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    path = tmp_path / "run.toml"
    path.write_text("[algorithm]\nlambda_ = 0.5")
    with pytest.raises(ConfigError, match=words):
        parse(path, *arguments)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("configs/one.toml", "there is no such file; did you mean configs/one_two.toml?"),
        ("oen_two.toml", "there is no such file; did you mean configs/one_two.toml?"),
        ("three.toml", "there is no such file; did you mean configs/three.toml?"),
        ("one", "expected a file whose name ends with .toml; did you mean configs/one_two.toml?"),
        ("xyz.toml", "there is no such file"),
        ("run.yaml", "expected a file whose name ends with .toml"),
    ],
)
def test_a_configuration_that_may_have_been_meant_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, said: str
) -> None:
    (tmp_path / "configs").mkdir()
    for name in ("one_two", "three", "three_four"):
        (tmp_path / f"configs/{name}.toml").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"^{re.escape(f'{given}: {said}')}$"):
        parse(given)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_configuration_file_is_required(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments in ((), ("--seed", 3)):
        assert complaint(monkeypatch, encoding, *arguments) == (
            "CONFIG: expected the run's TOML file, as in seed-learner configs/pong_vtrace.toml"
        )
    # Where there are some, they are listed.
    monkeypatch.chdir(Path(__file__).parents[3])
    said = complaint(monkeypatch, encoding)
    assert "; configs/ has atari57_r2d2.toml, breakout_vtrace.toml, " in said


def field_names(cls: Any) -> list[str]:
    """The dotted options of a dataclass and of those inside it."""
    names = []
    for field in dataclasses.fields(cls):
        value = getattr(cls(), field.name)
        inner = field_names(type(value)) if dataclasses.is_dataclass(value) else [""]
        names += [f"{field.name}.{name}".rstrip(".") for name in inner]
    return names


def test_help_lists_every_field_with_its_unit(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(file, "--help")
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    algorithm_names = field_names(load_algorithm_config("vtrace"))
    names = field_names(Config) + [f"algorithm.{name}" for name in algorithm_names]
    hidden = {"algorithm", "algorithm_name", "environment.kwargs", "module_folders"}
    for name in set(names) - hidden:
        assert f"--{name.replace('_', '-').rstrip('-')}" in printed, name
    words = " ".join(printed.replace("│", " ").split())
    for text in ("microseconds", "Seconds between checkpoints", "Frames (action repeat counted)",
                 "Worth of a reward one step later", "pixels"):  # fmt: skip
        assert text in words, text
    assert "algorithm-name" not in words


@pytest.mark.parametrize(
    ("name", "words"),
    [("elsewhere.algorithm", []), ("nosuch", ["--algorithm.name", "elsewhere.algorithm"]),
     ("nosuch", ["--algorithm.name=elsewhere.algorithm"])],
)  # fmt: skip
def test_a_foreign_algorithm_brings_its_own_fields(
    file: Path, name: str, words: list[str]
) -> None:
    file.write_text(f'[algorithm]\nname = "{name}"\ntemperature = 3')
    command = parse_command_line([str(file), *words, "--algorithm.shape.depth", "5"], load_foreign)
    assert command.config.algorithm_name == "elsewhere.algorithm"
    assert command.config.algorithm == ForeignConfig(3.0, Shape(5))
    assert from_tables(tomllib.loads(to_toml(command.config)), load_foreign) == command.config


# By its import path, or beside the file.
@pytest.mark.parametrize("name", ["foreign_package.algorithm", "beside_the_file"])
def test_a_foreign_algorithm_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if "." in name:
        (tmp_path / "elsewhere" / "foreign_package").mkdir(parents=True)
        monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    path = tmp_path.joinpath("elsewhere" if "." in name else "", *name.split("."))
    path.with_suffix(".py").write_text(
        "from dataclasses import dataclass\n\n"
        "@dataclass(frozen=True)\nclass Config:\n    depth: int = 3\n\n"
        'DATA_SOURCE = "queue"\nmake_agent = act = loss = print\n'
    )
    (tmp_path / "run.toml").write_text(f'[algorithm]\nname = "{name}"')
    config = parse(tmp_path / "run.toml", "--algorithm.depth", 4)
    assert config.algorithm.depth == 4
    assert load(to_toml(config)) == config
    assert name in sys.modules


def test_the_runs_folder_and_modules_stay_where_the_command_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "run.toml").write_text('run_dir = "x/y"\nmodule_folders = ["more"]')
    monkeypatch.chdir(tmp_path)
    config = parse("configs/run.toml")
    here = str(tmp_path)
    assert config.run_dir == f"{here}/x/y"
    assert config.module_folders == (here, f"{here}/configs", f"{here}/more")
    assert sys.path[-3:] == list(config.module_folders)
    assert parse("configs/run.toml", "--run-dir", "z").run_dir == f"{here}/z"
    # What a run leaves has the same meaning everywhere.
    (tmp_path / "config.toml").write_text(to_toml(config))
    monkeypatch.chdir("/")
    again = parse(tmp_path / "config.toml")
    assert again.run_dir == config.run_dir
    assert again.module_folders == ("/", *config.module_folders)


@pytest.mark.parametrize("run_dir", ["x", os.fsdecode(b"/\xff")])
def test_a_run_folder_that_is_nowhere_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_dir: str
) -> None:
    (tmp_path / "run.toml").write_text("")
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(ConfigError, match=r"^run_dir = .*: .* (absolute path|in UTF-8)$"):
        parse(tmp_path / "run.toml", "--run-dir", run_dir)
    assert parse(tmp_path / "run.toml", "--run-dir", "/x").run_dir == "/x"


def test_a_byte_order_mark_and_windows_ends_of_lines_are_read(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_bytes(b"\xef\xbb\xbfseed = 7\r\n[learner]\r\nbatch_size = 3\r\n")
    config = parse(tmp_path / "run.toml")
    assert (config.seed, config.learner.batch_size) == (7, 3)
