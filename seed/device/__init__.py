"""Where tensors are computed on: devices by name, their memory, and CUDA graphs.

Owns no state but the lock that captures of graphs share. Any thread that computes calls it. It
gives out `torch.device`s, and captured calls to replay.
"""
