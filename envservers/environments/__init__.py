"""Groups of environments that are stepped together, whatever library they come from.

Owns the environments themselves, and makes those anew that fail. Everything here runs in an
environment server's main thread or in the environments' own worker processes. It gives out rows:
observations, rewards, flags and finished episodes.
"""

from envservers.environments.factory import describe, make_group

__all__ = ["describe", "make_group"]
