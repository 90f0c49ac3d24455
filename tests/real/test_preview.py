"""What is foreseen from headers is what the real toolchain makes, to the byte."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import struct
import time
from dataclasses import replace

import pytest
from conftest import leftovers
from machine import empty_store
from models import KINDS, TEXT

from pipeline import gguf_file, job, matrix, run, shell, source
from pipeline.convert import REFERENCE
from pipeline.engine import header
from pipeline.errors import BadInputError, ToolchainError
from pipeline.matrix.model import PathText
from pipeline.preview import sizes
from pipeline.preview.engine import foresee
from pipeline.preview.outline import Outline
from pipeline.preview.skeleton import Skeleton
from pipeline.quantize import FALLBACKS, QUANT
from pipeline.recipe import builtin
from pipeline.result import Recipe
from pipeline.toolchain import tools

SHA = "0123456789abcdef0123456789abcdef01234567"
RECIPES = (
    *map(builtin, ("Q2_K", "Q3_K_L", "Q4_K_M", "Q5_0", "Q8_0", "IQ2_XXS", "IQ3_XXS", "IQ4_XS", "F16", "BF16")),
    Recipe(name="LARGE", base="Q4_K_M", token_embedding="Q8_0", output="Q6_K"),
    Recipe(name="OWN", base="Q3_K_S", tensors={"ffn_down": "Q6_K", r"blk\.0\.attn": "Q5_K"}),
    Recipe(name="PURE", base="Q4_K_S", pure=True),
    Recipe(name="PLAIN", base="IQ4_XS", imatrix=False),
    Recipe(name="EQUAL", base="Q4_0", imatrix=False),
)


@pytest.fixture(scope="module")
def store(machine_store, tmp_path_factory):
    """A store of these tests together: each kind of model is converted once."""
    return empty_store(machine_store, tmp_path_factory.mktemp("foreseen") / "store")


@pytest.mark.parametrize(
    ("kind", "form"), [*((kind, "gguf") for kind in KINDS if kind != "mixtral"), ("mixtral", "dat")]
)
def test_sizes_types_and_fallbacks_are_those_of_the_real_files(kind, form, matrix_file, toolchain, store):
    path = matrix_file(kind)
    recipes = [r for r in RECIPES if kind != "odd" or r.name != "LARGE"]
    model = replace(matrix.load(path).models[0], recipes=tuple(recipes), imatrix_format=form, calibration_chunks=1)
    (steps,) = run.look([model], toolchain, path)
    foreseen = foresee(store, steps)
    assert store.find(steps.reference) is None
    assert foresee(store, steps) == foreseen
    reference = gguf_file.read(store.get(steps.reference).file(REFERENCE))
    assert foreseen.reference_size == reference.path.stat().st_size
    assert (foreseen.reference.metadata, foreseen.reference.tensors) == (reference.metadata, reference.tensors)
    matrix_path = store.get(steps.imatrix).file(steps.imatrix.file_name)
    assert (foreseen.imatrix_size, foreseen.imatrix_exact) == (matrix_path.stat().st_size, True)
    for quant in foreseen.quants:
        made = store.get(steps.quant(quant.recipe))
        file = gguf_file.read(made.file(QUANT))
        assert quant.tensors == file.tensors, quant.recipe.name
        assert quant.size == made.files[QUANT].size, quant.recipe.name
        assert list(quant.tensors) == list(file.tensors), "the order decides what is in which shard"
        assert (quant.bits_per_weight, quant.types) == (file.bits_per_weight, file.types)
        announced = json.loads(made.file(FALLBACKS).read_bytes())
        assert [f.model_dump() for f in quant.fallbacks] == announced
        assert quant.shards == ()


def test_shards_are_those_of_the_real_files(matrix_file, toolchain, store):
    path = matrix_file("llama", "Q6_K, Q8_0, BF16, Q2_K")
    (steps,) = run.look([replace(matrix.load(path).models[0], max_shard_size=1_200_000)], toolchain, path)
    quants = foresee(store, steps).quants
    for quant in quants[:3]:
        made = store.get(steps.shards(quant.recipe)).files
        assert quant.shards == tuple(made[name].size for name in sorted(made))
    assert [len(quant.shards) for quant in quants] == [2, 2, 4, 0]


def test_a_first_tensor_that_is_larger_than_a_shard_is_refused(matrix_file, toolchain, store):
    path = matrix_file("llama", "F32")
    (steps,) = run.look([replace(matrix.load(path).models[0], max_shard_size=1_000_000)], toolchain, path)
    with pytest.raises(BadInputError, match=r"llama:F32: output\.weight alone is larger than `max_shard_size`"):
        foresee(store, steps)
    with pytest.raises(ToolchainError, match="one of splits have 0 tensors"):
        store.get(steps.shards(steps.model.recipes[0]))


@pytest.mark.parametrize(
    ("kind", "recipe", "said"),
    [
        (
            "odd",
            Recipe(name="LARGE", base="Q4_K_M", output="Q6_K"),
            r"odd:LARGE: output\.weight has rows of 288 weights, which blocks of Q6_K, 256 each, do not fill",
        ),
        (
            "odd",
            builtin("Q1_0"),
            r"odd:Q1_0 cannot be made by the pinned llama\.cpp: no tensor type fallback is defined for type q1_0\.",
        ),
        (
            "llama",
            Recipe(name="BARE", base="IQ2_XXS", imatrix=False),
            "llama:BARE has tensors of a type that llama-quantize writes with an imatrix only",
        ),
    ],
)
def test_what_is_planned_and_then_fails_is_refused(kind, recipe, said, matrix_file, toolchain, store):
    path = matrix_file(kind)
    (steps,) = run.look([replace(matrix.load(path).models[0], recipes=(recipe,))], toolchain, path)
    with pytest.raises(BadInputError, match=said):
        foresee(store, steps)
    with pytest.raises(ToolchainError):
        store.get(steps.quant(recipe))


def test_a_text_whose_name_is_longer_than_llama_quantize_keeps(matrix_file, toolchain, store, tmp_path):
    text = tmp_path / f"{'é' * 100}.txt"
    text.write_text(TEXT * 10)
    path = matrix_file("llama", "Q8_0")
    model = replace(matrix.load(path).models[0], calibration=PathText(text), calibration_chunks=1)
    (steps,) = run.look([model], toolchain, path)
    (quant,) = (foreseen := foresee(store, steps)).quants
    assert quant.size == store.get(steps.quant(quant.recipe)).files[QUANT].size
    assert foreseen.imatrix_size == store.get(steps.imatrix).files["imatrix.gguf"].size


def test_what_stands_behind_a_nul_is_lost(matrix_file, toolchain, store, tmp_path):
    path = matrix_file("llama", "Q8_0")
    (steps,) = run.look(matrix.load(path).models, toolchain, path)
    content = store.get(steps.reference).file(REFERENCE).read_bytes()
    name = gguf_file.read(store.get(steps.reference).file(REFERENCE)).metadata["general.name"].encode()
    for text in (name, b"<|im_start|>"):
        assert text in content
        content = content.replace(text, text[:3] + b"\0" * (len(text) - 3), 1)
    (tmp_path / "in.gguf").write_bytes(content)
    quantize = tools(store, toolchain).path("llama-quantize")
    shell.run([quantize, "in.gguf", "out.gguf", "Q8_0"], cwd=tmp_path, doing="testing")
    made = gguf_file.read(tmp_path / "out.gguf")
    metadata = header.metadata(gguf_file.read(tmp_path / "in.gguf"), 7, None)
    foreseen = sizes.quant(metadata, made.tensors.values())
    assert foreseen == made.path.stat().st_size


class TestHub:
    """Where it matters: nothing is here but what the Hub sends."""

    @pytest.fixture
    def model(self, matrix_file):
        """`model(source, quants)`: the model of a matrix, taken from the Hub."""

        def of(source: str, quants: str):
            path = matrix_file("llama", quants)
            return replace(matrix.load(path).models[0], source=source, path=None)

        return of

    def test_a_directory_and_the_hub_foresee_the_same(self, model, loopback_hub, model_directory, store, toolchain):
        loopback_hub.add("tiny/llama", model_directory("llama"), SHA)
        hub = model("tiny/llama", "Q4_K_M, IQ2_XXS")
        there, here = (
            foresee(store, job.Steps(m, source.look(m), toolchain))
            for m in (hub, replace(hub, path=model_directory("llama")))
        )
        assert there.reference.metadata == here.reference.metadata
        assert (there.reference_size, there.quants) == (here.reference_size, here.quants)

    def test_70_billion_parameters(
        self, model, loopback_hub, model_directory, machine_store, toolchain, tmp_path, conclude
    ):
        directory = large_llama(model_directory("llama"), tmp_path / "large")
        loopback_hub.add("tiny/large", directory, SHA)
        large = model("tiny/large", "Q8_0, Q6_K, Q5_K_M, Q4_K_M, IQ4_XS, Q3_K_M, Q2_K, IQ2_XXS, BF16")
        store = empty_store(machine_store, tmp_path / "own-store")
        began = time.monotonic()
        steps = job.Steps(large, source.look(large), toolchain)
        foreseen = foresee(store, steps)
        seconds = time.monotonic() - began
        sent = sum(request.sent for request in loopback_hub.requests)
        (tmp_path / "seen").mkdir()
        Outline(steps.source).open(store, tmp_path / "seen" / "source")
        Skeleton(steps.source, toolchain).open(store, tmp_path / "seen" / "reference.gguf")
        own = [store.get(step).path for step in (Outline(steps.source), Skeleton(steps.source, toolchain))]
        files = [p for root in [tmp_path / "seen", *own] for p in root.rglob("*") if p.is_file() and not p.is_symlink()]
        disk = sum(p.stat().st_blocks * 512 for p in files)
        conclude(
            f"a preview of {len(foreseen.quants)} quants of {foreseen.reference.parameters / 1e9:.1f} billion"
            f" parameters: {seconds:.1f} s, {sent / 1e6:.2f} MB fetched of {steps.source.weight_bytes / 1e9:.0f} GB,"
            f" {disk / 1e6:.1f} MB on disk"
        )
        assert sent < 0.02 * steps.source.weight_bytes
        assert disk < 50_000_000
        assert foreseen.reference.parameters == 70_553_706_496
        quants = {q.recipe.name: q for q in foreseen.quants}
        assert quants["Q4_K_M"].types["Q5_K"] == 40  # of attn_v, as llama-quantize does for this shape alone
        assert [len(q.shards) for q in foreseen.quants] == [2, 2, 2, 0, 0, 0, 0, 0, 4]
        assert quants["Q8_0"].size == pytest.approx(foreseen.reference.parameters * 8.5 / 8, rel=1e-3)
        assert foreseen.imatrix_exact

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"architectures": ["LlamahForCausalLM"]}, "Model LlamahForCausalLM is not supported"),
            ({"num_hidden_layers": None}, r"(Key|Type)Error: "),
        ],
    )
    def test_what_the_converter_cannot_do_it_says_itself(
        self, change, said, model, loopback_hub, model_directory, store, toolchain, tmp_path
    ):
        strange = shutil.copytree(model_directory("gemma"), tmp_path / "strange")
        config = json.loads((strange / "config.json").read_text()) | change
        (strange / "config.json").write_text(json.dumps(config))
        loopback_hub.add("tiny/strange", strange, SHA)
        asked = model("tiny/strange", "Q8_0")
        with pytest.raises(
            BadInputError, match=r"tiny/strange cannot be converted by the pinned llama\.cpp: "
        ) as raised:
            foresee(store, job.Steps(asked, source.look(asked), toolchain))
        assert re.search(said, str(raised.value))
        assert str(tmp_path) not in str(raised.value)
        assert leftovers(store) == []


def large_llama(tiny, directory):
    """A model in the shape of Llama 3 70B, in 30 shards that are holes behind their headers."""
    layers, hidden, forward, narrow, vocabulary = 80, 8192, 28672, 1024, 128256
    shapes = {"model.embed_tokens.weight": [vocabulary, hidden], "lm_head.weight": [vocabulary, hidden]}
    for layer in range(layers):
        block = f"model.layers.{layer}"
        shapes |= {
            f"{block}.self_attn.q_proj.weight": [hidden, hidden],
            f"{block}.self_attn.k_proj.weight": [narrow, hidden],
            f"{block}.self_attn.v_proj.weight": [narrow, hidden],
            f"{block}.self_attn.o_proj.weight": [hidden, hidden],
            f"{block}.mlp.gate_proj.weight": [forward, hidden],
            f"{block}.mlp.up_proj.weight": [forward, hidden],
            f"{block}.mlp.down_proj.weight": [hidden, forward],
            f"{block}.input_layernorm.weight": [hidden],
            f"{block}.post_attention_layernorm.weight": [hidden],
        }
    shapes["model.norm.weight"] = [hidden]
    ignored = shutil.ignore_patterns("*.safetensors", "*.safetensors.index.json")
    shutil.copytree(tiny, directory, ignore=ignored)
    config = json.loads((directory / "config.json").read_text()) | {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": forward,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": vocabulary,
    }
    (directory / "config.json").write_text(json.dumps(config))
    places = {}
    names = sorted(shapes)
    for number in range(30):
        name = f"model-{number + 1:05}-of-00030.safetensors"
        header, end = {}, 0
        for tensor in names[number::30]:
            size = 2 * math.prod(shapes[tensor])
            header[tensor] = {"dtype": "BF16", "shape": shapes[tensor], "data_offsets": [end, end + size]}
            places[tensor] = name
            end += size
        head = json.dumps(header).encode()
        (directory / name).write_bytes(struct.pack("<Q", len(head)) + head)
        os.truncate(directory / name, 8 + len(head) + end)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return directory
