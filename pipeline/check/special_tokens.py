"""The special tokens of a GGUF: which ids begin and end a text, and are they typed so that llama.cpp minds them.

llama.cpp stops at a token that is the end by its id, or whose text is one of a list of its own; it hides control
tokens, and finds in a prompt only what is typed control, user-defined or unknown (src/llama-vocab.cpp).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.check.verdict import failed, passed, skipped, warned
from pipeline.check.vocabulary import (
    BYTE,
    CONTROL,
    NORMAL,
    TYPE_NAMES,
    TYPES,
    UNKNOWN,
    USER_DEFINED,
    Added,
    UnreadableError,
    Vocabulary,
    of_source,
    quoted,
    read,
    read_json,
)

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.gguf_file import GGUFFile
    from pipeline.result import Verdict

CHECK = "special tokens"
# A name in transformers, and the key of its id in a GGUF (gguf.Keys.Tokenizer).
KEYS = {
    "bos": "tokenizer.ggml.bos_token_id",
    "eos": "tokenizer.ggml.eos_token_id",
    "unk": "tokenizer.ggml.unknown_token_id",
    "sep": "tokenizer.ggml.seperator_token_id",
    "pad": "tokenizer.ggml.padding_token_id",
    "cls": "tokenizer.ggml.cls_token_id",
    "mask": "tokenizer.ggml.mask_token_id",
    "eot": "tokenizer.ggml.eot_token_id",
    "eom": "tokenizer.ggml.eom_token_id",
    "fim_pre": "tokenizer.ggml.fim_pre_token_id",
    "fim_suf": "tokenizer.ggml.fim_suf_token_id",
    "fim_mid": "tokenizer.ggml.fim_mid_token_id",
    "fim_pad": "tokenizer.ggml.fim_pad_token_id",
    "fim_rep": "tokenizer.ggml.fim_rep_token_id",
    "fim_sep": "tokenizer.ggml.fim_sep_token_id",
}
ENDS = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")
# Texts at which llama.cpp stops whatever their id and type.
END_TEXTS = {
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
    "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>",
    "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~[",
    "<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]",
    "<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>", "<|file_sep|>",
}  # fmt: skip
# What llama.cpp takes as the end where a file names none.
DEFAULT_END = {"llama": 2, "gpt2": 11, "t5": 1, "plamo2": 2}
# Kinds of vocabulary of models that write on until they stop; others embed or translate.
GENERATING = ("llama", "gpt2", "gemma4", "rwkv", "plamo2")
AGAIN = "Convert again from the source with an up-to-date converter."
SET = "Correct it in place with gguf-py's `gguf_set_metadata.py FILE KEY ID`, or convert again."
STOP = "The model would not stop, or show its marks: convert again, with the token typed control in the source."


@dataclass(frozen=True)
class _Source:
    """What a model's directory says of its special tokens; each may say it in several places, not always alike."""

    ids: dict[str, set[int]]
    """All the ids that any place gives a name."""
    texts: dict[str, set[str]]
    """All the texts that any place gives a name."""
    ends: dict[int, str]
    """Where generation ends, and the file that says so."""
    added: list[Added]
    add: dict[str, set[bool]]
    """Whether `bos` and `eos` are put around a text, by each place that says it."""


def compare(gguf: GGUFFile, source: Path | None) -> list[Verdict]:
    """Return the verdicts "special tokens"; without a source, what can be said of the file alone."""
    try:
        ours = read(gguf)
    except UnreadableError as error:
        return [skipped(CHECK, f"no vocabulary to look in: {error}")]
    alone = _alone(gguf, ours)
    if source is None:
        return alone or [passed(CHECK, f"{_named(gguf, ours)}, of the right types")]
    try:
        theirs = _read(source)
    except UnreadableError as error:
        return [*alone, skipped(CHECK, f"the source cannot be read: {error}")]
    verdicts = (
        alone + _ids(gguf, ours, theirs) + _added(ours, theirs) + _ends(gguf, ours, theirs) + _flags(gguf, theirs)
    )
    return verdicts or [passed(CHECK, f"{_named(gguf, ours)}, with the ids and types of the source's")]


def _id(gguf: GGUFFile, name: str) -> int | None:
    value = gguf.metadata.get(KEYS[name])
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _named(gguf: GGUFFile, ours: Vocabulary) -> str:
    said = [f"{name} {ours.show(n)} ({n})" for name in ("bos", "eos") if (n := _id(gguf, name)) is not None]
    return ", ".join(said) or "no special tokens"


def _alone(gguf: GGUFFile, ours: Vocabulary) -> list[Verdict]:
    verdicts = []
    for name, key in KEYS.items():
        if key not in gguf.values:
            continue
        number = _id(gguf, name)
        if number is None or not 0 <= number < len(ours.tokens):
            what = f"{key} is {quoted(str(gguf.metadata.get(key)))}"
            verdicts.append(failed(CHECK, f"{what}, which is no id of the {len(ours.tokens)} tokens", SET))
    if TYPES not in gguf.values and ours.model in GENERATING:
        seen = f"{TYPES} is missing, so no token is a special one to llama.cpp"
        return [*verdicts, failed(CHECK, seen, AGAIN)]
    if KEYS["eos"] not in gguf.values and ours.model in GENERATING:
        verdicts += _no_end(gguf, ours)
    eos = _id(gguf, "eos")
    if eos is not None and 0 <= eos < len(ours.tokens) and ours.types[eos] in (NORMAL, BYTE):
        verdicts.append(_untyped(ours, eos, "the end of a text (eos)"))
    return verdicts


def _no_end(gguf: GGUFFile, ours: Vocabulary) -> list[Verdict]:
    default = DEFAULT_END.get(ours.model)
    ends = [n for n, token in enumerate(ours.tokens) if token in END_TEXTS]
    ends += [n for name in ENDS if (n := _id(gguf, name)) is not None and 0 <= n < len(ours.tokens)]
    if default is not None and default < len(ours.tokens) and ours.types[default] == CONTROL:
        return [warned(CHECK, f"{KEYS['eos']} is missing; llama.cpp takes {ours.show(default)} ({default})", SET)]
    if ends:
        seen = f"{KEYS['eos']} is missing; llama.cpp stops at {ours.show(ends[0])} ({ends[0]}) by its text"
        return [warned(CHECK, seen, SET)]
    return [failed(CHECK, f"{KEYS['eos']} is missing, and no token is one at which llama.cpp stops", SET)]


def _untyped(ours: Vocabulary, number: int, what: str) -> Verdict:
    """A token that should be special is not. llama.cpp mends those that it knows by their text."""
    kind = TYPE_NAMES.get(ours.types[number], "of no type")
    seen = f"{ours.show(number)} ({number}), {what}, is typed {kind}, not control"
    if ours.tokens[number] in END_TEXTS:
        return warned(CHECK, f"{seen}; llama.cpp knows this one by its text", AGAIN)
    return failed(CHECK, seen, STOP)


def _read(source: Path) -> _Source:
    vocabulary = of_source(source)
    tokenizer, config, generation, special_map = (
        read_json(source / name) or {}
        for name in ("tokenizer_config.json", "config.json", "generation_config.json", "special_tokens_map.json")
    )
    added = {one.id: one for one in vocabulary.added} if vocabulary else {}
    decoder = tokenizer.get("added_tokens_decoder")
    for number, one in decoder.items() if isinstance(decoder, dict) else ():
        if str(number).isdigit() and isinstance(one, dict) and isinstance(one.get("content"), str):
            added.setdefault(int(number), Added(int(number), one["content"], bool(one.get("special"))))
    inner = config.get("text_config")
    configs = [("config.json", config), ("generation_config.json", generation)]
    configs += [("config.json", inner)] if isinstance(inner, dict) else []
    ids: dict[str, set[int]] = {name: set() for name in KEYS}
    texts: dict[str, set[str]] = {name: set() for name in KEYS}
    for name in KEYS:
        for place in (tokenizer, special_map):
            value = place.get(f"{name}_token")
            content = value.get("content") if isinstance(value, dict) else value
            if isinstance(content, str):
                texts[name].add(content)
                ids[name].update(one.id for one in added.values() if one.content == content)
        for _, place in configs:
            ids[name].update(_numbers(place.get(f"{name}_token_id")))
    ends = {n: where for where, place in configs for n in _numbers(place.get("eos_token_id"))}
    ends |= {one.id: "tokenizer_config.json" for one in added.values() if one.content in texts["eos"]}
    return _Source(ids, texts, ends, list(added.values()), _adding(source, tokenizer, texts))


def _numbers(value: Any) -> list[int]:
    """An id, or a list of them, as `eos_token_id` may be either."""
    values = value if isinstance(value, list) else [value]
    return [n for n in values if isinstance(n, int) and not isinstance(n, bool) and n >= 0]


def _adding(source: Path, config: dict[str, Any], texts: dict[str, set[str]]) -> dict[str, set[bool]]:
    """Read the flags of tokenizer_config.json, and what the post-processor of tokenizer.json puts around one text.

    A ByteLevel one puts nothing, and the converter believes it more than the flags.
    """
    add: dict[str, set[bool]] = {name: set() for name in ("bos", "eos")}
    for name, said in add.items():
        if isinstance(flag := config.get(f"add_{name}_token"), bool):
            said.add(flag)
    after = (read_json(source / "tokenizer.json") or {}).get("post_processor")
    after = after if isinstance(after, dict) else {}
    processors = after.get("processors")
    for one in processors if isinstance(processors, list) else [after]:
        if not isinstance(one, dict):
            continue
        if one.get("type") in ("ByteLevel", "RobertaProcessing"):
            for said in add.values():
                said.add(one["type"] == "RobertaProcessing")
        single = one.get("single") if one.get("type") == "TemplateProcessing" else None
        if not isinstance(single, list) or not single or not all(isinstance(part, dict) for part in single):
            continue
        for name, part in (("bos", single[0]), ("eos", single[-1])):
            token = part.get("SpecialToken")
            add[name].add(isinstance(token, dict) and token.get("id") in texts[name])
    return add


def _ids(gguf: GGUFFile, ours: Vocabulary, theirs: _Source) -> list[Verdict]:
    """Hold each id that the file names against all that the source gives that name."""
    verdicts = []
    for name in KEYS:
        number = _id(gguf, name)
        if number is None or not 0 <= number < len(ours.tokens) or not (theirs.ids[name] or theirs.texts[name]):
            continue
        if number in theirs.ids[name] or ours.tokens[number] in theirs.texts[name]:
            continue
        if name == "eos" and number in theirs.ends:
            continue
        wanted = " or ".join(f"{ours.show(n)} ({n})" for n in sorted(theirs.ids[name])[:3])
        wanted = wanted or " or ".join(quoted(text) for text in sorted(theirs.texts[name])[:3])
        seen = f"{name} is {ours.show(number)} ({number}), and {wanted} in the source"
        # The converter sets a few of these by hand for some models; a wrong end or beginning breaks every answer.
        verdicts.append(failed(CHECK, seen, SET) if name in ("bos", "eos") else warned(CHECK, seen, SET))
    return verdicts


def _added(ours: Vocabulary, theirs: _Source) -> list[Verdict]:
    """Is every token that the source calls special one to llama.cpp."""
    special = (CONTROL, USER_DEFINED, UNKNOWN)
    inside = [one for one in theirs.added if one.special and 0 <= one.id < len(ours.tokens)]
    wrong = [one for one in inside if ours.types[one.id] not in special]
    known = [one for one in wrong if ours.tokens[one.id] in END_TEXTS]
    broken = [one for one in wrong if one not in known]
    verdicts = []
    if broken:
        verdict = _untyped(ours, broken[0].id, "special in the source")
        more = f"; {len(broken)} such tokens" if len(broken) > 1 else ""
        verdicts.append(failed(CHECK, verdict.seen + more, STOP))
    elif known:
        verdicts.append(_untyped(ours, known[0].id, "special in the source"))
    return verdicts


def _ends(gguf: GGUFFile, ours: Vocabulary, theirs: _Source) -> list[Verdict]:
    """Does llama.cpp stop at each token at which the source does."""
    stops = {_id(gguf, name) for name in ENDS}
    missed = [
        n
        for n in sorted(theirs.ends)
        if 0 <= n < len(ours.tokens) and n not in stops and ours.tokens[n] not in END_TEXTS
    ]
    if not missed:
        return []
    first = missed[0]
    seen = f"{ours.show(first)} ({first}) ends an answer in {theirs.ends[first]}, and llama.cpp does not stop at it"
    advice = f"Name it in {KEYS['eot']}: `gguf_new_metadata.py` of gguf-py adds the key."
    return [warned(CHECK, seen, advice)]


def _flags(gguf: GGUFFile, theirs: _Source) -> list[Verdict]:
    """Are `bos` and `eos` put around a text where the source does; it may contradict itself, then either is right."""
    verdicts = []
    for name, said in theirs.add.items():
        flag = gguf.metadata.get(f"tokenizer.ggml.add_{name}_token")
        if isinstance(flag, bool) and said and flag not in said:
            seen = f"tokenizer.ggml.add_{name}_token is {str(flag).lower()}, and {str(not flag).lower()} in the source"
            verdicts.append(failed(CHECK, seen, SET))
    return verdicts
