"""One batch through the network: rows into the store, actions out, all on the device."""

from __future__ import annotations

import bisect
import contextlib
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from seed.contract import ActOutput, Algorithm, Fleet
from seed.device.graphs import CapturedCall
from seed.device.names import prepare_thread
from seed.device.transfer import move
from seed.inference.batcher import GroupRows, InferenceBatch
from seed.inference.buffers import BatchBuffers, DeviceBatch, HostBatch
from seed.process.phases import Phases
from seed.store.fleet import fleet_positions
from seed.store.pages import PageLinks
from seed.store.rows import PLAIN_PART, Rows
from seed.store.unrolls import UnrollStore
from seed.store.weights import Weights, load_tensors
from seed.wire import messages
from seed.wire.arrays import Int64Array

# A row each for what becomes `terminated` and `truncated`.
_ENDS = np.array([[messages.TERMINATED], [messages.TRUNCATED]], np.uint8)
_TERMINATED_OR_TRUNCATED = slice(0, 2)
_FIRST, _EVALUATION = 2, 3


class ForwardPass:
    """The acting copy of the network with every environment's recurrent state.

    Owned by the inference thread. A store on the CPU gets observations straight from the messages,
    except those of evaluation environments that are in no stack: nobody reads them there.
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
        self._spared = bool(store.evaluation.any())
        self._captured = cuda_graphs and self._staged and not self._apart
        self._sizes = bucket_sizes(max_batch) if self._captured else range(max_batch + 1)
        # Of the environments and, last, of the rows that are nobody's. [max_envs + 1, S] float32
        count = layout.max_envs + 1
        self._agent_states = torch.zeros(count, layout.state_size, device=self._device)
        # Likewise. [max_envs + 1] bool and float32
        self._evaluation = np.append(store.evaluation, False)
        self._fleet_positions = np.zeros(count, np.float32)
        # [] int32
        self._version = torch.zeros((), dtype=torch.int32, device=self._store_device)
        self._buffers = BatchBuffers(layout, max_batch, self._store_device)
        self._device_batches: dict[int, tuple[DeviceBatch, CapturedCall[None]]] = {}

    def _device_batch(self, rows: int) -> tuple[DeviceBatch, CapturedCall[None]]:
        """The memory of batches of so many rows or a few more, and what runs such a batch."""
        size = self._sizes[bisect.bisect_left(self._sizes, rows)]
        if size not in self._device_batches:
            batch = self._buffers.batch(size)
            call = CapturedCall(
                partial(self._step, batch), self._device,
                capture=self._captured, field="inference.cuda_graphs",
            )  # fmt: skip
            self._device_batches[size] = batch, call
        return self._device_batches[size]

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
        self._fleet_positions[:-1] = fleet_positions(env_ids, self._store.evaluation)

    def run(
        self, batch: InferenceBatch, start: int | None = None
    ) -> tuple[npt.NDArray[Any], list[PageLinks]]:
        """Stores the rows of this batch, for which the store has room, and chooses their actions.

        Histories that begin do so at row `start` of a page; None for each environment's own.

        Returns:
            The actions `[n, *shape]`, in the order of the rows, and the pages that are now whole;
            the device has finished with both.
        """
        with self._without_gradient():
            memory, call = self._device_batch(len(batch.env_ids))
            complete = self._allocate(memory, batch, start)
            return self._act_on(memory, call, batch), complete

    def store(self, batch: InferenceBatch, start: int | None = None) -> list[PageLinks]:
        """As `run`, without actions, which `act` chooses later; returns the pages now whole."""
        with self._without_gradient():
            memory, _ = self._device_batch(len(batch.env_ids))
            complete = self._allocate(memory, batch, start)
            self._bring(memory, batch)
            self._store.write_arrivals(memory.row_index, memory.arrived)
            self._store.clear_actions(memory.row_index)
            self._wait_for_device()
            return complete

    def act(self, batch: InferenceBatch) -> npt.NDArray[Any]:
        """Chooses actions `[n, *shape]` for rows that are stored, the newest of their histories."""
        with self._without_gradient():
            self.phases.enter("store")
            memory, call = self._device_batch(len(batch.env_ids))
            self._store.locate_rows(batch.env_ids, memory.host.row_index)
            return self._act_on(memory, call, batch)

    def _without_gradient(self) -> contextlib.AbstractContextManager[object]:
        # A learner that captures, too, could not touch random numbers that were captured in
        # inference mode (pytorch issue 166792).
        return torch.no_grad() if self._captured else torch.inference_mode()

    def _allocate(
        self, memory: DeviceBatch, batch: InferenceBatch, start: int | None
    ) -> list[PageLinks]:
        """Finds places for new rows; returns the pages that are whole once they are written."""
        self.phases.enter("store")
        first = (batch.flags & messages.FIRST) != 0
        return self._store.allocate_rows(
            batch.env_ids, batch.run_ids, first, memory.host.row_index, start
        )

    def _act_on(
        self, memory: DeviceBatch, call: CapturedCall[None], batch: InferenceBatch
    ) -> npt.NDArray[Any]:
        """Stores the rows where they have their places, and chooses their actions."""
        self._bring(memory, batch)
        call()
        self._wait_for_device()
        # A copy, as the next batch overwrites the buffer.
        return memory.actions.numpy()[: len(batch.env_ids)].copy()

    def _bring(self, memory: DeviceBatch, batch: InferenceBatch) -> None:
        """Brings what has arrived to where the device finds it."""
        self._fill(memory.host, batch)
        self._copy_observations(memory.host, batch.steps)
        for device, host in memory.copies:
            device.copy_(host, non_blocking=True)

    def _wait_for_device(self) -> None:
        if self._staged:
            # By then all is in the store, too.
            torch.cuda.current_stream(self._store_device).synchronize()

    def _fill(self, host: HostBatch, batch: InferenceBatch) -> None:
        """Fills in all but observations. Rows beyond the batch's are of no environment, and any."""
        n = len(batch.env_ids)
        host.env_ids[:n] = batch.env_ids
        ended = batch.flags & _ENDS  # [2, n] uint8
        np.not_equal(ended, 0, out=host.marks[_TERMINATED_OR_TRUNCATED, :n])
        np.concatenate([step.arrays.rewards for step in batch.steps], out=host.rewards[:n])
        host.env_ids[n:] = self._store.layout.max_envs
        np.equal(host.row_index.ages, 0, out=host.marks[_FIRST])
        # "clip" writes to `out` without a buffer between; no number is out of range.
        self._evaluation.take(host.env_ids, out=host.marks[_EVALUATION], mode="clip")
        self._fleet_positions.take(host.env_ids, out=host.fleet_positions, mode="clip")

    def _copy_observations(self, host: HostBatch, steps: Sequence[GroupRows]) -> None:
        """Copies observations out of their messages, and into a store on the CPU."""
        end = 0
        for step in steps:
            start, end = end, end + len(step.env_ids)
            parts = {PLAIN_PART: step.arrays.observations}
            for part, observations in parts.items():
                rows, landing = host.row_index.rows[start:end], host.observations.get(part)
                if landing is not None:
                    landing[start:end] = observations
                if self._staged:
                    continue
                if self._spared and landing is not None:
                    # What only the network sees, which has seen it then, need not be kept.
                    kept = ~host.marks[_EVALUATION, start:end]
                    if not np.count_nonzero(kept):
                        continue
                    if not kept.all():
                        rows, observations = rows[kept], observations[kept]
                self._store.write_observations(part, rows, observations)

    def _step(self, batch: DeviceBatch) -> None:
        """The device's work for one batch; what is captured."""
        self._store.write_arrivals(batch.row_index, batch.arrived)
        self._store.read_inputs(batch.row_index, batch.rows)
        rows, env_ids, fleet = (
            self._move(value) for value in (batch.rows, batch.env_ids, batch.fleet)
        )
        self.phases.enter("forward")
        acted, before = self._act(rows, env_ids, fleet)
        actions, behaviour, before = (
            self._move_back(value) for value in (acted.actions, acted.behaviour, before)
        )
        self.phases.enter("store")
        self._store.write_actions(batch.row_index, actions, behaviour, before, self._version)
        batch.actions.copy_(actions, non_blocking=True)

    def _act(self, rows: Rows, env_ids: Tensor, fleet: Fleet) -> tuple[ActOutput, Tensor]:
        """What the agent does at these rows, and the recurrent state before them `[n, S]`."""
        if self._store.layout.state_size:
            before = self._agent_states.index_select(0, env_ids)
            before = before.masked_fill(rows.first[0][:, None], 0.0)
        else:
            before = self._agent_states.new_zeros(len(env_ids), 0)
        acted = self._algorithm.act(
            self._agent, rows, before, self._config, fleet=fleet, greedy=self._greedy
        )
        if self._store.layout.state_size:
            self._agent_states.index_copy_(0, env_ids, acted.agent_state)
        return acted, before

    def _move(self, value: Any) -> Any:
        return move(value, self._device) if self._apart else value

    def _move_back(self, value: Any) -> Any:
        return move(value, self._store_device) if self._apart else value


def bucket_sizes(max_batch: int) -> Sequence[int]:
    """Sizes to which batches are filled up: powers of two, and the largest batch."""
    powers = (2**k for k in range(max_batch.bit_length()))
    return [*(size for size in powers if size < max_batch), max_batch]
