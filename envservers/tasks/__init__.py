"""Small tasks that prove learning, in pure NumPy."""
