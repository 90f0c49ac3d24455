"""`python -m pipeline inspect` with the real llama.cpp, and a run whose reference does not pass the same checks."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
from conftest import copied_store, write_matrix
from machine import SHARED, empty_store
from test_cli import invoke

from pipeline import ggml, gguf_file, matrix, run
from pipeline.convert import REFERENCE
from pipeline.quantize import QUANT


@pytest.fixture(scope="module")
def store(machine_store, prepared, tmp_path_factory):
    return copied_store(machine_store, prepared, tmp_path_factory.mktemp("inspect") / "store")


@pytest.fixture(scope="module")
def files(store, toolchain, model_directory, tmp_path_factory):
    """The tiny llama: its reference, and a quant of it under a name as on the Hub."""
    directory = tmp_path_factory.mktemp("files")
    path = write_matrix(directory / "matrix.yml", model_directory("llama"), "Q4_K_M")
    (steps,) = run.look(matrix.load(path).models, toolchain, path)
    quant = shutil.copy(store.get(steps.quant(steps.model.recipes[0])).file(QUANT), directory / "llama-Q4_K_M.gguf")
    return store.get(steps.reference).file(REFERENCE), quant


@pytest.fixture
def inspect(store):
    """`inspect(arguments)` returns exit code, the page's lines as (outcome, check, seen), the whole page, stderr."""

    def to_its_end(*arguments):
        code, out, err = invoke("inspect", *arguments, "--store", store.root)
        rows = re.findall(r"^(FAIL|warn|pass|skip)  (\S+(?: \S+)*)  +(.*)$", out, re.MULTILINE)
        return code, rows, out, err

    return to_its_end


@pytest.fixture
def changed(tmp_path):
    """`changed(file, change)`: a copy in which `change(bytes of each tensor by name)` changed some."""

    def copy(path, change):
        path = shutil.copyfile(path, tmp_path / path.name)
        file = gguf_file.read(path)
        data = np.memmap(path, np.uint8, "r+")
        change({name: ggml.blocks(file, np.asarray(data), tensor) for name, tensor in file.tensors.items()})
        data.flush()
        return path

    return copy


def swap(blocks):
    one, other = blocks["blk.0.ffn_up.weight"], blocks["blk.1.ffn_up.weight"]
    one[:], other[:] = other.copy(), one.copy()


def no_number(blocks):
    blocks["blk.1.ffn_up.weight"][7, :2] = (0x01, 0xFE)


def test_a_sound_quant_beside_its_source_and_its_reference(inspect, files, model_directory):
    reference, quant = files
    code, rows, out, err = inspect(quant, "--source", model_directory("llama"), "--reference", reference)
    assert (code, err) == (0, "")
    assert [check for outcome, check, _ in rows if outcome == "pass"] == [
        "file", "tensors", "metadata", "types", "imatrix", "blocks", "values", "hyperparameters", "tokenizer",
        "tokenizer", "special tokens", "chat template", "answers", "finite", "mean KLD", "99.9 % KLD", "same top",
        "perplexity ratio",
    ]  # fmt: skip
    assert out.endswith("\n18 passed, 1 not run\n")
    seen = {check: seen for _, check, seen in rows}
    assert re.fullmatch(r"\d+ texts of 20 kinds have the source's tokens", seen["tokenizer"])
    assert seen["chat template"] == "the chat template is the source's, and renders 53 of 53 conversations"
    assert seen["finite"] == "finite predictions over 8 chunks"
    assert 0.001 < float(seen["mean KLD"].split()[3].rstrip(",")) < 0.1


def test_a_reference_beside_its_source(inspect, files, model_directory):
    code, rows, out, err = inspect(files[0], "--source", model_directory("llama"))
    assert (code, err) == (0, "")
    held = "21 of 21 tensors hold the source's values, 4 of them in llama.cpp's own order"
    assert ("pass", "conversion", held) in rows
    (seen,) = [seen for outcome, check, seen in rows if (outcome, check) == ("pass", "logits")]
    assert float(re.search(r"NMSE\) (\S+),", seen)[1]) < 1e-3
    assert out.endswith("\n10 passed, 2 not run\n")


@pytest.mark.parametrize(
    ("change", "check", "said"),
    [
        (no_number, "blocks", "NaN as scale in blk.1.ffn_up.weight, block 7 (row 7) of Q4_K"),
        (swap, "values", "blk.0.ffn_up.weight holds the weights of blk.1.ffn_up.weight"),
    ],
)
def test_a_broken_quant_is_named_and_not_measured(inspect, files, changed, change, check, said):
    code, rows, _, _ = inspect(changed(files[1], change), "--reference", files[0])
    assert code == 1
    (fault,) = [(name, seen) for outcome, name, seen in rows if outcome == "FAIL"]
    assert fault[0] == check
    assert fault[1].startswith(said)
    assert ("skip", "quality", "not measured, since the file is broken") in rows


def test_another_models_source(inspect, files, model_directory):
    code, rows, _, _ = inspect(files[0], "--source", model_directory("gemma"))
    assert code == 1
    failed = {check: seen for outcome, check, seen in rows if outcome == "FAIL"}
    assert failed["conversion"].endswith("the reference is made from another revision or model")
    assert "tokens are not the source's" in failed["tokenizer"]
    assert "logits" not in {check for _, check, _ in rows}


def test_why_llama_cpp_cannot_run_a_file_is_said(inspect, files, tmp_path):
    """An architecture that it does not know: nothing else is wrong, and only running it shows."""
    strange = []
    for path in files:
        raw = bytearray(path.read_bytes())
        at = raw.index(b"general.architecture") + len("general.architecture") + 12
        raw[at : at + 5] = b"lhama"
        strange.append(tmp_path / path.name)
        strange[-1].write_bytes(raw)
    code, rows, _, err = inspect(strange[1], "--reference", strange[0])
    assert code == 1
    assert [row for row in rows if row[0] == "FAIL"] == [("FAIL", "answers", "llama-completion could not run the file")]
    assert err.startswith("warning: llama-completion failed with exit code 1 while letting llama-Q4_K_M.gguf answer")
    assert "unknown model architecture: 'lhama'" in err


def break_source(directory):
    """Put a NaN into a layer, and let two tokens change places in the one tokenizer file that is not converted."""
    for path in directory.glob("*.safetensors"):
        raw = bytearray(path.read_bytes())
        size = int.from_bytes(raw[:8], "little")
        if place := json.loads(raw[8 : 8 + size]).get("model.layers.1.mlp.up_proj.weight"):
            at = 8 + size + place["data_offsets"][0]
            raw[at : at + 2] = b"\xff\x7f"
            path.write_bytes(raw)
    path = directory / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    one, other = list(vocabulary)[400:402]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    path.write_text(json.dumps(tokenizer))


def test_a_run_stops_at_a_reference_that_fails_and_names_each_fault(command, machine_store, model_directory, tmp_path):
    source = shutil.copytree(model_directory("llama"), tmp_path / "llama")
    break_source(source)
    store = empty_store(machine_store, tmp_path / "store")
    code, out, err = command("run", write_matrix(tmp_path / "matrix.yml", source), "--store", store.root)
    assert (code, out) == (1, "")
    blocks, conversion, tokenizer = err[err.index("error: ") :].splitlines()
    assert blocks == (
        "error: tiny/llama, blocks: NaN as weight in blk.1.ffn_up.weight, weight 0 (row 0) of BF16. Download again, or"
        " convert again; if it stays so, the source is broken: take another revision of it."
    )
    assert conversion == (
        "tiny/llama, conversion: the source of blk.1.ffn_up.weight holds 1 NaN; 1 such tensors. The source is broken."
        " Take another revision of it."
    )
    assert tokenizer.startswith("tiny/llama, tokenizer: 2 of 1024 tokens are not the source's: id 400 is ")
    assert {a.kind for a in store.artifacts()} - {*SHARED} == {"reference", "vetting"}
    assert not list((tmp_path / "out").iterdir())
