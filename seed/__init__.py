"""The central process: batched inference, the store of unrolls, and learning."""

__version__ = "0.1.0"
