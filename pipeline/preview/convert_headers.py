"""`python -m pipeline.preview.convert_headers CONVERTER REFUSAL ARGUMENTS…`: llama.cpp's converter, without the data.

The converter's tensors are lazy: what they hold is computed when it is written, and here it is not. The file that it
makes has its full size, with a hole where the data belongs. Where the converter gives up, the last line that it says
goes into the file REFUSAL.
"""

from __future__ import annotations

import errno
import logging
import resource
import runpy
import sys
import traceback
from pathlib import Path
from typing import Any

# Of memory and of processor time: many times what headers and a tokenizer take, and less than a machine has, since a
# model's configuration may ask for any number of layers and tokens.
MAX_BYTES = 12 << 30
MAX_SECONDS = 900


def main(converter: Path, refusal: Path, arguments: list[str]) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_BYTES, MAX_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_SECONDS, MAX_SECONDS))
    sys.path[:0] = [str(converter.parent), str(converter.parent / "gguf-py")]
    from gguf.gguf_writer import GGUFWriter, WriterState

    def write_infos(self: Any, *, progress: bool = False) -> None:  # noqa: ARG001
        self.write_ti_data_to_file()
        for file, tensors in zip(self.fout, self.tensors, strict=True):
            self.write_padding(file, file.tell())
            size = sum(self.ggml_pad(tensor.nbytes, self.data_alignment) for tensor in tensors.values())
            file.truncate(file.tell() + size)
        self.state = WriterState.WEIGHTS

    setattr(GGUFWriter, "write_tensors_to_file", write_infos)  # noqa: B010 - mypy forbids the assignment
    last = _LastError()
    logging.basicConfig(level=logging.INFO)  # as the converter does, which comes too late after this
    logging.getLogger().addHandler(last)
    sys.argv = [str(converter), *arguments]
    try:
        runpy.run_path(str(converter), run_name="__main__")
    except KeyboardInterrupt:
        raise
    except SystemExit as ending:
        if ending.code:
            refusal.write_text(last.said or f"exit code {ending.code}", encoding="utf-8", errors="replace")
    except BaseException as error:  # tokenizers in Rust panic beside Exception
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise
        traceback.print_exc()
        lines = "".join(traceback.format_exception_only(error)).strip().splitlines()
        refusal.write_text(lines[-1], encoding="utf-8", errors="replace")


class _LastError(logging.Handler):
    """What the converter logged last as an error, before it exits."""

    said = ""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR:
            self.said = record.getMessage()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
