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
from seed.contract import Algorithm, Fleet
from seed.devices import move, prepare_thread
from seed.fleet import fleet_places
from seed.pages import PageLinks
from seed.rows import Arrived
from seed.unrolls import UnrollStore
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

    Owned by the inference thread. Rows are staged in pinned host memory, copied to the store's
    device once and written to the store once. Acting takes place where the agent's weights are;
    what it sees and leaves behind is moved there and back where that is another device.
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
        """The agent is this object's own from here on; it acts with `policy_version` 0.

        No environment is connected yet.
        """
        layout = store.layout
        self.policy_version = 0
        self._algorithm = algorithm
        self._config = algorithm_config
        self._agent = agent
        self._store = store
        self._greedy = greedy
        # A tensor's own device: "cuda" and "cuda:0" are one device, but not equal.
        self._store_device = torch.empty(0, device=store.device).device
        self._device = next((p.device for p in agent.parameters()), self._store_device)
        self._apart = self._device != self._store_device
        # [max_envs, S] float32
        self._agent_states = torch.zeros(layout.max_envs, layout.state_size, device=self._device)
        # [max_envs] bool and float32
        self._evaluation = torch.from_numpy(store.evaluation).to(self._device)
        self._places = torch.zeros(layout.max_envs, device=self._device)
        pinned = self._store_device.type == "cuda"
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
        for device in dict.fromkeys((self._store_device, self._device)):
            prepare_thread(device, threads, urgent=True)

    def load_weights(self, weights: Weights) -> None:
        """Acts with these weights from the next batch on."""
        load_tensors(self._agent, weights.tensors)
        if self._device.type == "cuda":
            # The learner's copies may be freed once we return, and are read on this stream.
            torch.cuda.current_stream(self._device).synchronize()
        self.policy_version = weights.version

    def set_connected(self, env_ids: npt.NDArray[np.int64]) -> None:
        """From the next batch on, these environments are the fleet. `[num_envs] int64`"""
        places = fleet_places(env_ids, self._store.evaluation)
        self._places = torch.from_numpy(places).to(self._device)

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
        rows = self._move(rows, self._device)
        before = self._agent_states.index_select(0, envs)
        before = before.masked_fill(rows.first[0][:, None], 0.0)
        fleet = Fleet(self._places[envs], self._evaluation[envs])
        acted = self._algorithm.act(
            self._agent, rows, before, self._config, fleet=fleet, greedy=self._greedy
        )
        self._agent_states.index_copy_(0, envs, acted.agent_state)
        actions, behaviour, before = (
            self._move(value, self._store_device)
            for value in (acted.actions, acted.behaviour, before)
        )
        self._store.write_acts(new, actions, behaviour, before, self.policy_version)
        # Coming from the store's device, these arrive after all that was written to the store.
        return actions.cpu().numpy(), new.complete

    def _move(self, value: Any, device: torch.device) -> Any:
        return move(value, device) if self._apart else value

    def _arrive(self, steps: Sequence[GroupStep], flags: npt.NDArray[np.uint8]) -> Arrived:
        """Stages what arrived and starts its way to the store's device."""
        end = 0
        for step in steps:
            start, end = end, end + len(step.env_ids)
            self._observations[start:end].numpy()[...] = step.arrays.observations
            self._rewards[start:end].numpy()[...] = step.arrays.rewards
        self._flags[:end].numpy()[...] = flags

        def to_device(staged: Tensor) -> Tensor:
            return staged[:end].to(self._store_device, non_blocking=True)

        on_device = to_device(self._flags)
        return Arrived(
            observations=to_device(self._observations),
            rewards=to_device(self._rewards),
            terminated=(on_device & wire.TERMINATED) != 0,
            truncated=(on_device & wire.TRUNCATED) != 0,
        )
