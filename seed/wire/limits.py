"""Numbers and names that both sides know. Importing them costs nothing else."""

PROTOCOL_VERSION = 2
MAX_HEADER_BYTES = 4096
# Deeper maps and lists are no message, and to print one may take more stack than there is.
MAX_NESTING = 8
# No message of the protocol has as many frames.
MOST_FRAMES = 8
MAX_GROUPS = 64
MAX_ENVS_PER_SERVER = 65_536
MAX_OBSERVATION_BYTES = 16 * 1024 * 1024
MAX_TRACEBACK_BYTES = 8192
# Tells an environment server the process id of who has started it, in its environment.
STARTER_VARIABLE = "SEED_STARTER_PID"
