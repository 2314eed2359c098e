"""Formulas, each with its paper: pure functions of tensors that import torch only."""
