"""What a run may be told: the fields, where they are read from, and what is refused.

Owns the schema. The main thread reads it once, before there is anything else. It gives out one
`Config`, checked and complete, and `ConfigError` with what was expected, what came and what to do.
"""
