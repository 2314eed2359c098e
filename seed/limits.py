"""Numbers that both sides of the wire know. Importing them costs nothing else."""

PROTOCOL_VERSION = 2
MAX_HEADER_BYTES = 4096
MAX_GROUPS = 64
MAX_ENVS_PER_SERVER = 65_536
MAX_TRACEBACK_BYTES = 8192
