"""Quants that are not what their reference and their recipe give: damaged, mislabelled, of other weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ggufs
import numpy as np

from pipeline import recipe, shell
from pipeline.result import Recipe
from zoo.draft import Draft
from zoo.specimen import Subject, broken, quantized

if TYPE_CHECKING:
    from pathlib import Path

    from zoo.kit import Kit

Q4_K_M = recipe.builtin("Q4_K_M")
GATE = "blk.5.ffn_gate.weight"
"""Of Q5_0 in a Q4_K_M of SmolLM2, whose rows of 576 no block of Q4_K divides."""
DOWN = "blk.5.ffn_down.weight"
"""Of Q4_K or Q6_K, with rows of 1536."""


def _patched(kit: Kit, old: bytes, new: bytes) -> Path:
    """A Q4_K_M in whose header bytes stand for others, as many."""
    content = kit.smol.quant(Q4_K_M).read_bytes()
    assert content.count(old) == 1
    path = kit.directory() / "SmolLM2-135M-Instruct-Q4_K_M.gguf"
    path.write_bytes(content.replace(old, new))
    return path


def _written(kit: Kit, draft: Draft, quant: str = "Q4_K_M") -> Subject:
    return quantized(kit, kit.write(draft, f"SmolLM2-135M-Instruct-{quant}.gguf"), recipe.builtin(quant))


def llama_quantize(kit: Kit, model: Path, quant: str, imatrix: Path, *options: str) -> Path:
    path = kit.directory() / f"SmolLM2-135M-Instruct-{quant}.gguf"
    (path.parent / "imatrix.gguf").symlink_to(imatrix)  # the name is written into the file
    options = ("--imatrix", "imatrix.gguf", *options)
    command = [kit.llama.path("llama-quantize"), *options, model, path, quant, str(kit.llama.threads)]
    shell.run(command, cwd=path.parent, doing=f"making a {quant} for the zoo")
    return path


@broken("file", "moly-ai#328, oobabooga/textgen#6080: a download that broke off, or one part of two", r"truncated")
def file_cut_short(kit: Kit) -> Subject:
    content = kit.smol.quant(Q4_K_M).read_bytes()
    path = kit.directory() / "SmolLM2-135M-Instruct-Q4_K_M.gguf"
    path.write_bytes(content[: len(content) * 3 // 4])
    return quantized(kit, path, Q4_K_M)


@broken("file", "ollama#8456: bytes behind the last tensor are read as a second file", r"trailing bytes")
def bytes_behind_the_end(kit: Kit) -> Subject:
    path = kit.directory() / "SmolLM2-135M-Instruct-Q4_K_M.gguf"
    path.write_bytes(kit.smol.quant(Q4_K_M).read_bytes() + b"<html>429 Too Many Requests</html>" * 8)
    return quantized(kit, path, Q4_K_M)


@broken(
    "file",
    "ollama#8456: tensors that do not lie where general.alignment puts them",
    r"which is no multiple of the alignment, 4096",
)
def alignment_not_kept(kit: Kit) -> Subject:
    return _written(kit, Draft(kit.smol.quant(Q4_K_M)).set(general__alignment=4096))


@broken(
    "file",
    "1bit-MONSTER#1606, sparkinfer#25: offsets that nobody checks",
    r"two tensors overlap: blk\.5\.attn_k\.weight begins at .*, within blk\.5\.attn_q",
)
def two_tensors_in_one_place(kit: Kit) -> Subject:
    tensors = Draft(kit.smol.quant(Q4_K_M)).file.tensors
    one, other = tensors["blk.5.attn_k.weight"], tensors["blk.5.attn_q.weight"]
    kind = ggufs.IDS[one.type]
    old = ggufs.info(one.name, one.shape, kind, one.offset)
    return quantized(kit, _patched(kit, old, ggufs.info(one.name, one.shape, kind, other.offset)), Q4_K_M)


@broken(
    "file",
    "miniclaw-os#495: an unfinished download, whose file has its full size and zeros to the end",
    r"zero|written",
)
def download_unfinished(kit: Kit) -> Subject:
    content = bytearray(kit.smol.quant(Q4_K_M).read_bytes())
    half = len(content) // 2
    content[half:] = bytes(len(content) - half)
    path = kit.directory() / "SmolLM2-135M-Instruct-Q4_K_M.gguf"
    path.write_bytes(content)
    return quantized(kit, path, Q4_K_M)


@broken(
    "tensors",
    "ik_llama.cpp#601: tensors that were left out",
    r"missing.*blk\.9\.ffn_up\.weight|blk\.9\.ffn_up\.weight.*missing",
)
def tensor_dropped(kit: Kit) -> Subject:
    draft = kit.draft("Q4_K_M")
    del draft.tensors["blk.9.ffn_up.weight"]
    return _written(kit, draft)


@broken("tensors", "llama.cpp PR 5631: rows for columns", r"blk\.4\.attn_k\.weight.*\[?\(?192, 576|shape")
def shape_transposed(kit: Kit) -> Subject:
    draft = kit.draft("Q4_K_M")
    part = draft.tensors["blk.4.attn_k.weight"]
    part.shape = part.shape[::-1]
    return _written(kit, draft)


@broken("tensors", "mesh-llm#177: a tool that writes tensors it has not got", r"blk\.30\.attn_norm\.weight")
def tensor_of_nobody(kit: Kit) -> Subject:
    draft = kit.draft("Q4_K_M")
    draft.tensors["blk.30.attn_norm.weight"] = draft.tensors["blk.29.attn_norm.weight"]
    return _written(kit, draft)


@broken("metadata", "llama.cpp#13298: an end-of-turn token edited by hand", r"eos_token_id")
def end_of_text_changed_while_quantizing(kit: Kit) -> Subject:
    return _written(kit, kit.draft("Q4_K_M").set(tokenizer__ggml__eos_token_id=0))


@broken("metadata", "ggufdoctor's survey: a template from before upstream mended its own", r"chat_template")
def template_from_before(kit: Kit) -> Subject:
    draft = kit.draft("Q4_K_M")
    old = str(draft.file.metadata["tokenizer.chat_template"]).replace("assistant", "bot")
    return _written(kit, draft.set(tokenizer__chat_template=old))


@broken("metadata", "llama.cpp PR 3240: a rope base that the loader makes up", r"rope\.freq_base")
def rope_base_lost_while_quantizing(kit: Kit) -> Subject:
    return _written(kit, kit.draft("Q4_K_M").drop("llama.rope.freq_base"))


@broken("types", "llama.cpp#27201: a file that holds something else than its name", r"named Q8_0")
def four_bits_named_eight(kit: Kit) -> Subject:
    path = kit.directory() / "SmolLM2-135M-Instruct-Q8_0.gguf"
    path.write_bytes(kit.smol.quant(Q4_K_M).read_bytes())
    return quantized(kit, path, None)


@broken(
    "types",
    "TurboLLM#171, ODS#2516: general.file_type that says another type",
    r"made as Q4_K_M, and general.file_type says Q8_0",
)
def file_type_mislabelled(kit: Kit) -> Subject:
    return _written(kit, kit.draft("Q4_K_M").set(general__file_type=7))


@broken(
    "types",
    "fastllm PR 715 and every table copied by hand: one type read as another that is as large",
    r"IQ4_NL.*Q4_0|Q4_0.*IQ4_NL",
)
def type_of_a_tensor_mislabelled(kit: Kit) -> Subject:
    draft = kit.draft("Q4_0")
    draft.tensors[GATE].type = "IQ4_NL"
    return _written(kit, draft, "Q4_0")


@broken("types", "llama.cpp#27201: the name of one mix and the content of another", r"Q4_K_S|planned")
def small_mix_sold_as_medium(kit: Kit) -> Subject:
    path = kit.directory() / "SmolLM2-135M-Instruct-Q4_K_M.gguf"
    path.write_bytes(kit.smol.quant(recipe.builtin("Q4_K_S")).read_bytes())
    return quantized(kit, path, Q4_K_M)


@broken(
    "blocks",
    "ik_llama.cpp#649: 61,440 blocks with NaN in published files",
    r"blk\.5\.ffn_down\.weight.*NaN|NaN.*blk\.5\.ffn_down",
)
def nan_in_one_block(kit: Kit) -> Subject:
    draft = kit.draft("Q4_K_M")
    blocks = draft.tensors[DOWN].blocks()
    scale = 208 if draft.tensors[DOWN].type == "Q6_K" else 0
    blocks[1000, scale : scale + 2] = np.frombuffer(np.float16("nan").tobytes(), np.uint8)
    return _written(kit, draft)


@broken("blocks", "ik_llama.cpp#649: and Inf", r"blk\.5\.ffn_gate\.weight.*Inf|Inf.*blk\.5\.ffn_gate")
def infinite_scale(kit: Kit) -> Subject:
    draft = kit.draft("Q4_K_M")
    draft.tensors[GATE].blocks()[77, :2] = np.frombuffer(np.float16("inf").tobytes(), np.uint8)
    return _written(kit, draft)


@broken(
    "blocks",
    "llama.cpp#12913: scales out of all proportion, and incoherent answers",
    r"blk\.5\.ffn_gate\.weight.*scale|scale.*blk\.5\.ffn_gate",
)
def absurd_scale(kit: Kit) -> Subject:
    draft = kit.draft("Q4_K_M")
    draft.tensors[GATE].blocks()[77, :2] = np.frombuffer(np.float16(30_000).tobytes(), np.uint8)
    return _written(kit, draft)


@broken(
    "blocks",
    "huggingface_hub PR 3644: a part that was never transferred",
    r"blk\.5\.ffn_gate\.weight.*zero|zero.*blk\.5\.ffn_gate",
)
def page_of_zeros(kit: Kit) -> Subject:
    draft = kit.draft("Q4_K_M")
    draft.tensors[GATE].blocks()[4_000 : 4_000 + 186] = 0
    return _written(kit, draft)


@broken(
    "blocks",
    "metaseq#122, huggingface_hub PR 3644: a part damaged in transfer or on a disk",
    r"blk\.5\.ffn_gate\.weight",
)
def page_of_noise(kit: Kit) -> Subject:
    draft = kit.draft("Q4_K_M")
    noise = np.random.default_rng(0).integers(0, 256, (186, draft.tensors[GATE].blocks().shape[1]), np.uint8)
    draft.tensors[GATE].blocks()[4_000 : 4_000 + 186] = noise
    return _written(kit, draft)


@broken("values", "mesh-llm#177: tensors in the wrong place", r"blk\.3\.ffn_gate\.weight holds the weights of blk\.4")
def two_quantized_tensors_swapped(kit: Kit) -> Subject:
    draft = kit.draft("Q4_K_M")
    one, other = (draft.tensors[f"blk.{layer}.ffn_gate.weight"] for layer in (3, 4))
    one.data, other.data = other.data, one.data
    return _written(kit, draft)


@broken(
    "values",
    "llama.cpp#7062: an adapter merged into the reference and not into the quant",
    r"blk\.8\.attn_v\.weight holds other values",
)
def one_tensor_of_a_finetune(kit: Kit) -> Subject:
    reference = Draft(kit.smol.reference)
    weights = reference.tensors["blk.8.attn_v.weight"].numbers()
    weights ^= np.random.default_rng(0).integers(0, 256, weights.shape, np.uint16) << 4
    tuned = kit.write(reference)
    return quantized(kit, llama_quantize(kit, tuned, "Q8_0", kit.smol.imatrix), recipe.builtin("Q8_0"))


@broken(
    "values",
    "Llama 3.1 and Gemma 2: a reference of before upstream exchanged the weights",
    r"token_embd\.weight differs .* another revision",
)
def stale_reference(kit: Kit) -> Subject:
    reference, random = Draft(kit.smol.reference), np.random.default_rng(0)
    for part in reference.tensors.values():
        weights = part.numbers()
        if part.type == "BF16":
            weights ^= random.integers(0, 16, weights.shape, np.uint16)
    stale = kit.write(reference)
    return quantized(kit, llama_quantize(kit, stale, "Q6_K", kit.smol.imatrix), recipe.builtin("Q6_K"))


@broken(
    "values",
    "llama.cpp PR 1691, hipfire#634: quantized from a quant",
    r"about what Q4_0 leaves: was it made from a quantized file",
)
def quantized_from_a_quant(kit: Kit) -> Subject:
    q4 = kit.smol.quant(recipe.builtin("Q4_0"))
    made = llama_quantize(kit, q4, "Q8_0", kit.smol.imatrix, "--allow-requantize")
    return quantized(kit, made, recipe.builtin("Q8_0"))


@broken(
    "derivation",
    "mradermacher's i1 repos by name: the imatrix is named and was not used",
    r"quantized without the imatrix",
)
def imatrix_named_and_not_used(kit: Kit) -> Subject:
    ours = kit.draft("Q4_K_M")
    without = Recipe(name="Q4_K_M", base="Q4_K_M", imatrix=False)
    draft = Draft(kit.smol.quant(without))
    draft.keys |= {key: value for key, value in ours.keys.items() if key.startswith("quantize.imatrix")}
    return _written(kit, draft)


@broken(
    "derivation",
    "llama.cpp#6552, #9167: an imatrix that is not this model's",
    r"not what the reference and the imatrix give",
)
def imatrix_of_a_finetune_used(kit: Kit) -> Subject:
    other = Draft(kit.smol.imatrix)
    for name, part in other.tensors.items():
        if name.endswith(".in_sum2"):
            sums = part.numbers()
            sums[:] = np.roll(sums, 7, axis=1)
    matrix = kit.write(other, "imatrix.gguf")
    return quantized(kit, llama_quantize(kit, kit.smol.reference, "Q4_K_M", matrix), Q4_K_M)


@broken(
    "metadata",
    "llama.cpp#14979: an imatrix of other entries than the one that is published",
    r"another imatrix than ours",
)
def imatrix_keys_of_another(kit: Kit) -> Subject:
    return _written(kit, kit.draft("Q4_K_M").set(quantize__imatrix__dataset="groups_merged.txt"))


@broken("metadata", "IBM/gguf PR 8: nothing says what a file was made of", r"quantize\.imatrix|imatrix")
def imatrix_keys_missing(kit: Kit) -> Subject:
    draft = kit.draft("Q4_K_M")
    return _written(kit, draft.drop(*(key for key in list(draft.keys) if key.startswith("quantize.imatrix"))))


@broken(
    "quality",
    "llama.cpp#12913: a file of few bits that talks nonsense",
    r"mean KL divergence .* allowed for files with weights in",
)
def recipe_that_ruins_the_model(kit: Kit) -> Subject:
    of = Recipe(name="Q4_K_X", base="Q4_K_M", tensors={r"blk\.[01]\.ffn_down": "TQ1_0"})
    return quantized(kit, kit.smol.quant(of), of)
