"""What a marked environment writes in front of each observation: whose row it is, and which one."""

HISTORY = 0
"""A number drawn anew whenever the environment's history breaks: environment server,
environment of that server, and random bits."""
ROW = 1
"""The row's number in its history, from 0."""
EPISODE_ROW = 2
"""The row's number in its episode, from 0."""
LED_HERE = 3
"""The action that led here; -1 in the first row of an episode."""
REWARD = 4
"""The reward that arrived with the row; a whole number."""
MADE_US = 5
"""When the row was made: microseconds of the machine's monotonic clock since the measurement's
start."""
NUM_MARKS = 6

SERVER_SHIFT = 48
"""Bits of a history's number below those of its environment server's number."""
ENV_SHIFT = 32
"""Bits of a history's number below those of its environment's number, which are random."""
SERVER_VARIABLE = "SEED_CHAOS_SERVER"
"""The variable of the process's environment that numbers an environment server, from 0."""

WRONG = "wrong unroll: "
"""The learner's log has a line with this for each wrong unroll; JSON follows."""
