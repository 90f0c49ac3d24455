"""A matrix written out again is the same matrix."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline import matrix
from pipeline.matrix import lock

ROOT = Path(__file__).parent.parent
EVERYTHING = """\
version: 1
llama_cpp: {git: https://example.com/llama.cpp, commit: 0123456789abcdef0123456789abcdef01234567}
defaults:
  organization: me
  quants: [Q8_0, Mine, Q4_K]
  prompt: "Wie groß?\\n\\tSag: {{ es }} 😀"
  calibration: {hub: a/b, file: c.txt, revision: 0123456789abcdef0123456789abcdef01234567, sha256: %s}
recipes:
  Mine: {base: Q4_K_M, token_embedding: Q8_0, output: Q8_0, tensors: {ffn_down: Q6_K, 'a\\.b': Q5_K}}
  Other: {base: Q4_K_M, pure: true, imatrix: false}
models:
  - source: google/gemma-2b
    revision: 0123456789abcdef0123456789abcdef01234567
    filename: "{model}_{quant}.gguf"
    imatrix_format: dat
    card: footer
    gates: {max_mean_kld: 0.5}
    max_shard_size: 500M
  - source: HuggingFaceTB/SmolLM2-135M-Instruct
    path: .
    organization: somebody
    quants: [Other]
    private: true
    evaluation_chunks: 7
""" % ("a" * 64)


def placed(found):
    """The models without where they stand in the file."""
    return [replace(model, line=0, column=0) for model in found.models]


def check(found, folder):
    again = matrix.parse(lock.dump(found).encode(), "matrix.json", folder)
    assert placed(again) == placed(found)
    assert again.llama_cpp == found.llama_cpp


def test_every_setting_survives(tmp_path):
    check(matrix.parse(EVERYTHING.encode(), "matrix.yml", tmp_path), Path("/elsewhere"))


def test_the_shipped_matrix_survives(tmp_path):
    check(matrix.load(ROOT / "matrix.yml"), tmp_path)


def test_a_thousand_models_are_small_enough_to_be_read_again(tmp_path):
    listed = matrix.parse(EVERYTHING.encode(), "matrix.yml", tmp_path)
    many = tuple(replace(listed.models[0], source=f"owner/model-with-a-long-name-{n}") for n in range(1_000))
    check(replace(listed, models=many), tmp_path)
