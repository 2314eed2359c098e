"""One run of `seed-learner` or `seed-eval`, from its configuration to its exit code.

Owns the run's folder, the local environment servers' processes, the metrics and the display, and
builds all other parts. Everything here runs in the main thread. It gives out the two commands'
`main`, and nobody imports it.
"""
