"""What the formulas over time refuse: tensors that are not of one shape, time first."""

from __future__ import annotations

from torch import Tensor


def check_time_batch(named: dict[str, Tensor], hint: str) -> tuple[int, ...]:
    """The shape [T, B] that all of these tensors have.

    Args:
        named: By the name of the argument; the first one says what the others must be.
        hint: What to pass, for the error about one of another shape.

    Raises:
        ValueError: where the first has not two dimensions and a row, or another one differs.
    """
    (first, tensor), *others = named.items()
    shape = tuple(tensor.shape)
    if len(shape) != 2 or shape[0] < 1:
        raise ValueError(
            f"{first} must be [T, B] with T at least 1, got shape {shape}; "
            "put time first and the batch second"
        )
    for name, other in others:
        if tuple(other.shape) != shape:
            raise ValueError(
                f"{name} must have {first}' shape {shape}, got {tuple(other.shape)}; {hint}"
            )
    return shape


def check_with_bootstrap(named: dict[str, Tensor], bootstrap_value: Tensor) -> None:
    """The same, and a value `[B]` for what comes after the last row; raises ValueError."""
    shape = check_time_batch(named, "pass T rows of each, and row T only as bootstrap_value")
    if tuple(bootstrap_value.shape) != shape[1:]:
        raise ValueError(
            f"bootstrap_value must be [B] = {shape[1:]}, got {tuple(bootstrap_value.shape)}; "
            "pass the value of the observation after the last action"
        )
