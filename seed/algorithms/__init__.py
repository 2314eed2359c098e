"""One file per algorithm; `seed.contract` says what such a file exports."""
