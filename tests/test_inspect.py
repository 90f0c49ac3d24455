"""`python -m pipeline inspect` on a file alone: a page for any GGUF, whole or broken, a sentence for all else."""

from __future__ import annotations

import os
import random

import ggufs
import pytest
from ggufs import blank
from test_check_structure import knows_holes, parts
from test_cli import invoke

from pipeline import gguf_file, inspection, report

METADATA = ggufs.METADATA | {
    "general.file_type": 7,
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", *(f"token{i}" for i in range(37))],
    "tokenizer.ggml.scores": [0.0] * 40,
    "tokenizer.ggml.token_type": [2, 3, 3] + [1] * 37,
    "tokenizer.ggml.eos_token_id": 2,
}
del METADATA["tokenizer.chat_template"]  # which would be rendered, in a process of its own
TENSORS = {
    "token_embd.weight": blank((256, 40), "Q8_0"),
    "blk.0.ffn_up.weight": blank((256, 64), "Q8_0"),
    "blk.1.ffn_up.weight": blank((256, 64), "Q8_0"),
    "output_norm.weight": blank((256,)),
}
GB40 = 40 << 30
NAN = b"\x01\xfe"


@pytest.fixture
def write(tmp_path):
    """`write(name, tensors, **metadata)` writes a small model in Q8_0; keys have `__` for a dot."""

    def to_file(name="tiny-Q8_0.gguf", tensors=TENSORS, **changes):
        metadata = METADATA | {key.replace("__", "."): value for key, value in changes.items()}
        return ggufs.write(tmp_path / name, tensors, metadata)

    return to_file


@pytest.fixture
def holes(tmp_path):
    if not knows_holes(tmp_path / "probe"):
        pytest.skip("this file system knows of no holes")


def damage(file, tensor, block, content=NAN):
    """Put bytes where a block of a tensor begins."""
    of = file.tensors[tensor]
    raw = bytearray(file.path.read_bytes())
    at = file.data_begin + of.offset + block * gguf_file.SIZES[of.type][1]
    raw[at : at + len(content)] = content
    file.path.write_bytes(raw)
    return file.path


# A file that is a GGUF gets a page


def test_the_page_of_a_sound_file(write, golden):
    code, out, err = invoke("inspect", write().path)
    assert (code, err) == (0, "")
    golden("inspect/sound.txt", out)


def test_the_page_of_a_broken_file(write, golden):
    code, out, err = invoke("inspect", damage(write("tiny-Q4_K_M.gguf"), "blk.1.ffn_up.weight", 200))
    assert (code, err) == (1, "")
    golden("inspect/broken.txt", out)


def test_of_a_file_that_is_cut_short_nothing_more_is_said_and_nothing_is_built_for_it(write, tmp_path):
    reference, path = write("reference.gguf").path, write().path
    size = path.stat().st_size
    os.truncate(path, size - 30_000)
    for given in ((), ("--reference", reference)):
        code, out, _ = invoke("inspect", path, *given, "--matrix", tmp_path / "none.yml", "--store", tmp_path / "store")
        assert code == 1
        page = out.splitlines()
        assert page[0] == "file:           tiny-Q8_0.gguf"
        fault = f"truncated: it needs {size} bytes and has {size - 30_000}, the data ends in blk.0.ffn_up.weight"
        assert page[-4:] == [
            f"FAIL  file  {fault}",
            "            Download it again.",
            "",
            "1 failed",
        ]
    assert not (tmp_path / "store").exists()


def test_a_damaged_header_is_a_page_as_well(write):
    path = write().path
    os.truncate(path, 700)
    code, out, _ = invoke("inspect", path)
    assert code == 1
    assert out.startswith("file:  tiny-Q8_0.gguf\nsize:  700 B\n\nFAIL  file  ")
    assert out.endswith("            Download it again, or make it anew.\n\n1 failed\n")


def test_40_gb_of_zeros_behind_the_last_tensor(write):
    path = write().path
    spare = GB40 - path.stat().st_size
    os.truncate(path, GB40)
    code, out, _ = invoke("inspect", path)
    assert code == 0
    assert f"warn  file            {spare} bytes follow the last tensor, output_norm.weight, all zero" in out
    assert "size:           42.95 GB\n" in out


def test_40_gb_of_weights_that_were_never_written_are_not_read(write, holes, monkeypatch):
    rows = GB40 // (256 // 32 * 34)
    header = ggufs.content(METADATA, {})
    info = ggufs.info("blk.0.ffn_up.weight", (256, rows), ggufs.IDS["Q8_0"], 0)
    path = write().path
    path.write_bytes(ggufs.head(len(METADATA), 1) + header[24:] + info)
    os.truncate(path, path.stat().st_size // 32 * 32 + 32 + rows * 272)
    monkeypatch.setattr("pipeline.check.blocks.scan", lambda *_args, **_kwargs: pytest.fail("it was read"))
    code, out, _ = invoke("inspect", path)
    assert code == 1
    assert "FAIL  file  " in out
    assert "were never written (holes in the file): blk.0.ffn_up.weight" in out
    assert out.endswith("\n1 failed\n")


def test_shards_are_looked_at_together_whichever_is_named(tmp_path):
    paths = parts(tmp_path)
    for path in paths:
        code, out, _ = invoke("inspect", path)
        assert code == 0
        assert "pass  shards   3 of 3 shards, 12 tensors, each of them once\n" in out
        places = [out.index(f"pass  blocks   {shard.name}: ") for shard in paths]
        assert places == sorted(places)
        assert "skip  quality  shards are not run: join them (llama-gguf-split --merge), and inspect the whole" in out


def test_a_damaged_shard_is_named(tmp_path):
    paths = parts(tmp_path)
    damage(gguf_file.read(paths[1]), "blk.1.ffn_up.weight", 1)
    paths[2].write_text("hello there")
    code, out, _ = invoke("inspect", paths[0])
    assert code == 1
    fault = "NaN as scale in blk.1.ffn_up.weight, block 1 (row 1) of Q4_K"
    assert f"FAIL  blocks   x-00002-of-00003.gguf: {fault}" in out
    assert "FAIL  file     x-00003-of-00003.gguf: it seems to be a text" in out
    paths[2].unlink()
    assert "FAIL  shards   1 of 3 shards missing: x-00003-of-00003.gguf" in invoke("inspect", paths[0])[1]


def test_a_shard_by_its_metadata_alone(write):
    code, out, _ = invoke("inspect", write(split__count=3).path)
    assert code == 1
    assert "FAIL  shards   one of 3 shards (split.count), but its name does not end in -00001-of-00003.gguf" in out
    code, out, _ = invoke("inspect", write(split__count="three").path)
    assert code == 0
    assert "shards" not in out


@pytest.mark.parametrize("changes", [{"general__type": "imatrix"}, {"general__architecture": "clip"}])
def test_what_goes_with_a_model_needs_no_vocabulary(tmp_path, changes):
    metadata = {"general.architecture": "none"} | {key.replace("__", "."): value for key, value in changes.items()}
    file = ggufs.write(tmp_path / "beside.gguf", {"v.weight": blank((32, 4), "F16")}, metadata)
    code, out, _ = invoke("inspect", file.path)
    assert code == 0
    assert f"skip  tokenizer   a file beside a model ({next(iter(changes.values()))}) has no vocabulary\n" in out
    without = ggufs.write(tmp_path / "model.gguf", {"v.weight": blank((32, 4), "F16")}, {"general.type": "model"})
    code, out, _ = invoke("inspect", without.path)
    assert code == 1
    assert "FAIL  tokenizer       tokenizer.ggml.model is missing" in out


def test_a_strangers_names_move_no_cursor_and_are_no_commands(write):
    name = "x\n::error::all is well\x1b[31m\u202e.weight"
    file = write("\x1b[2J.gguf", {name: blank((256, 4), "Q8_0")}, general__architecture="llama\n::stop-commands::x")
    code, out, _ = invoke("inspect", damage(file, name, 3))
    assert code == 1
    assert r"NaN as scale in x\n::error::all is well\x1b[31m\u202e.weight, block 3" in out
    assert all(c.isprintable() or c == "\n" for c in out)
    assert not any(line.lstrip().startswith("::") for line in out.splitlines())


def test_whatever_is_wrong_with_a_header_ends_in_a_page(write, tmp_path):
    file = write()
    whole, chance, outcomes = file.path.read_bytes(), random.Random(4), set()
    for _ in range(300):
        raw = bytearray(whole)
        for _ in range(chance.choice((1, 1, 3))):
            at = chance.randrange(4, file.data_begin)
            raw[at : at + 8] = chance.choice((bytes([raw[at] ^ 1 << chance.randrange(8)]) + raw[at + 1 : at + 8],
                                              b"\xff" * 8, bytes(8), (1 << 20).to_bytes(8, "little")))  # fmt: skip
        file.path.write_bytes(raw)
        found = inspection.examine(inspection.Inputs(file.path), None)
        assert report.inspection(inspection.described(file.path), found)
        outcomes |= {verdict.outcome for verdict in found}
    assert outcomes == {"fail", "warn", "pass", "skip"}


# Anything else gets a sentence


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"Hello there.\n", "x.gguf does not open as GGUF: it seems to be a text. Name the .gguf file itself.\n"),
        (b"", "x.gguf does not open as GGUF: it is empty. Download it again.\n"),
        (
            b"<!DOCTYPE html><html>",
            "it is a web page, perhaps an error in place of the file. Download it again, signed",
        ),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is a Git LFS pointer, not the file itself. Run `git lfs"),
        (b"PK\x03\x04" + bytes(60), "it seems to be a zip archive, perhaps PyTorch's pickled weights. Unpack it,"),
    ],
)
def test_what_is_no_gguf(tmp_path, content, said):
    (tmp_path / "x.gguf").write_bytes(content)
    code, out, err = invoke("inspect", tmp_path / "x.gguf")
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


def test_40_gb_of_zeros_are_not_read(tmp_path):
    (tmp_path / "x.gguf").touch()
    os.truncate(tmp_path / "x.gguf", GB40)
    code, out, err = invoke("inspect", tmp_path / "x.gguf")
    assert (code, out) == (2, "")
    assert err == (
        "error: x.gguf does not open as GGUF: it begins with nothing but zeros, as an unfinished download does."
        " Download it again.\n"
    )


def test_what_is_no_file(write, tmp_path):
    path = write().path
    os.mkfifo(tmp_path / "pipe")
    for name, said in (
        ("none.gguf", "none.gguf is not there. Name a GGUF file.\n"),
        (path.parent, "it is a directory. Name the .gguf file in it.\n"),
        ("pipe", "it is no regular file. Copy it into a file first.\n"),
        (path / "x", "cannot be read: Not a directory. Name a file that you may read.\n"),
        ("a" * 300, "cannot be read: File name too long. Name a file that you may read.\n"),
    ):
        code, out, err = invoke("inspect", tmp_path / name)
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert err.endswith(said)


def test_a_reference_or_a_source_that_is_none_is_refused_before_any_work(write, tmp_path):
    path, cut, text = write().path, write("cut.gguf").path, tmp_path / "text.gguf"
    os.truncate(cut, cut.stat().st_size - 40)
    text.write_text("Hello there.")
    shard = parts(tmp_path)[0]
    for option, given, said in (
        ("--reference", tmp_path / "none.gguf", "none.gguf is not there. Name a GGUF file.\n"),
        ("--reference", text, "text.gguf does not open as GGUF: it seems to be a text."),
        ("--reference", cut, "cut.gguf does not open as GGUF: it is cut short: its tensors need "),
        ("--reference", shard, "is a shard. Join it with the others first: llama-gguf-split --merge.\n"),
        ("--source", tmp_path, f"{tmp_path} holds no config.json. Name the directory of a Hugging Face model.\n"),
        ("--source", text, "text.gguf holds no config.json. Name the directory of a Hugging Face model.\n"),
        ("--source", tmp_path / ("a" * 300), "cannot be read: File name too long."),
    ):
        code, out, err = invoke("inspect", path, option, given, "--store", tmp_path / "store")
        assert (code, out) == (2, "")
        assert said in err
    assert not (tmp_path / "store").exists()


def test_without_a_matrix_there_is_no_llama_cpp_to_run_it_with(write, tmp_path):
    code, _, err = invoke("inspect", write().path, "--reference", write("r.gguf").path, "--matrix", tmp_path / "no.yml")
    assert code == 2
    assert err.endswith("no.yml: there is no such file; name one with --matrix\n")


def test_typos():
    code, _, err = invoke("inspect", "x.gguf", "--refrence", "y.gguf")
    assert code == 2
    assert "No such option '--refrence'. Did you mean '--reference'?" in err
    code, _, err = invoke("inpsect", "x.gguf")
    assert code == 2
    assert "Did you mean 'inspect'?" in err
    code, _, err = invoke("inspect")
    assert code == 2
    assert "Missing argument 'FILE'" in err
