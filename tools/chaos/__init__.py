"""A real training under faults: killed, stopped, cut off, slowed down, corrupted, replayed."""
