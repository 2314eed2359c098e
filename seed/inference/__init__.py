"""From an observation on the socket to its action: receive, batch, forward, reply.

Owns the sessions, the batches that wait and the acting network's state. Everything here runs in
the inference thread. It gives complete unrolls to the store, and records to the metrics.
"""
