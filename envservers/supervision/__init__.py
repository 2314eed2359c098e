"""What keeps environment servers alive, and says why they died.

Owns the server's process, its restarts and what it leaves behind. The supervisor runs in a process
of its own, which imports no environment. It gives out exit codes, and the state that supervisor
and server share.
"""
