"""What both sides of the wire share: messages and their bytes, spaces, keys, limits.

Importing the package loads none of its modules: the supervisor needs the limits alone.
"""
