"""How a converter gives up, and what is left of that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import gguf_file

pytestmark = pytest.mark.programs

ROOT = Path(__file__).parent.parent


@pytest.fixture
def convert(tmp_path):
    """`convert(code)` runs a converter that is `code`; returns the exit code and what it gave up with, if it did."""

    def run(code: str):
        converter, refusal = tmp_path / "converter.py", tmp_path / "refusal"
        converter.write_text("import errno, logging, sys\n" + code)
        command = [sys.executable, "-m", "pipeline.preview.convert_headers", converter, refusal, tmp_path / "out.gguf"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
        return done.returncode, refusal.read_text() if refusal.exists() else None

    return run


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("logging.getLogger('x').error('Model X is not supported'); sys.exit(1)", "Model X is not supported"),
        ("sys.exit(3)", "exit code 3"),
        (
            "raise NotImplementedError('BPE pre-tokenizer was not recognized')",
            "NotImplementedError: BPE pre-tokenizer was",
        ),
        ("raise ValueError('Line 1\\nLine 2\\n')", "Line 2"),
        ("raise FileNotFoundError(errno.ENOENT, 'No such file', 'tokenizer.model')", "'tokenizer.model'"),
        ("class Panic(BaseException): pass\nraise Panic('a tokenizer in Rust')", "Panic: a tokenizer in Rust"),
        ("bytearray(1 << 36)", "MemoryError"),
        ("raise ValueError('\\ud800')", "ValueError: "),
    ],
)
def test_the_last_line_says_why(convert, code, said):
    code, refusal = convert(code)
    assert code == 0
    assert said in refusal
    assert "\n" not in refusal


@pytest.mark.parametrize("code", ["raise OSError(errno.ENOSPC, 'No space left on device')", "raise KeyboardInterrupt"])
def test_what_is_no_fault_of_the_model_fails(convert, code):
    code, refusal = convert(code)
    assert code != 0
    assert refusal is None


def test_the_data_is_a_hole(convert, tmp_path):
    code = """
import gguf, numpy
writer = gguf.GGUFWriter(sys.argv[1], "llama")
writer.add_uint32("llama.block_count", 1)
writer.add_tensor("a", numpy.ones((2, 5), numpy.float32))
writer.add_tensor("b", numpy.ones((1000, 1000), numpy.float16))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file(progress=True)
writer.close()
"""
    assert convert(code) == (0, None)
    made = gguf_file.read(tmp_path / "out.gguf")
    assert {t.name: (t.shape, t.type) for t in made.tensors.values()} == {
        "a": ((5, 2), "F32"),
        "b": ((1000, 1000), "F16"),
    }
    size = made.path.stat()
    assert size.st_size == made.data_begin + 64 + 2_000_000
    assert size.st_blocks * 512 < 100_000
