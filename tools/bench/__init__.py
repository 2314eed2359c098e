"""Measurements of single parts; each module is a command of its own."""
