"""`make zoo`: every broken file and every good one through the gate, and through llama.cpp's own check beside it.

Ends with 1 where the gate catches less than 95 % of the broken files by their names, or stops a good one.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from machine import opened, pinned

from pipeline.errors import ToolchainError
from zoo import good, imatrices, quants, releases, speech, upstream, weights  # noqa: F401 - they register specimens
from zoo.kit import open_kit
from zoo.specimen import SPECIMENS, named

if TYPE_CHECKING:
    from zoo.kit import Kit
    from zoo.specimen import Subject

WANTED = 0.95


def main() -> int:
    toolchain = pinned()
    with opened(toolchain) as store, tempfile.TemporaryDirectory(prefix="llm-quantizer-zoo-") as room:
        return report(open_kit(store, toolchain, Path(room)))


def report(kit: Kit) -> int:
    total, caught, rightly, theirs = Counter(), Counter(), Counter(), Counter()
    for specimen in SPECIMENS:
        began = time.monotonic()
        subject = specimen.make(kit)
        failures = [verdict for verdict in subject.gate() if verdict.outcome == "fail"]
        said = named(specimen, failures)
        other = upstream_says(kit, subject)
        total[specimen.kind] += 1
        caught[specimen.kind] += bool(failures)
        rightly[specimen.kind] += said is not None
        theirs[specimen.kind] += bool(other)
        outcome = "caught" if said else "CAUGHT FOR ANOTHER REASON" if failures else "MISSED"
        print(f"{specimen.kind}: {specimen.name}: {outcome} ({time.monotonic() - began:.1f} s); {specimen.incident}")
        for verdict in failures:
            print(f"    {verdict.check}: {verdict.seen[:300]}")
        print(f"    llama.cpp's check: {other or 'passed' if subject.file else 'there is nothing to load'}", flush=True)
        kit.clear()
    count, alarms, theirs_alarms, real = 0, [], [], 0
    for file in good.files(kit):
        began = time.monotonic()
        found = file.gate()
        failures = [verdict for verdict in found if verdict.outcome == "fail"]
        count += 1
        print(f"good: {file.name}: {'FALSE ALARM' if failures else 'passed'} ({time.monotonic() - began:.1f} s)")
        for verdict in found:
            if verdict.outcome in ("fail", "warn"):
                print(f"    {verdict.outcome}: {verdict.check}: {verdict.seen[:300]}", flush=True)
        alarms += [file.name] * bool(failures)
        if file.real:
            real += 1
            if other := upstream.fault(kit, file.file):
                theirs_alarms.append(f"{file.name} ({other})")
    print(f"\n{'':18}{'broken':>8}{'caught':>8}{'named':>8}{'llama.cpp':>11}")
    for kind in total:
        print(f"{kind:18}{total[kind]:8}{caught[kind]:8}{rightly[kind]:8}{theirs[kind]:11}")
    broken, hit, right = total.total(), caught.total(), rightly.total()
    print(f"{'all':18}{broken:8}{hit:8}{right:8}{theirs.total():11}")
    print(f"\ncaught {hit} of {broken} ({hit / broken:.0%}), {right} of them by their names")
    print(f"false alarms: {len(alarms)} of {count} good files{''.join(f', {name}' for name in alarms)}")
    print(
        f"llama.cpp's check (loads, perplexity at most {upstream.LIMIT:g} over two chunks) catches {theirs.total()} of"
        f" {broken}, and stops {len(theirs_alarms)} of {real} good files of SmolLM2: {', '.join(theirs_alarms) or '–'}"
    )
    return int(right < WANTED * broken or bool(alarms))


def upstream_says(kit: Kit, subject: Subject) -> str:
    if subject.file is None:
        return ""
    try:
        file = subject.file()
    except ToolchainError:
        return "llama-quantize refuses"
    return upstream.fault(kit, file)


sys.exit(main())
