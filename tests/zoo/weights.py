"""References that are not their source: weights in the wrong place, of the wrong revision, with the wrong numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import models
import numpy as np

from zoo.draft import Draft
from zoo.specimen import Subject, broken, converted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zoo.kit import Kit

HEADS = 9
"""Of SmolLM2-135M."""


@broken("weights", "mesh-llm#177: tensors in the wrong place", r"blk\.3\.ffn_gate\.weight holds the weights of blk\.4")
def two_tensors_swapped(kit: Kit) -> Subject:
    draft = kit.draft()
    one, other = (draft.tensors[f"blk.{layer}.ffn_gate.weight"] for layer in (3, 4))
    one.data, other.data = other.data, one.data
    return converted(kit, kit.write(draft))


@broken(
    "weights",
    "ik_llama.cpp#601: tensors that were left out",
    r"1 weight of the source is not in the reference: .*layers\.7",
)
def tensor_left_out(kit: Kit) -> Subject:
    draft = kit.draft()
    del draft.tensors["blk.7.ffn_up.weight"]
    return converted(kit, kit.write(draft))


@broken(
    "weights", "llama.cpp PR 5631: values first thought to be transposed", r"blk\.2\.attn_output\.weight .*transposed"
)
def square_matrix_transposed(kit: Kit) -> Subject:
    draft = kit.draft()
    weights = draft.tensors["blk.2.attn_output.weight"].numbers()
    weights[:] = weights.T.copy()
    return converted(kit, kit.write(draft))


@broken("weights", "llama.cpp PR 3364, TinyLlama#24: heads permuted by the wrong count", r"attn_q\.weight .*permut")
def heads_not_permuted(kit: Kit) -> Subject:
    draft = kit.draft()
    for name, part in draft.tensors.items():
        if name.endswith("attn_q.weight"):
            rows = part.numbers()
            rows[:] = rows.reshape(HEADS, -1, 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)
    return converted(kit, kit.write(draft))


@broken("weights", "llama.cpp PR 5631: Gemma's norms without the one that belongs to them", r"norm\.weight .*(1|one)")
def norms_without_one(kit: Kit) -> Subject:
    model = kit.tiny(models.build("gemma", kit.room / "gemma"))
    draft = Draft(model.reference)
    for name, part in draft.tensors.items():
        if name.endswith("_norm.weight"):
            part.numbers()[:] -= 1
    return converted(kit, kit.write(draft, "gemma.gguf"), model.source)


@broken(
    "weights",
    "llama.cpp#22565, ollama#15908: norms 1.4 times what they are in the source",
    r"output_norm\.weight holds 1\.39 times the source",
)
def norm_scaled(kit: Kit) -> Subject:
    draft = kit.draft()
    draft.tensors["output_norm.weight"].numbers()[:] *= 1.39
    return converted(kit, kit.write(draft))


@broken(
    "weights", "metaseq#122: 18 values of OPT-175B damaged in one shard", r"blk\.11\.ffn_down\.weight differs in 18 of"
)
def eighteen_values_damaged(kit: Kit) -> Subject:
    draft = kit.draft()
    draft.tensors["blk.11.ffn_down.weight"].numbers()[17, 170:188] ^= 1 << 14
    return converted(kit, kit.write(draft))


@broken(
    "weights",
    "Llama 3.1 and Gemma 2: weights or tokenizers exchanged upstream after the first GGUFs",
    r"another revision or model",
)
def reference_of_another_revision(kit: Kit) -> Subject:
    draft, random = kit.draft(), np.random.default_rng(0)
    for part in draft.tensors.values():
        weights: NDArray = part.numbers()
        if part.type == "BF16":  # as another epoch of training would: every weight a little different
            weights ^= random.integers(1, 8, weights.shape, np.uint16)
    return converted(kit, kit.write(draft))


@broken(
    "weights",
    "llama.cpp#5706: an output matrix of its own, where the source has one with the embeddings",
    r"conversion: output\.weight holds",
)
def output_that_the_source_has_not(kit: Kit) -> Subject:
    draft = kit.draft()
    embedding = draft.tensors["token_embd.weight"]
    twin = type(embedding)(embedding.shape, embedding.type, embedding.data)
    twin.numbers()[:] = np.roll(twin.numbers(), 1, axis=0)
    draft.tensors["output.weight"] = twin
    return converted(kit, kit.write(draft))


@broken("hyperparameters", "llama.cpp PR 2768: CodeLlama's rope_theta not carried over", r"rope base is 10000.*100000")
def rope_base_wrong(kit: Kit) -> Subject:
    return converted(kit, kit.write(kit.draft().set(llama__rope__freq_base=10000.0)))


@broken("hyperparameters", "llama.cpp#9310: rms_norm_eps of 1e-6 written as 1e-5", r"1e-06.*1e-05")
def norm_epsilon_wrong(kit: Kit) -> Subject:
    return converted(kit, kit.write(kit.draft().set(llama__attention__layer_norm_rms_epsilon=1e-6)))


@broken("hyperparameters", "llama.cpp#2376: Llama 2 70B with the wrong number of key and value heads", r"head.*9.*3")
def key_value_heads_wrong(kit: Kit) -> Subject:
    return converted(kit, kit.write(kit.draft().set(llama__attention__head_count_kv=9)))


@broken(
    "hyperparameters",
    "llama.cpp PR 3240: rope scaling that the model was not trained with",
    r"rope scaling is 'linear'",
)
def rope_scaling_invented(kit: Kit) -> Subject:
    keys = {"llama__rope__scaling__type": "linear", "llama__rope__scaling__factor": 4.0}
    return converted(kit, kit.write(kit.draft().set(**keys)))


@broken(
    "hyperparameters",
    "llama.cpp PR 12957: half of each head rotated where the model rotates all",
    r"the rope turns 32 dimensions of each head, and 64 of 64",
)
def half_of_each_head_rotated(kit: Kit) -> Subject:
    return converted(kit, kit.write(kit.draft().set(llama__rope__dimension_count=32)))
