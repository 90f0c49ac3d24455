"""A Hugging Face Hub on this machine's loopback interface, for real clients to publish to and download from."""

from .server import LoopbackHub

__all__ = ["LoopbackHub"]
