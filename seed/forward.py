"""One batch through the network: rows into the store, actions out, all on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from seed import wire
from seed.contract import Algorithm
from seed.devices import prepare_thread
from seed.pages import PageLinks
from seed.unrolls import Arrived, UnrollStore
from seed.weights import Weights, load_tensors


@dataclass(frozen=True)
class GroupStep:
    """One checked STEP and the environments that it is about.

    Attributes:
        env_ids: `[n] int64`
        arrays: What arrived, `[n, ...]` each.
    """

    env_ids: npt.NDArray[np.int64]
    arrays: wire.StepArrays


class ForwardPass:
    """The acting copy of the network with every environment's recurrent state.

    Owned by the inference thread. Rows are staged in pinned host memory, copied to the device once
    and written to the store once.
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
    ) -> None:
        """The agent is this object's own from here on; it acts with `policy_version` 0."""
        layout = store.layout
        self.policy_version = 0
        self._algorithm = algorithm
        self._config = algorithm_config
        self._agent = agent
        self._store = store
        self._greedy = greedy
        self._device = store.device
        # [max_envs, S] float32
        self._agent_states = torch.zeros(layout.max_envs, layout.state_size, device=self._device)
        pinned = self._device.type == "cuda"
        observation = layout.observation
        # [max_batch, *shape]
        self._observations = torch.empty(
            max_batch, *observation.shape, dtype=observation.dtype, pin_memory=pinned
        )
        # [max_batch] each
        self._rewards = torch.empty(max_batch, dtype=torch.float32, pin_memory=pinned)
        self._flags = torch.empty(max_batch, dtype=torch.uint8, pin_memory=pinned)

    def enter_thread(self, threads: int) -> None:
        """Prepares the calling thread, the only one that may use this object from here on."""
        prepare_thread(self._device, threads, urgent=True)

    def load_weights(self, weights: Weights) -> None:
        """Acts with these weights from the next batch on."""
        load_tensors(self._agent, weights.tensors)
        if self._device.type == "cuda":
            # The learner's copies may be freed once we return, and are read on this stream.
            torch.cuda.current_stream(self._device).synchronize()
        self.policy_version = weights.version

    @torch.inference_mode()
    def run(self, steps: Sequence[GroupStep]) -> tuple[npt.NDArray[Any], list[PageLinks]]:
        """Stores the rows of these groups and chooses their actions.

        The groups' environments are all different and the store has room for them.

        Returns:
            The actions `[n, *shape]`, in the order of the groups, and the pages that are now whole;
            the device has finished with both.
        """
        env_ids = np.concatenate([step.env_ids for step in steps])
        run_ids = np.concatenate([step.arrays.run_ids for step in steps])
        flags = np.concatenate([step.arrays.flags for step in steps])
        first = (flags & wire.FIRST) != 0
        new, rows = self._store.write(env_ids, run_ids, first, self._arrive(steps, flags))
        envs = torch.from_numpy(env_ids).to(self._device)
        before = self._agent_states.index_select(0, envs)
        before = before.masked_fill(rows.first[0][:, None], 0.0)
        acted = self._algorithm.act(self._agent, rows, before, self._config, greedy=self._greedy)
        self._agent_states.index_copy_(0, envs, acted.agent_state)
        self._store.write_acts(new, acted.actions, acted.behaviour, before, self.policy_version)
        return acted.actions.cpu().numpy(), new.complete

    def _arrive(self, steps: Sequence[GroupStep], flags: npt.NDArray[np.uint8]) -> Arrived:
        """Stages what arrived and starts its way to the device."""
        end = 0
        for step in steps:
            start, end = end, end + len(step.env_ids)
            self._observations[start:end].numpy()[...] = step.arrays.observations
            self._rewards[start:end].numpy()[...] = step.arrays.rewards
        self._flags[:end].numpy()[...] = flags

        def to_device(staged: Tensor) -> Tensor:
            return staged[:end].to(self._device, non_blocking=True)

        on_device = to_device(self._flags)
        return Arrived(
            observations=to_device(self._observations),
            rewards=to_device(self._rewards),
            terminated=(on_device & wire.TERMINATED) != 0,
            truncated=(on_device & wire.TRUNCATED) != 0,
        )
