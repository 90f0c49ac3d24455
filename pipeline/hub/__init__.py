"""Talking to the Hub: a client that never waits for ever, tries again where that helps, and says what went wrong."""

from pipeline.hub.ask import ask
from pipeline.hub.client import api, reader

__all__ = ["api", "ask", "reader"]
