"""The four ways in which a check ends, each a `Verdict`."""

from __future__ import annotations

from pipeline.result import Verdict


def passed(check: str, seen: str) -> Verdict:
    return Verdict(check=check, outcome="pass", seen=seen)


def warned(check: str, seen: str, advice: str) -> Verdict:
    return Verdict(check=check, outcome="warn", seen=seen, advice=advice)


def failed(check: str, seen: str, advice: str) -> Verdict:
    return Verdict(check=check, outcome="fail", seen=seen, advice=advice)


def skipped(check: str, why: str) -> Verdict:
    return Verdict(check=check, outcome="skip", seen=why)
