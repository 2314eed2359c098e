"""One file per algorithm; `seed.algorithms.contract` says what such a file exports."""
