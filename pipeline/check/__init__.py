"""What is held against a model and its files before anything is published: one module a kind of check.

Each is a function from artifacts to verdicts. Everything is judged against the source or the reference: what the file
of a model alone can say comes first, then what converting must have kept of the source, then what quantizing must have
kept of the reference.
"""

VERSION = 2
"""Raised when a check sees more than it did: what was checked is then checked again."""
