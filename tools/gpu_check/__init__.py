"""Whether this project works and is fast on a GPU: the first thing to run where one is at hand."""
