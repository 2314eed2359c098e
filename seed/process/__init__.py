"""What any process that runs for long needs, with no reinforcement learning in it.

Owns how signals, threads that end, stalls, freed memory, logs and plain files are dealt with. The
main thread calls most of it. It gives out small objects that import neither torch nor a
configuration.
"""
