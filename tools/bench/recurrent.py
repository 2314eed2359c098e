"""Measures the LSTM over sequences with resets against a plain loop that autograd differentiates.

    python -m tools.bench.recurrent

Both have the same weights and read the same rows. They take turns in the same process, so that what
slows the machine down slows both; figures are medians, with the range of all timings, and "ratio"
is above 1 where the plain loop is the slower one. "backward" includes its forward pass. torch has
one thread.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seed.networks.recurrent import LstmCore
from tools.bench.report import (
    Spread,
    describe_origin,
    device_name,
    format_table,
    origin_line,
    positive,
    positive_seconds,
    run_plainly,
    settings_of,
    spread,
    start_parser,
    write_json,
)

_FORGET_BIAS = 1.0
# Of a row to be the first of its episode.
_FIRST_PROBABILITY = 0.01


class Shape(NamedTuple):
    """Sizes of what is measured.

    Attributes:
        length: Rows of a sequence (T).
        batch: Sequences (B).
        inputs: Numbers that the LSTM reads per row.
        units: Units of the LSTM (H).
    """

    length: int
    batch: int
    inputs: int
    units: int


# Atari-57 and Pong with R2D2, a small V-trace batch, and a forward pass of inference.
_SHAPES = (
    Shape(120, 64, 531, 512),
    Shape(25, 16, 519, 128),
    Shape(20, 4, 67, 64),
    Shape(1, 16, 519, 128),
)


class PlainLstmCore(LstmCore):
    """The same equations, row by row, as they stand in the class that it extends."""

    def forward(self, features: Tensor, first: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return the outputs [T, B, hidden_size] and the state after the last row."""
        projections = self.input(features).unbind()  # T of [B, 4H] float32
        keeps = first.logical_not().to(state.dtype).unsqueeze(-1).unbind()  # T of [B, 1] float32
        weight = self.recurrent.weight.t()
        size = self.output_size
        h, c = state.chunk(2, dim=-1)
        outputs: list[Tensor] = []
        for projection, keep in zip(projections, keeps, strict=True):
            gates = torch.addmm(projection, h * keep, weight)  # [B, 4H] float32
            input_gate, forget_gate = gates[:, : 2 * size].sigmoid().chunk(2, dim=-1)
            candidate = gates[:, 2 * size : 3 * size].tanh()
            c = torch.addcmul(forget_gate * (c * keep), input_gate, candidate)
            h = gates[:, 3 * size :].sigmoid() * c.tanh()
            outputs.append(h)
        return torch.stack(outputs), torch.cat([h, c], dim=-1)


def make_cores(shape: Shape, device: torch.device) -> dict[str, LstmCore]:
    """Returns what is compared, with equal weights, by name."""
    sizes = (shape.inputs, shape.units, _FORGET_BIAS)
    cores = {"plain": PlainLstmCore(*sizes), "sequence": LstmCore(*sizes)}
    cores["sequence"].load_state_dict(cores["plain"].state_dict())
    return {name: core.to(device) for name, core in cores.items()}


def make_calls(shape: Shape, device: torch.device, bfloat16: bool) -> dict[str, Callable[[], None]]:
    """Returns what is timed, by "forward" or "backward", a space, and the core's name.

    "backward" includes its forward pass; the features have a gradient, as after a torso.
    """
    length, batch, inputs, units = shape
    features = torch.randn(length, batch, inputs, device=device, requires_grad=True)
    first = torch.rand(length, batch, device=device) < _FIRST_PROBABILITY  # [T, B] bool
    state = torch.randn(batch, 2 * units, device=device)
    weights = torch.randn(length, batch, units, device=device)  # of the loss

    def run(core: LstmCore) -> Tensor:
        """The outputs `[T, B, units] float32`."""
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            outputs: Tensor = core(features, first, state)[0]
        return outputs.float()

    @torch.no_grad()
    def forward(core: LstmCore) -> None:
        """The forward pass alone, without gradient."""
        run(core)

    def backward(core: LstmCore) -> None:
        """The forward pass and the gradient of all weights and of the features."""
        loss = (run(core) * weights).sum()
        torch.autograd.grad(loss, [features, *core.parameters()])

    # Of one row alone there is only acting.
    kinds = {"forward": forward} if length == 1 else {"forward": forward, "backward": backward}
    return {
        f"{kind} {name}": functools.partial(function, core)
        for name, core in make_cores(shape, device).items()
        for kind, function in kinds.items()
    }


def time_calls(call: Callable[[], None], device: torch.device, seconds: float) -> float:
    """Returns calls per second; they take at least `seconds`, and the device has finished them."""
    count, begin_s = 0, time.perf_counter()
    elapsed_s = 0.0
    while elapsed_s < seconds:
        call()
        count += 1
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        elapsed_s = time.perf_counter() - begin_s
    return count / elapsed_s


def measure(shape: Shape, device: torch.device, arguments: argparse.Namespace) -> dict[str, Spread]:
    """Returns rows per second by the names of `make_calls`."""
    calls = make_calls(shape, device, arguments.bfloat16)
    rows_per_s: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(arguments.repetitions):
        for name, call in calls.items():
            pace = time_calls(call, device, arguments.seconds)
            rows_per_s[name].append(pace * shape.length * shape.batch)
    return {name: spread(paces) for name, paces in rows_per_s.items()}


def compare(
    shape: Shape, device: torch.device, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """Returns one object for the JSON file per kind of call; `ratio` above 1 where plain loses."""
    paces = measure(shape, device, arguments)
    figures = []
    for kind in dict.fromkeys(name.split()[0] for name in paces):
        plain, sequence = paces[f"{kind} plain"], paces[f"{kind} sequence"]
        figures.append(
            {
                "shape": shape._asdict(),
                "kind": kind,
                "plain_rows_per_s": plain,
                "sequence_rows_per_s": sequence,
                "ratio": sequence.median / plain.median,
            }
        )
    return figures


def make_parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    parser = start_parser("recurrent", __doc__)
    parser.add_argument(
        "--shape", type=positive, nargs=4, action="append", metavar=("T", "B", "IN", "H"),
        help="rows, sequences, inputs and units, instead of four shapes at hand; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--seconds", type=positive_seconds, default=0.5, help="of one timing, at least"
    )
    parser.add_argument("--repetitions", type=positive, default=5, help="timings per median")
    parser.add_argument("--device", type=device_name, default="cpu", help="cpu or cuda")
    parser.add_argument("--bfloat16", action="store_true", help="under autocast")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Measures everything and prints the table, in rows per second."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    origin = describe_origin(arguments.device)
    print(origin_line(origin))
    table: list[list[str]] = []
    figures: list[dict[str, Any]] = []
    for shape in [Shape(*sizes) for sizes in arguments.shape or _SHAPES]:
        for figure in compare(shape, device, arguments):
            plain, sequence = figure["plain_rows_per_s"], figure["sequence_rows_per_s"]
            sizes = f"{shape.length} x {shape.batch}, {shape.inputs} to {shape.units}"
            name, ratio = f"{sizes}, {figure['kind']}", f"{figure['ratio']:.2f}"
            table.append([name, plain.text(), sequence.text(), ratio])
            figures.append(figure)
    header = ["T x B, inputs to units", "plain rows/s", "sequence rows/s", "ratio"]
    print(format_table(header, table))
    if arguments.json is not None:
        write_json(arguments.json, origin, {"settings": settings_of(arguments), "rows": figures})


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    arguments = make_parser().parse_args(argv)
    return run_plainly("recurrent", lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
