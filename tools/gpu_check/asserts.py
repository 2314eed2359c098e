"""What only a GPU can show, each in a process of its own.

python -m tools.gpu_check.asserts NAME [--device cpu] [--tiny]

draws      two threads replay graphs that draw: no number comes twice
weights    weights that are taken are never half of one version and half of another
waits      the places at which acting and learning wait for the GPU, as warnings
profile    where the time of updates goes, with and without graphs, as tables
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from seed.config.schema import Config, LearnerConfig, NetworkConfig, OptimizerConfig
from seed.contract.loading import load_algorithm
from seed.device.graphs import CapturedCall, can_capture
from seed.device.names import prepare_thread
from seed.learner.optimizers import make_optimizer
from seed.learner.trial import zero_unroll
from seed.learner.update import Update
from seed.run.description import Spaces
from seed.run.plan import make_agent, plan_store
from seed.store.layout import StoreLayout
from seed.store.weights import WeightSlot, load_tensors
from seed.wire.spaces import SpaceSpec

_SPACES = Spaces(SpaceSpec("uint8", (84, 84)), SpaceSpec("int64", (), 6))


def draws(device: torch.device, tiny: bool) -> None:
    """Random numbers of two graphs on two streams."""
    count, numbers = (20, 100) if tiny else (2_000, 10_000)
    drawn: list[list[Tensor]] = [[], []]

    def draw(own: list[Tensor], urgent: bool) -> None:
        prepare_thread(device, 1, urgent=urgent)
        memory = torch.empty(numbers, device=device, dtype=torch.float64)
        graph = CapturedCall(memory.exponential_, device, capture=True, field="draws")
        for _ in range(count):
            own.append(graph()[:8].to("cpu", copy=True))

    _together(partial(draw, drawn[0], True), partial(draw, drawn[1], False))
    values = torch.cat([*drawn[0], *drawn[1]]).tolist()
    repeated = len(values) - len(set(values))
    print(f"{len(values)} numbers drawn, {repeated} of them more than once")
    assert repeated == 0


def weights(device: torch.device, tiny: bool) -> None:
    """Publishes as fast as it can, and takes as fast as it can."""
    updates = 50 if tiny else 5_000
    slot, done = WeightSlot(), threading.Event()
    taken: list[float] = []

    def publish() -> None:
        prepare_thread(device, 1, urgent=False)
        module = nn.Sequential(*(nn.Linear(256, 256) for _ in range(6))).to(device)
        for version in range(updates):
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter.fill_(version)
            slot.publish(version, module)
        done.set()

    def take() -> None:
        prepare_thread(device, 1, urgent=True)
        module = nn.Sequential(*(nn.Linear(256, 256) for _ in range(6))).to(device)
        while not done.is_set() or not taken:
            found = slot.take()
            if found is None:
                continue
            load_tensors(module, found.tensors)
            flat = torch.cat([parameter.flatten() for parameter in module.parameters()])
            low, high = (value.item() for value in flat.aminmax())
            assert low == high == found.version, (low, high, found.version)
            taken.append(high)

    _together(publish, take)
    print(f"{updates} versions published, {len(taken)} taken, all of them whole")


def waits(device: torch.device, tiny: bool) -> None:
    """One act and one update with torch's warnings of waiting for the device."""
    if device.type != "cuda":
        print("nothing waits on a CPU")
        return
    prepare_thread(device, 1, urgent=False)
    update, layout = _make_update(device, 4, cuda_graphs=False)
    torch.cuda.set_sync_debug_mode("warn")
    _learn(update, layout, device, 4)
    torch.cuda.set_sync_debug_mode("default")


def profile(device: torch.device, tiny: bool) -> None:
    """Updates under torch's profiler."""
    batch, count = (2, 2) if tiny else (32, 20)
    prepare_thread(device, 1, urgent=False)
    for cuda_graphs in (False, True) if can_capture(device) else (False,):
        update, layout = _make_update(device, batch, cuda_graphs=cuda_graphs)
        for _ in range(5):
            _learn(update, layout, device, batch)
        with torch.profiler.profile() as profiler:
            for _ in range(count):
                _learn(update, layout, device, batch)
        print(f"\n{count} updates of {batch} unrolls, graphs: {cuda_graphs}")
        key = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
        print(profiler.key_averages().table(sort_by=key, row_limit=30))
        if device.type == "cuda":
            print(f"memory at most: {torch.cuda.max_memory_allocated(device) / 2**30:.2f} GiB")


CHECKS: dict[str, Callable[[torch.device, bool], None]] = {
    "draws": draws, "weights": weights, "waits": waits, "profile": profile
}  # fmt: skip


def _make_update(
    device: torch.device, batch: int, *, cuda_graphs: bool
) -> tuple[Update, StoreLayout]:
    """V-trace over stacks of 84x84 pixels, as on Atari."""
    algorithm = load_algorithm("vtrace")
    config = Config(
        network=NetworkConfig(torso="impala_shallow", frame_stack=4, precision="auto"),
        learner=LearnerConfig(batch_size=batch, cuda_graphs=cuda_graphs),
        optimizer=OptimizerConfig(), algorithm=algorithm.Config(),
    )  # fmt: skip
    agent = make_agent(algorithm, config, _SPACES, device)
    capturable = cuda_graphs and can_capture(device)
    optimizer = make_optimizer(agent.parameters(), config.optimizer, capturable=capturable)
    layout = plan_store(algorithm, config, _SPACES, agent, torch.device("cpu"))
    return Update(config, algorithm, agent, None, optimizer), layout


def _learn(update: Update, layout: StoreLayout, device: torch.device, batch: int) -> None:
    update.load(zero_unroll(layout, batch, device))
    update.backward()
    update.step(1e-4)


def _together(*functions: Callable[[], None]) -> None:
    """Runs them in threads of their own; raises what one of them raises."""
    failures: list[BaseException] = []

    def run(function: Callable[[], None]) -> None:
        try:
            function()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(one,), daemon=True) for one in functions]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads) and not failures:
        for thread in threads:
            thread.join(0.05)
    if failures:
        raise failures[0]


def main(argv: list[str] | None = None) -> int:
    """The command; an assertion that does not hold is a traceback."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=CHECKS)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args(argv)
    CHECKS[arguments.name](torch.device(arguments.device), arguments.tiny)
    return 0


if __name__ == "__main__":
    sys.exit(main())
