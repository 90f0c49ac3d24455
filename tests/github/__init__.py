"""A stand-in for the little of GitHub that the pipeline asks: GitHub itself is far away, and this is not it."""

from .server import FakeGitHub

__all__ = ["FakeGitHub"]
