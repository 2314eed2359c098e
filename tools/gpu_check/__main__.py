"""Does everything work on this GPU, and how fast? The first thing to run where one is at hand.

    python -m tools.gpu_check --out FOLDER

Some ten minutes: correctness first, then speed. Each step is a command with a time limit of its
own; what it prints is in FOLDER/NAME.txt, the rest of its files beside it, and summary.json says
how each ended. A step that fails stops nothing but itself, except for the first, which shows that
there is a device at all. `--device cpu --tiny` tries the steps themselves, on any machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_ROOT = Path(__file__).parents[2]
_TIMED_OUT = 124
_LOOK = (
    "import torch, platform; d = torch.device('{device}'); print(torch.__version__, d, "
    "platform.machine()); print(torch.cuda.get_device_properties(d) if d.type == 'cuda' else ''); "
    "print((torch.ones(9, 9, device=d) @ torch.ones(9, 9, device=d)).sum().item())"
)
_TESTS = (
    "device/test_graphs", "learner/test_update", "inference/test_forward_memory",
    "inference/test_forward", "device/test_names", "learner/test_trial", "networks/test_recurrent",
)  # fmt: skip
_GRAPHS = ("--inference.cuda-graphs", "--learner.cuda-graphs")


class Step(NamedTuple):
    """One command.

    Attributes:
        name: Of its files.
        limit_s: Seconds after which it is ended.
        words: Arguments of Python.
        code: The exit code that is right.
        said: What it must have printed.
    """

    name: str
    limit_s: float
    words: tuple[str, ...]
    code: int = 0
    said: str = ""


class UpdateResult(NamedTuple):
    """How a step ended; `code` is 124 where its time was up."""

    name: str
    code: int
    right: bool
    took_s: float


def make_steps(device: str, *, tiny: bool, out: Path) -> list[Step]:
    """All steps, in the order of what must be known first."""
    return [
        Step("machine", 60, ("-c", _LOOK.format(device=device))),
        *_correctness(device, tiny, out),
        *_speed(device, tiny, out),
    ]


def _correctness(device: str, tiny: bool, out: Path) -> list[Step]:
    files = [f"tests/seed/{name}.py" for name in _TESTS[: 1 if tiny else None]]
    where = ("--inference.device", device, "--learner.device", device)
    options = ("--device", device, *(["--tiny"] if tiny else []))

    def learn(name: str, config: str, frames: int, *words: str, code: int = 0) -> Step:
        """A short training in a run_dir of its own."""
        run = ("--run-dir", str(out / f"run_{name}"), "--total-env-frames", str(frames))
        address = ("--inference.address", "tcp://127.0.0.1:*")
        said = "cannot be captured" if code else ""
        words = ("-m", "seed.run.main", config, *run, *address, *where, *words)
        return Step(name, 60, words, code, said)

    size = 1 if tiny else 20
    return [
        Step("tests", 120, ("-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", *files)),
        *(
            Step(name, 60, ("-m", "tools.gpu_check.asserts", name, *options))
            for name in ("draws", "weights", "waits")
        ),
        learn("unrolls", "tests/outside/counter.toml", 2_000 * size, *_GRAPHS),
        learn("catch", "configs/catch_vtrace.toml", 3_000 * size, *_GRAPHS),
        learn(
            "memory_chain", "configs/memory_chain_r2d2.toml", 4_000 * size, *_GRAPHS,
            "--replay.device", "cpu",
        ),
        # On a CPU nothing is captured, and nothing fails.
        learn(
            "failed_capture", "configs/catch_vtrace.toml", 3_000, "--learner.cuda-graphs",
            "--algorithm.name", "tools.gpu_check.reading_loss",
            code=2 if device.startswith("cuda") else 0,
        ),
    ]  # fmt: skip


def _speed(device: str, tiny: bool, out: Path) -> list[Step]:
    load = ["--device", device, "--repetitions", "1"]
    if tiny:
        load += ["--servers", "1", "--rows-per-message", "2", "--seconds", "0.1"]
    else:
        load += ["--servers", "6", "--groups", "4", "--rows-per-message", "32"]
        load += ["--max-batch", "1024", "--seconds", "4"]

    def synthetic(name: str, *words: str, graphs: Sequence[str] = ()) -> Step:
        json_file = ("--json", str(out / f"{name}.json"))
        override = ("--override", "--network.precision", "auto", *graphs)
        command = ("-m", "tools.bench.synthetic", *load, *json_file, *words, *override)
        return Step(name, 60, command)

    sizes = ("--unroll", "4", "--batch", "2") if tiny else ("--batch", "128")
    kinds = ("--kinds", "inference", "vtrace") if tiny else (
        "--kinds", "echo", "null", "inference", "vtrace"
    )  # fmt: skip
    replay: tuple[str, ...] = ("--kinds", "r2d2", "--torso", "nature")
    replay += ("--r2d2-unroll", "8", "--r2d2-batch", "2", "--lstm", "8") if tiny else (
        "--r2d2-unroll", "80", "--r2d2-batch", "64"
    )  # fmt: skip
    options = ("--device", device, *(["--tiny"] if tiny else []))
    latency = ("-m", "tools.bench.latency", *load, "--loads", "0.3", "0.7")
    steps = [
        synthetic("vtrace_both_graphs", *kinds, *sizes, graphs=_GRAPHS),
        synthetic("r2d2_both_graphs", *replay, graphs=_GRAPHS),
        Step("profile", 90, ("-m", "tools.gpu_check.asserts", "profile", *options)),
    ]
    if tiny:
        return steps
    return [
        steps[0],
        synthetic("vtrace_eager", *kinds, *sizes),
        synthetic("vtrace_inference_graphs", *kinds, *sizes, graphs=_GRAPHS[:1]),
        synthetic("vtrace_learner_graphs", *kinds, *sizes, graphs=_GRAPHS[1:]),
        synthetic("batch_4_both_graphs", "--kinds", "vtrace", "--batch", "4", graphs=_GRAPHS),
        synthetic("batch_4_eager", "--kinds", "vtrace", "--batch", "4"),
        steps[1],
        synthetic("r2d2_eager", *replay),
        steps[2],
        Step("latency", 60, (*latency, "--json", str(out / "latency.json"))),
    ]


def run_step(step: Step, out: Path) -> UpdateResult:
    """Runs one step to its end or its limit; nothing of it is left."""
    began_s, path = time.monotonic(), out / f"{step.name}.txt"
    with path.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, *step.words], cwd=_ROOT, stdin=subprocess.DEVNULL, stdout=file,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(step.limit_s)
        except subprocess.TimeoutExpired:
            code = _TIMED_OUT
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    right = code == step.code and step.said in path.read_text(errors="replace")
    return UpdateResult(step.name, code, right, time.monotonic() - began_s)


def main(argv: list[str] | None = None) -> int:
    """The command; returns 1 where a step did not end as it should."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.gpu_check", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, help="folder for what it finds")
    parser.add_argument("--device", default="cuda", help="of all work (default: cuda)")
    parser.add_argument("--tiny", action="store_true", help="only shows that the steps run")
    parser.add_argument("--steps", nargs="+", metavar="NAME", help="only these, and the first")
    arguments = parser.parse_args(argv)
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    outcomes: list[UpdateResult] = []
    for step in make_steps(arguments.device, tiny=arguments.tiny, out=out):
        if outcomes and arguments.steps and step.name not in arguments.steps:
            continue
        outcome = run_step(step, out)
        outcomes.append(outcome)
        print(f"{'right' if outcome.right else 'WRONG'}  {outcome.took_s:6.1f} s  {step.name}"
              f"  (exit code {outcome.code})", flush=True)  # fmt: skip
        summary = {each.name: each._asdict() for each in outcomes}
        (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        if len(outcomes) == 1 and not outcome.right:
            break
    return 0 if all(outcome.right for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
