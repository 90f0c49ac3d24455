"""What llama.cpp prints, as it was seen to print it, and files that a full disk cut short."""

from __future__ import annotations

import struct

import pytest

from pipeline import chunks, measure, quantize
from pipeline.errors import BadInputError, ToolchainError
from pipeline.matrix.model import EmbeddedText
from pipeline.progress import Task
from pipeline.result import Estimate, Fallback, Offload
from pipeline.shell import Completed
from pipeline.text import Text

STATISTICS = """\
  16      20.5055 ±    0.9697       0.03338 ±    0.00523       0.04139 ±    0.00116     4.820 ±  0.147 %

====== Perplexity statistics ======
Mean PPL(Q)                   :  20.505515 ±   0.969666
Mean PPL(base)                :  19.832315 ±   0.930425
Cor(ln(PPL(Q)), ln(PPL(base))):  99.39%
Mean ln(PPL(Q)/PPL(base))     :   0.033381 ±   0.005233
Mean PPL(Q)/PPL(base)         :   1.033945 ±   0.005410
Mean PPL(Q)-PPL(base)         :   0.673200 ±   0.112334

====== KL divergence statistics ======
Mean    KLD:   0.041392 ±   0.001160
Maximum KLD:   2.497611
99.9%   KLD:   0.770512
99.0%   KLD:   0.307210
Median  KLD:   0.024831
10.0%   KLD:   0.002381
Minimum KLD:   0.000002

====== Token probability statistics ======
Mean    Δp: -0.412 ± 0.075 %
RMS Δp    :  4.820 ± 0.147 %
Same top p: 88.848 ± 0.493 %
"""


def test_parses_the_statistics():
    quality = measure.parse(STATISTICS, 16, Offload(layers=0, of=31))
    assert quality.mean_kld == Estimate(value=0.041392, error=0.00116)
    assert (quality.median_kld, quality.p999_kld, quality.max_kld) == (0.024831, 0.770512, 2.497611)
    assert quality.ppl_ratio == Estimate(value=1.033945, error=0.00541)
    assert quality.same_top == Estimate(value=88.848, error=0.493)
    assert quality.ppl == Estimate(value=20.505515, error=0.969666)


def test_an_error_that_rounding_made_imaginary_is_zero():
    printed = STATISTICS.replace("1.033945 ±   0.005410", "0.999998 ±       -nan")
    assert measure.parse(printed, 16, Offload(layers=0, of=31)).ppl_ratio == Estimate(value=0.999998, error=0.0)


@pytest.mark.parametrize("number", ["nan", "-nan", "inf"])
def test_predictions_that_are_no_numbers_are_found(number):
    with pytest.raises(measure.NotFiniteError):
        measure.parse(STATISTICS.replace("0.041392", number), 16, Offload(layers=0, of=31))


def test_output_of_another_age_is_noticed():
    with pytest.raises(ToolchainError, match="pinned to another age"):
        measure.parse(STATISTICS.replace("Same top p", "Top-1"), 16, Offload(layers=0, of=31))


def test_layers_on_the_gpu():
    log = "0.00.1 I load_tensors: offloaded 12/31 layers to GPU\n"
    assert measure.offload(log, 31) == Offload(layers=12, of=31)
    assert measure.offload("", 31) == Offload(layers=0, of=31)


def test_logits_file_has_the_size_that_llama_perplexity_writes(tmp_path):
    # 16 chunks of a vocabulary of 49,152 were seen to take 401,145,748 bytes.
    assert measure.logits_bytes(49_152, 16) == 401_145_748
    path = tmp_path / "logits"
    path.write_bytes(struct.pack("<8sIII", b"_logits_", 512, 10, 1).ljust(measure.logits_bytes(10, 1), b"\0"))
    measure._check_logits(path, 1)
    assert measure.read_chunks(path) == 1
    whole = path.read_bytes()
    for length in (len(whole) - 1, 20, 19, 0):
        path.write_bytes(whole[:length])
        with pytest.raises(OSError, match=f"were cut after {length} bytes"):
            measure._check_logits(path, 1)


def test_fallbacks_are_read_from_the_warnings():
    printed = (
        "[   2/ 272] blk.0.attn_k.weight - [ 576, 192, 1, 1], type = bf16, converting to q5_0 .. size = 0.2 MiB\n"
        "warning: blk.0.attn_k.weight                  - ncols    576 not divisible by 256 (required for type    q4_K)"
        " -> falling back to    q5_0\n"
        "warning: blk.0.attn_v.weight                  - ncols    577 not divisible by  32 (required for type    q6_K)"
        " (WARNING: must use F16 due to unusual shape) -> falling back to     f16\n"
    )
    assert quantize.fallbacks(printed) == [
        Fallback(tensor="blk.0.attn_k.weight", wanted="Q4_K", used="Q5_0"),
        Fallback(tensor="blk.0.attn_v.weight", wanted="Q6_K", used="F16"),
    ]


class Recorder(Task):
    def __init__(self):
        self.seen = []

    def advance(self, fraction, note=""):
        self.seen.append((fraction, note))


def test_chunks_are_followed_and_counted():
    task = Recorder()
    watch = chunks.chunk_watch(task)
    for text in ("computing over 4 chunks, n_ctx=512\n", "[1]39.8375,[2]41.1621,", "[3]20.1\n", "[4]19.8,"):
        watch(text)
    assert task.seen[-1] == (1.0, "4 of 4 chunks")
    text = Text("evaluation", EmbeddedText())
    assert (
        chunks.chunk_count(Completed("", "perplexity: calculating perplexity over 16 chunks, n_ctx"), text, "x") == 16
    )
    with pytest.raises(BadInputError, match="too short"):
        chunks.chunk_count(Completed("", "perplexity: you need at least 1024 tokens to evaluate"), text, "x")
