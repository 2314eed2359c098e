"""From an observation on the socket to its action: receive, decide, batch, forward, reply.

Owns the sessions, the STEPs that wait and the acting network's state. Everything here runs in the
inference thread; only `loop` touches the socket or the clock. It gives complete unrolls to the
store, and records to the metrics.
"""
