"""Training of Atari Pong beside other libraries, in turns on the same cores.

    python -m tools.bench.peers --peer stable-baselines3=VENV/bin/python ...

`starts` says which peers there are and how each is started. `marks` and the modules named after
peers run in the peer's Python, so this package itself and `marks` need the standard library only.
"""
