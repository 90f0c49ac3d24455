"""Tiny Hugging Face models for the real toolchain, made here, without a network, byte for byte the same."""

from __future__ import annotations

import io
import json
import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

VOCABULARY = 1024
CONTEXT = 2048
CHATML = """\
{% for message in messages %}<|im_start|>{{ message['role'] }}
{{ message['content'] }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

LLAMA_CARD = """\
---
license: apache-2.0
language:
- en
pipeline_tag: text-generation
library_name: transformers
---

# Tiny Llama

Random numbers in the shape of a chat model.
"""

GEMMA_CARD = """\
---
library_name: transformers
extra_gated_heading: Access Gemma on Hugging Face
extra_gated_prompt: >-
  To access Gemma on Hugging Face, you\u2019re required to review and agree to
  Google\u2019s usage license. To do this, please ensure you\u2019re logged in to Hugging
  Face and click below. Requests are processed immediately.
extra_gated_button_content: Acknowledge license
license: gemma
---

# Gemma Model Card

**Model Page**: [Gemma](https://ai.google.dev/gemma/docs)

Random numbers in the shape of a base model.
"""

LICENSE = """\
                                 Apache License
                           Version 2.0, January 2004
                        http://www.apache.org/licenses/
"""


@dataclass(frozen=True)
class _Kind:
    architecture: str  # a class of transformers, whose configuration is its `config_class`
    seed: int
    shape: dict[str, Any]
    files: dict[str, str]
    special: dict[str, int] = field(default_factory=lambda: {"unk": 0, "bos": 1, "eos": 2})
    control: tuple[str, ...] = ()
    reserved: tuple[str, ...] = ()
    space: bool = True  # whether a text is read as if a space stood before it
    shard: str = "5GB"


_SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
}

_KINDS = {
    "llama": _Kind(
        "LlamaForCausalLM",
        seed=1,
        shape={**_SHAPE, "tie_word_embeddings": False},
        files={"README.md": LLAMA_CARD, "LICENSE": LICENSE, "chat_template.jinja": CHATML},
        control=("<|im_start|>", "<|im_end|>"),
        space=False,
        shard="2MB",
    ),
    "gemma": _Kind(
        "GemmaForCausalLM",
        seed=2,
        shape={**_SHAPE, "num_key_value_heads": 1, "hidden_activation": "gelu_pytorch_tanh"},
        files={"README.md": GEMMA_CARD},
        # The converter names ids 67 to 70 and 107 of every first Gemma, so those must be Gemma's own.
        special={"pad": 0, "eos": 1, "bos": 2, "unk": 3},
        reserved=(
            "<mask>",
            "[@BOS@]",
            *(f"<unused{i}>" for i in range(100)),
            "<start_of_turn>",
            "<end_of_turn>",
        ),
        space=False,
    ),
    "mixtral": _Kind(
        "MixtralForCausalLM",
        seed=3,
        shape={**_SHAPE, "intermediate_size": 256, "num_local_experts": 4, "num_experts_per_tok": 2},
        files={"README.md": "---\nlicense: apache-2.0\n---\n\n# Tiny Mixtral\n"},
    ),
    "odd": _Kind(
        "LlamaForCausalLM",
        seed=4,
        # Rows of 288 and 544 are multiples of 32 and not of 256: every K-quant and I-quant falls back.
        shape={
            **_SHAPE,
            "hidden_size": 288,
            "intermediate_size": 544,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "head_dim": 32,
        },
        files={"README.md": "---\nlicense: mit\n---\n\n# Odd Llama\n"},
    ),
}

KINDS = tuple(_KINDS)


def build(kind: str, directory: Path) -> Path:
    """Write the model `kind`, one of `KINDS`, into `directory` and return it. About two million parameters.

    "llama" has untied embeddings, two shards, a licence file and a chat template; "gemma" is a base model
    with tied embeddings and the card of a gated repo; "mixtral" has four experts; "odd" has rows that are no
    multiple of 256.
    """
    import torch  # here, for the seconds that it and the next take to load
    import transformers

    of = _KINDS[kind]
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tokenizer.json").unlink(missing_ok=True)  # or it would be read back
    model_class = getattr(transformers, of.architecture)
    tokens = _write_tokenizer(of, directory)
    config = model_class.config_class(
        **of.shape,
        **{f"{name}_token_id": number for name, number in of.special.items() if name != "unk"},
        vocab_size=VOCABULARY,
        max_position_embeddings=CONTEXT,
    )
    model = model_class(config).to(torch.bfloat16)
    generator = torch.Generator().manual_seed(of.seed)
    with torch.no_grad():
        for _, weight in sorted(model.named_parameters()):
            if weight.dim() > 1:  # norms stay as they are
                weight.copy_(_bell(tuple(weight.shape), generator))
        if config.tie_word_embeddings:
            # Loud layers over quiet embeddings: or else tied ones answer every token with itself.
            model.get_input_embeddings().weight.div_(8)
            model.model.norm.weight.fill_(8 - 1)  # Gemma adds one to its norms
        else:
            _teach(model, tokens)
    model.save_pretrained(directory, max_shard_size=of.shard)
    for name, text in of.files.items():
        (directory / name).write_text(text, encoding="utf-8")
    return directory


def _bell(shape: tuple[int, ...], generator: Any) -> Tensor:
    """Bell-shaped weights that keep the size of their input, from sums of integers: exact on any processor."""
    import torch

    bell = torch.randint(0, 256, (4, *shape), generator=generator).sum(0) * 2 - 4 * 255
    return bell / (2 * math.sqrt(4 * (256**2 - 1) / 12) * math.sqrt(shape[-1]))


def _teach(model: Any, tokens: list[int]) -> None:
    """Let the output layer know which token follows which in `TEXT`, so that some answers are sure ones.

    The row of a token gains the embeddings of the tokens that it follows. Multiples of 16-bit numbers, summed
    in 64 bits: exact in any order.
    """
    import torch

    follows = torch.zeros(VOCABULARY, VOCABULARY, dtype=torch.float64)
    for before, after in pairwise(tokens):
        follows[after, before] = 1
    rarity = follows.sum(1, keepdim=True).clamp(min=1).sqrt()
    embeddings = model.get_input_embeddings().weight.mul_(16)  # as loud as what the layers add to them
    output = model.get_output_embeddings().weight
    # 0.025 lifts what follows a few units over the rest.
    output.add_(0.025 * (follows @ embeddings.double()) / rarity)


def _write_tokenizer(of: _Kind, directory: Path) -> list[int]:
    """Train a SentencePiece model on `TEXT`, write it, and return the text's tokens."""
    import sentencepiece
    import transformers

    gemma = of.architecture == "GemmaForCausalLM"
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines()),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCABULARY,
        character_coverage=1.0,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        add_dummy_prefix=of.space,
        control_symbols=list(of.control),
        user_defined_symbols=list(of.reserved),
        **{f"{name}_id": of.special.get(name, -1) for name in ("unk", "bos", "eos", "pad")},
        num_threads=1,
        **({"bos_piece": "<bos>", "eos_piece": "<eos>"} if gemma else {}),
        minloglevel=2,
    )
    (directory / "tokenizer.model").write_bytes(model.getvalue())
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    added = [*of.special.values(), *map(pieces.piece_to_id, (*of.control, *of.reserved))]
    tokenizer_class = "GemmaTokenizer" if gemma else "LlamaTokenizer"
    config = {
        "tokenizer_class": tokenizer_class,
        "add_bos_token": True,
        "add_eos_token": False,
        "add_prefix_space": of.space,
        **{f"{name}_token": pieces.id_to_piece(number) for name, number in of.special.items()},
        "added_tokens_decoder": {
            str(number): {
                "content": pieces.id_to_piece(number),
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": not pieces.id_to_piece(number).startswith("<unused"),
            }
            for number in added
        },
        "clean_up_tokenization_spaces": False,
        "model_max_length": CONTEXT,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    fast = getattr(transformers, tokenizer_class).from_pretrained(directory)
    fast.backend_tokenizer.save(str(directory / "tokenizer.json"))
    return pieces.encode(TEXT)


# What the tokenizer learns its pieces from.
TEXT = """\
The lighthouse stood at the end of a long spit of stones, and for most of the year nobody came to it but birds.
Every evening the keeper climbed one hundred and twelve steps, trimmed the lamp, and wrote the weather in a book.
He wrote the same words so often that he had begun to leave out the vowels, and then the verbs, and then the day.
When the ferry stopped running in the autumn, the village sent him bread, lamp oil, and a letter in a tin box.
The letter asked whether he would like to come ashore for the winter, since the harbour now had an electric light.
He answered that he had counted the ships that passed, and that there were still more of them than of the lights.
A model of language reads a great many sentences and learns which word is likely to follow the words before it.
It stores what it has learned in large tables of numbers, and each of the numbers is kept with a certain precision.
Fewer bits for each number make the file smaller and the reading of it faster, but the answers become less exact.
The question is therefore not whether something is lost, but how much is lost, and whether anybody would notice it.
To measure this, run both models over the same text and compare the probabilities that they give to the next token.
If the two distributions are equal at every position, then the smaller model is as good as the one it was made from.
"How far is it to the station?" she asked. "About twenty minutes on foot," he said, "or five by bicycle."
"Then I shall walk," she answered, "because my train leaves at a quarter past nine, and I have no bicycle."
Mix 250 grams of flour with 3 eggs, half a litre of milk, a pinch of salt, and let the batter rest for 30 minutes.
Heat a little butter in the pan, pour in a ladle of batter, turn it once, and serve the pancakes with sugar and lemon.
The sum of the first n odd numbers is n * n: 1 = 1, 1 + 3 = 4, 1 + 3 + 5 = 9, 1 + 3 + 5 + 7 = 16, and so on.
In 1905, 1969 and 2024 the river rose above the old bridge, and each time the mark was cut into the stone again.
def mean(values): return sum(values) / len(values) if values else None
for (int i = 0; i < count; i++) { total += weights[i] * inputs[i]; }
SELECT name, size FROM files WHERE size > 1000000 ORDER BY size DESC LIMIT 10;
{"name": "example", "version": "1.0.2", "private": true, "keywords": ["test", "model", "data"]}
The committee met on Tuesday, heard three reports, accepted two of them, and returned the third with questions.
Nothing in the agreement prevents either party from publishing its own results, provided that the sources are named.
Under a microscope the crystal looks like a city seen from the air, with streets that cross at equal angles.
After the storm the children found a bottle on the beach, but the paper inside had been washed completely white.
What is a large language model? It is a program that continues a text, one small piece at a time.
"""
