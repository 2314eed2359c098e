"""Training of Atari Pong beside other libraries; what runs in their Python needs nothing else."""
