"""One batch through the network: rows into the store, actions out, all on the device."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from seed import wire
from seed.contract import Acted, Algorithm, Fleet
from seed.devices import move, prepare_thread
from seed.fleet import fleet_places
from seed.graphs import Graph
from seed.layout import Column
from seed.pages import PageLinks
from seed.phases import Phases
from seed.places import Places, places_size, split_places
from seed.rows import Arrived, Rows
from seed.unrolls import UnrollStore
from seed.weights import Weights, load_tensors

Int64Array = npt.NDArray[np.int64]


class GroupStep(NamedTuple):
    """One checked STEP and the environments that it is about.

    Attributes:
        env_ids: `[n] int64`
        arrays: What arrived, `[n, ...]` each.
    """

    env_ids: Int64Array
    arrays: wire.StepArrays


class _Block(NamedTuple):
    """What a batch of n rows, padding included, brings and takes: always the same memory.

    Attributes:
        numbers: Of each row environment, `terminated` and `truncated`. `[3, n] int64`
        places: Its place in the store.
        rewards: `[n] float32`
        observations: `[n, *shape]`; of no rows where messages go straight to the store.
        host_numbers: The same on the host, which on a CPU is the same memory.
        host_places: The same on the host.
        host_rewards: The same on the host.
        host_observations: The same on the host.
        actions: Host memory for what comes back. `[n, *shape]`
        copies: Tensors and what is to be copied to them, where the store is on a GPU.
        step: Runs the batch.
    """

    numbers: Tensor
    places: Places[Tensor]
    rewards: Tensor
    observations: Tensor
    host_numbers: Int64Array
    host_places: Places[Int64Array]
    host_rewards: npt.NDArray[np.float32]
    host_observations: npt.NDArray[Any]
    actions: Tensor
    copies: list[tuple[Tensor, Tensor]]
    step: Graph[None]


class ForwardPass:
    """The acting copy of the network with every environment's recurrent state.

    Owned by the inference thread. A store on the CPU gets observations straight from the messages.
    For one on a GPU they are staged in pinned host memory, copied there once and written to the
    store once. What the agent sees is read from the store. Acting takes place where the agent's
    weights are; what it sees and leaves behind is moved there and back where that is another
    device.

    All that a batch brings lies in memory that stays where it is, and no shape depends on values:
    so the device's work can be captured in CUDA graphs, one for each of a few sizes. Smaller
    batches are filled up with rows of no environment, which go to scratch rows.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        algorithm_config: Any,
        agent: nn.Module,
        store: UnrollStore,
        max_batch: int,
        *,
        greedy: bool = False,
        cuda_graphs: bool = False,
    ) -> None:
        """The agent is this object's own from here on; it acts with `policy_version` 0.

        No environment is connected yet. `cuda_graphs` is for a GPU that has both store and agent;
        elsewhere it does nothing.
        """
        layout = store.layout
        self.policy_version = 0
        self.phases = Phases()
        self._algorithm = algorithm
        self._config = algorithm_config
        self._agent = agent
        self._store = store
        self._greedy = greedy
        self._store_device = store.device
        self._device = next((p.device for p in agent.parameters()), self._store_device)
        self._apart = self._device != self._store_device
        self._staged = self._store_device.type == "cuda"
        self._captured = cuda_graphs and self._staged and not self._apart
        self._sizes = bucket_sizes(max_batch) if self._captured else range(max_batch + 1)
        # Of the environments and, last, of the rows that are nobody's. [max_envs + 1, S] float32
        count = layout.max_envs + 1
        self._agent_states = torch.zeros(count, layout.state_size, device=self._device)
        # [max_envs + 1] bool and float32
        self._evaluation = torch.zeros(count, dtype=torch.bool, device=self._device)
        self._evaluation[:-1] = torch.from_numpy(store.evaluation)
        self._fleet_places = torch.zeros(count, device=self._device)
        # [] int32
        self._version = torch.zeros((), dtype=torch.int32, device=self._store_device)
        self._make_buffers(max_batch)
        self._blocks: dict[int, _Block] = {}

    def _make_buffers(self, max_batch: int) -> None:
        """Memory for the largest batch, on the host and, where that is a GPU, on the store's."""
        layout = self._store.layout

        def on_host(form: Column, rows: int = max_batch) -> Tensor:
            return torch.zeros(rows, *form.shape, dtype=form.dtype, pin_memory=self._staged)

        numbers = on_host(Column((3 + places_size(layout),), torch.int64)).view(-1)
        rewards = on_host(Column((), torch.float32))
        observations = on_host(layout.observation, max_batch * self._staged)
        # [max_batch * (3 + places)] int64, [max_batch] float32, [max_batch, *shape]
        self._host = (numbers, rewards, observations)
        self._on_device = tuple(
            torch.zeros_like(host, device=self._store_device) if self._staged else host
            for host in self._host
        )
        self._actions = on_host(layout.action)  # [max_batch, *shape]

    def _block(self, size: int) -> _Block:
        """The buffers' parts for batches of this size, padding included."""
        if size in self._blocks:
            return self._blocks[size]
        layout = self._store.layout
        ends = ((3 + places_size(layout)) * size, size, size)
        host = [buffer[:end] for buffer, end in zip(self._host, ends, strict=True)]
        device = [buffer[:end] for buffer, end in zip(self._on_device, ends, strict=True)]
        numbers, host_numbers = device[0], host[0].numpy()
        self._blocks[size] = _Block(
            numbers=numbers[: 3 * size].view(3, size),
            places=split_places(numbers[3 * size :], layout),
            rewards=device[1],
            observations=device[2],
            host_numbers=host_numbers[: 3 * size].reshape(3, size),
            host_places=split_places(host_numbers[3 * size :], layout),
            host_rewards=host[1].numpy(),
            host_observations=host[2].numpy(),
            actions=self._actions[:size],
            copies=list(zip(device, host, strict=True)) if self._staged else [],
            step=Graph(
                partial(self._step, size), self._device,
                capture=self._captured, field="inference.cuda_graphs",
            ),
        )  # fmt: skip
        return self._blocks[size]

    def enter_thread(self, threads: int) -> None:
        """Prepares the calling thread, the only one that may use this object from here on."""
        for device in dict.fromkeys((self._store_device, self._device)):
            prepare_thread(device, threads, urgent=True)

    def load_weights(self, weights: Weights) -> None:
        """Acts with these weights from the next batch on."""
        load_tensors(self._agent, weights.tensors)
        if self._device.type == "cuda":
            # The learner's copies may be freed once we return, and are read on this stream.
            torch.cuda.current_stream(self._device).synchronize()
        self.policy_version = weights.version
        self._version.fill_(weights.version)

    def set_connected(self, env_ids: Int64Array) -> None:
        """From the next batch on, these environments are the fleet. `[num_envs] int64`"""
        places = fleet_places(env_ids, self._store.evaluation)
        self._fleet_places[:-1] = torch.from_numpy(places)

    def run(self, steps: Sequence[GroupStep]) -> tuple[npt.NDArray[Any], list[PageLinks]]:
        """Stores the rows of these groups and chooses their actions.

        The groups' environments are all different and the store has room for them.

        Returns:
            The actions `[n, *shape]`, in the order of the groups, and the pages that are now whole;
            the device has finished with both.
        """
        # A learner that captures, too, could not touch random numbers that were captured in
        # inference mode (pytorch issue 166792).
        with torch.no_grad() if self._captured else torch.inference_mode():
            return self._run(steps)

    def _run(self, steps: Sequence[GroupStep]) -> tuple[npt.NDArray[Any], list[PageLinks]]:
        self.phases.enter("store")
        env_ids = np.concatenate([step.env_ids for step in steps])
        run_ids = np.concatenate([step.arrays.run_ids for step in steps])
        flags = np.concatenate([step.arrays.flags for step in steps])  # [n] uint8
        n = len(env_ids)
        block = self._block(self._sizes[bisect.bisect_left(self._sizes, n)])
        first = (flags & wire.FIRST) != 0
        complete = self._store.place(env_ids, run_ids, first, block.host_places)
        self._land(steps, env_ids, flags, block)
        for device, host in block.copies:
            device.copy_(host, non_blocking=True)
        block.step()
        if self._staged:
            # By then all is in the store, too.
            torch.cuda.current_stream(self._store_device).synchronize()
        # A copy, as the next batch overwrites the buffer.
        return block.actions.numpy()[:n].copy(), complete

    def _land(
        self,
        steps: Sequence[GroupStep],
        env_ids: Int64Array,
        flags: npt.NDArray[np.uint8],
        block: _Block,
    ) -> None:
        """Copies what came in messages into the block; observations perhaps straight to the store.

        Rows beyond those that came are of no environment.
        """
        n, numbers = len(env_ids), block.host_numbers
        numbers[0, :n], numbers[0, n:] = env_ids, self._store.layout.max_envs
        numbers[1, :n], numbers[2, :n] = flags & wire.TERMINATED, flags & wire.TRUNCATED
        numbers[1:, n:] = 0
        np.concatenate([step.arrays.rewards for step in steps], out=block.host_rewards[:n])
        block.host_rewards[n:] = 0
        end = 0
        for step in steps:
            start, end = end, end + len(step.env_ids)
            if self._staged:
                block.host_observations[start:end] = step.arrays.observations
            else:
                rows = block.host_places.rows[start:end]
                self._store.put_observations(rows, step.arrays.observations)

    def _step(self, size: int) -> None:
        """The device's work for one batch; what is captured."""
        block, store = self._blocks[size], self._store
        terminated, truncated = (block.numbers[1:] != 0).unbind()
        observations = block.observations if self._staged else None
        arrived = Arrived(observations, block.rewards, terminated, truncated)
        store.fill(block.places, arrived)
        rows = self._move(store.seen(block.places, arrived), self._device)
        self.phases.enter("forward")
        acted, before = self._act(rows, self._move(block.numbers[0], self._device))
        actions, behaviour, before = (
            self._move(value, self._store_device)
            for value in (acted.actions, acted.behaviour, before)
        )
        self.phases.enter("store")
        store.write_acts(block.places, actions, behaviour, before, self._version)
        block.actions.copy_(actions, non_blocking=True)

    def _act(self, rows: Rows, envs: Tensor) -> tuple[Acted, Tensor]:
        """What the agent does at these rows, and the recurrent state before them `[n, S]`."""
        before = self._agent_states.index_select(0, envs)
        before = before.masked_fill(rows.first[0][:, None], 0.0)
        fleet = Fleet(
            self._fleet_places.index_select(0, envs), self._evaluation.index_select(0, envs)
        )
        acted = self._algorithm.act(
            self._agent, rows, before, self._config, fleet=fleet, greedy=self._greedy
        )
        self._agent_states.index_copy_(0, envs, acted.agent_state)
        return acted, before

    def _move(self, value: Any, device: torch.device) -> Any:
        return move(value, device) if self._apart else value


def bucket_sizes(max_batch: int) -> Sequence[int]:
    """Sizes to which batches are filled up: powers of two, and the largest batch."""
    powers = (2**k for k in range(max_batch.bit_length()))
    return [*(size for size in powers if size < max_batch), max_batch]
