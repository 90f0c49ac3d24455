"""`python -m pipeline.check OUT GGUF SOURCE`: a reference against its source, in a process of its own.

It reads files of strangers, and the libraries that it loads for that are large. With `--logits` the predictions are
compared, else the files. OUT gets what was found, as JSON.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from pipeline import gguf_file
from pipeline.check import source
from pipeline.vetting import PARITIES, VERDICTS

parser = argparse.ArgumentParser()
for name in ("out", "gguf", "source", "--tools", "--tree", "--logits"):
    parser.add_argument(name, type=Path)
given = parser.parse_args()
file = gguf_file.read(given.gguf)
if given.logits:
    given.out.write_bytes(PARITIES.dump_json(source.parity(file, given.logits, given.source)))
else:
    # transformers would load torch for the defaults of a configuration, which takes as long as all that is done here.
    sys.modules["torch"] = None  # type: ignore[assignment]
    os.environ["TRANSFORMERS_NO_ADVISORY_WARNINGS"] = "1"  # that torch is missing
    found = source.reference(file, given.source, given.tools, given.tree)
    given.out.write_bytes(VERDICTS.dump_json(tuple(found)))
