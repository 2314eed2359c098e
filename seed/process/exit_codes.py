"""With which codes the central commands end, and the errors that carry them.

What each code asks of whoever started the command is in docs/reliability.md.
"""

from __future__ import annotations

EXIT_DONE, EXIT_FAILED, EXIT_REFUSED = 0, 1, 2
EXIT_PREEMPTED, EXIT_DIVERGED, EXIT_NO_CHECKPOINT = 75, 77, 78
EXIT_INTERRUPTED = 130


class CommandError(Exception):
    """Ends the command with one line, its text, for whoever started it.

    Attributes:
        exit_code: What the command returns.
    """

    exit_code = EXIT_REFUSED
