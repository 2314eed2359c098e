"""V-trace targets (Espeholt et al. 2018, "IMPALA", section 4.1)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from seed.ops.decayed_sums import decayed_sums
from seed.ops.shapes import check_with_bootstrap


class VtraceReturns(NamedTuple):
    """What `vtrace` returns: constants for the losses, both [T, B] float32.

    vs: the value targets v_s.
    pg_advantages: the policy-gradient advantages, already times the clipped rho.
    """

    vs: Tensor
    pg_advantages: Tensor


def vtrace(
    log_rhos: Tensor,
    discounts: Tensor,
    rewards: Tensor,
    values: Tensor,
    bootstrap_value: Tensor,
    *,
    clip_rho: float = 1.0,
    clip_pg_rho: float = 1.0,
    lambda_: float = 1.0,
) -> VtraceReturns:
    """Return the V-trace value targets and policy-gradient advantages, without gradient.

    With rho_t = min(clip_rho, pi/mu), c_t = lambda_ * min(1, pi/mu) and
    delta_t = rho_t (r_t + discount_t V_{t+1} - V_t):

        v_s = V_s + sum_{t >= s} (prod_{s <= i < t} discount_i c_i) delta_t
        pg_advantage_t = min(clip_pg_rho, pi/mu) (r_t + discount_t v_{t+1} - V_t)

    where V_T and v_T are both the bootstrap value.

    log_rhos: [T, B], log(pi/mu) of the actions taken.
    discounts, rewards: [T, B], those that follow action t; a discount of 0 ends an episode.
    values: [T, B], the learner's value of observation t.
    bootstrap_value: [B], the learner's value of the observation after the last action.
    clip_rho, clip_pg_rho: bounds above 0; `math.inf` means no clipping, and then a ratio that
    overflows float32 (log_rho over 88) gives infinite targets.
    lambda_: in [0, 1]; 1 is the paper's V-trace.

    Raises ValueError on shapes or bounds other than these.
    """
    named = {
        "log_rhos": log_rhos, "discounts": discounts, "rewards": rewards, "values": values,
    }  # fmt: skip
    check_with_bootstrap(named, bootstrap_value)
    _check_bounds(clip_rho, clip_pg_rho, lambda_)
    with torch.no_grad():
        rhos = log_rhos.exp()  # [T, B] float32
        next_values = torch.cat([values[1:], bootstrap_value[None]])  # [T, B] float32
        deltas = rhos.clamp(max=clip_rho) * (rewards + discounts * next_values - values)
        decays = discounts * (lambda_ * rhos.clamp(max=1.0))  # [T, B] float32
        vs = values + decayed_sums(deltas, decays)
        next_vs = torch.cat([vs[1:], bootstrap_value[None]])  # [T, B] float32
        pg_advantages = rhos.clamp(max=clip_pg_rho) * (rewards + discounts * next_vs - values)
    return VtraceReturns(vs, pg_advantages)


def _check_bounds(clip_rho: float, clip_pg_rho: float, lambda_: float) -> None:
    for name, bound in {"clip_rho": clip_rho, "clip_pg_rho": clip_pg_rho}.items():
        if not bound > 0:
            raise ValueError(f"{name} must be above 0, got {bound}; use math.inf for no clipping")
    if not 0 <= lambda_ <= 1:
        raise ValueError(f"lambda_ must be from 0 to 1, got {lambda_}; 1 is the paper's V-trace")
