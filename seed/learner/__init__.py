"""From complete unrolls to new weights: batch, gradient, step, checkpoint.

Owns the optimizer, the replay and the checkpoints. Everything here runs in the learner thread,
whose loop is loop.py. It gives weights to inference through the store's `WeightSlot`, and records
to the metrics. The learning rate falls in optimizers.py.
"""
