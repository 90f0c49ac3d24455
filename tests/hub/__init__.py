"""A Hugging Face Hub on this machine's loopback interface, for the real client to talk to."""

from .server import LoopbackHub

__all__ = ["LoopbackHub"]
