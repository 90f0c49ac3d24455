"""Does the GGUF cut a text into the tokens that its source does: vocabulary, pre-tokenizer, and ten thousand texts.

The source is `tokenizer.json`, else `tokenizer.model`; the other side is llama-tokenize. Not every difference is the
file's fault: llama.cpp knows no normalisation, and its patterns for a few families (GPT-4o's, for one) are not quite
theirs, in every file of them. So a difference in ordinary text fails a byte-level BPE only where another
pre-tokenizer of the same llama.cpp does better, and it is that one which should have been named.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.check import corpus, encode, pre_tokenizer, vocabulary
from pipeline.check.corpus import SPECIAL, Sample
from pipeline.check.verdict import failed, passed, skipped, warned
from pipeline.check.vocabulary import CHECK, CONTROL, SCORES, USER_DEFINED, SourceVocabulary, Vocabulary, quoted
from pipeline.errors import ToolchainError

if TYPE_CHECKING:
    from pipeline.gguf_file import GGUFFile
    from pipeline.result import Verdict

# Share of one kind of ordinary text from which on a file is broken, and of all of it where no cause is found.
TOO_MANY, FAR_TOO_MANY = 0.02, 0.25
# Of the model's own special tokens, how many are written into the texts.
SPECIAL_TOKENS = 40
# Texts on which other pre-tokenizers are tried, and the share of the differences that the right one may leave. (To
# gpt-oss another family's leaves 22 %, since llama.cpp's own pattern for it is not exact.)
TRIED, LEFT = 200, 0.1
# Vocabularies whose texts llama.cpp means to cut exactly as the source does.
EXACT = ("gpt2", "llama", "gemma4")
LIMITS = "Most likely a limit of llama.cpp that every GGUF of this model has: compare with another converter's file."
AGAIN = vocabulary.AGAIN


@dataclass(frozen=True)
class Difference:
    sample: Sample
    ours: list[int]
    theirs: list[int]

    def show(self, vocabulary: Vocabulary) -> str:
        """Return the text and the first tokens that differ, with their ids."""
        same = 0
        for a, b in zip(self.ours, self.theirs, strict=False):
            if a != b:
                break
            same += 1
        here, there = (
            " ".join(f"{vocabulary.show(n)} ({n})" for n in ids[same : same + 3]) or "nothing more"
            for ids in (self.ours, self.theirs)
        )
        return f"{quoted(self.sample.text, 40)} has {here} at token {same}, and {there} in the source"


def compare(gguf: GGUFFile, source: Path | None, tools_dir: Path | None, llama_tree: Path | None) -> list[Verdict]:
    """Return the verdicts "tokenizer"; without a source, or without tools, those that can do without.

    `source` is the model's directory, `tools_dir` that of the built tools, `llama_tree` llama.cpp's source.
    """
    try:
        ours = vocabulary.read(gguf)
    except vocabulary.UnreadableError as error:
        if gguf.metadata.get("tokenizer.ggml.model") in ("none", "no_vocab"):
            return [skipped(CHECK, "the file has no vocabulary, and says so")]
        return [failed(CHECK, str(error), AGAIN)]
    pre = pre_tokenizer.check(gguf, llama_tree)
    verdicts = [pre] if pre else []
    if source is None:
        return verdicts or [skipped(CHECK, f"a vocabulary of the kind {quoted(ours.model)} needs a source to compare")]
    try:
        theirs = vocabulary.of_source(source)
        size = _vocab_size(source)
    except vocabulary.UnreadableError as error:
        return [*verdicts, skipped(CHECK, f"the source's tokenizer cannot be read: {error}")]
    if theirs is not None:
        verdicts += vocabulary.compare(gguf, ours, theirs, size)
    if tools_dir is None or not (tools_dir / encode.PROGRAM).is_file():
        return [*verdicts, skipped(CHECK, f"{encode.PROGRAM} is not there")]
    if any(verdict.outcome == "fail" for verdict in verdicts) and not (pre and pre.outcome == "fail"):
        return verdicts  # another vocabulary has other tokens everywhere
    with tempfile.TemporaryDirectory() as room:
        comparison = _Comparison(gguf, ours, source, (tools_dir, llama_tree), Path(room))
        return verdicts + comparison.verdicts(theirs)


def _vocab_size(source: Path) -> int | None:
    config = vocabulary.read_json(source / "config.json") or {}
    inner = config.get("text_config")
    size = config.get("vocab_size") or (inner.get("vocab_size") if isinstance(inner, dict) else None)
    return size if isinstance(size, int) else None


@dataclass(frozen=True)
class _Comparison:
    gguf: GGUFFile
    ours: Vocabulary
    source: Path
    llama: tuple[Path, Path | None]
    room: Path

    def verdicts(self, theirs: SourceVocabulary | None) -> list[Verdict]:
        written = [one.content for one in theirs.added] if theirs else []
        written += [
            t for t, kind in zip(self.ours.tokens, self.ours.types, strict=False) if kind in (CONTROL, USER_DEFINED)
        ]
        written = [token for token in dict.fromkeys(written) if _typed(token)]
        special = written[: SPECIAL_TOKENS // 2] + written[SPECIAL_TOKENS // 2 :][-SPECIAL_TOKENS // 2 :]
        samples = corpus.strings(special)
        for number in encode.separators(self.ours):
            text = self.ours.tokens[number]
            try:
                return self._against(samples, (number, text))
            except encode.NoSeparatorError:
                continue
        return [skipped(CHECK, "no special token of the vocabulary can stand between texts")]

    def _against(self, samples: list[Sample], separator: tuple[int, str]) -> list[Verdict]:
        samples = [sample for sample in samples if separator[1] not in sample.text]
        usual = [sample for sample in samples if not sample.long]
        long = [sample for sample in samples if sample.long]
        with ThreadPoolExecutor(3) as pool:
            there = pool.submit(encode.by_source, self.source, [s.text for s in usual + long], self.room)
            here = pool.submit(self._llama, usual, separator)
            here_long = pool.submit(self._llama, long, separator)
            try:
                source = there.result()
            except ToolchainError as error:
                return [skipped(CHECK, f"the source's tokenizer gave no tokens: {encode.last_line(error)}")]
            try:
                ids = here.result()
            except ToolchainError as error:
                if said := encode.loading_error(self.llama[0], self.gguf.path, self.room):
                    return [failed(CHECK, f"llama.cpp does not load the vocabulary: {said}", AGAIN)]
                return [warned(CHECK, f"llama-tokenize stops at a text: {encode.last_line(error)}", LIMITS)]
            verdicts = []
            try:
                ids = ids + here_long.result()
            except ToolchainError as error:
                verdicts.append(
                    warned(CHECK, f"llama-tokenize stops at very long words: {encode.last_line(error)}", LIMITS)
                )
        compared = [s for s in (usual + long)[: len(ids)] if source.parses_special or s.kind != SPECIAL]
        differences = []
        for n, sample in enumerate((usual + long)[: len(ids)]):
            if sample.kind == SPECIAL and not source.parses_special:
                continue
            agreed = source.ids[n] == ids[n] or (source.second is not None and source.second[n] == ids[n])
            if not agreed:
                differences.append(Difference(sample, ids[n], source.ids[n]))
        return verdicts + self._judge(compared, differences, dict(zip(usual, source.ids, strict=False)), separator)

    def _llama(self, samples: list[Sample], separator: tuple[int, str]) -> list[list[int]]:
        return encode.by_llama(self.llama[0], self.gguf.path, [s.text for s in samples], separator, self.room)

    def _judge(
        self,
        compared: list[Sample],
        differences: list[Difference],
        expected: dict[Sample, list[int]],
        separator: tuple[int, str],
    ) -> list[Verdict]:
        total = Counter(sample.kind for sample in compared)
        unparsed = [d for d in differences if d.sample.kind == SPECIAL and len(d.theirs) == 1 and len(d.ours) > 1]
        unparsed = unparsed if self.ours.model in EXACT else []
        verdicts = []
        if unparsed:
            what = f"{unparsed[0].show(self.ours)}; {len(unparsed)} such tokens"
            advice = "Convert again: a special token is not typed as one, so a chat's marks reach the model as text."
            verdicts.append(failed(CHECK, f"a special token is read as text: {what}", advice))
        ordinary = [d for d in differences if d.sample.ordinary]
        other = [d for d in differences if not d.sample.ordinary and d not in unparsed]
        if ordinary:
            verdicts.append(self._ordinary(total, ordinary, expected, separator))
        if other and not any(verdict.outcome == "fail" for verdict in verdicts):
            seen = f"{_shares(total, other)} have other tokens than the source's: {other[0].show(self.ours)}"
            verdicts.append(warned(CHECK, seen, LIMITS))
        if verdicts:
            return verdicts
        return [passed(CHECK, f"{len(compared)} texts of {len(total)} kinds have the source's tokens")]

    def _ordinary(
        self,
        total: Counter[str],
        ordinary: list[Difference],
        expected: dict[Sample, list[int]],
        separator: tuple[int, str],
    ) -> Verdict:
        by_kind = Counter(d.sample.kind for d in ordinary)
        worst = max(by_kind, key=lambda kind: by_kind[kind] / total[kind])
        example = next(d for d in ordinary if d.sample.kind == worst)
        seen = f"{_shares(total, ordinary)} have other tokens than the source's: {example.show(self.ours)}"
        many = by_kind[worst] > TOO_MANY * total[worst]
        if self.ours.model not in EXACT:
            return warned(CHECK, seen, LIMITS)
        if self.ours.model != pre_tokenizer.BPE:
            return failed(CHECK, f"{self._cause(ordinary)}{seen}", AGAIN) if many else warned(CHECK, seen, LIMITS)
        differing = [d.sample for d in ordinary[:: max(1, 2 * len(ordinary) // TRIED)]]
        left_out = {d.sample for d in ordinary}
        alike = [sample for sample in expected if sample.ordinary and sample not in left_out]
        tried = differing + alike[:: max(1, 2 * len(alike) // TRIED)]
        wanted = [expected[sample] for sample in tried]
        found = pre_tokenizer.better(self.gguf, self.llama, [s.text for s in tried], wanted, separator, self.room)
        named = self.gguf.metadata.get(encode.PRE)
        named = quoted(str(named)) if named else "missing"
        if found and found.differing <= LEFT * len(differing):
            what = f"{encode.PRE} is {named}, which splits {worst} otherwise than the source; with {found.pre!r}"
            seen = f"{what} {found.differing} of {len(tried)} texts tried differ, not {len(differing)}. {seen}"
            return failed(CHECK, seen, pre_tokenizer.CONVERT) if many else warned(CHECK, seen, pre_tokenizer.CONVERT)
        if len(ordinary) > FAR_TOO_MANY * sum(n for kind, n in total.items() if corpus.KINDS[kind].ordinary):
            return failed(CHECK, seen, AGAIN)
        return warned(CHECK, f"{seen}; no other pre-tokenizer of this llama.cpp fits", LIMITS)

    def _cause(self, differences: list[Difference]) -> str:
        """Name what makes a SentencePiece vocabulary cut otherwise, a colon behind; empty where it is not known."""
        try:
            scores = set(vocabulary.numbers_or_strings(self.gguf, SCORES, float))
        except vocabulary.UnreadableError as error:
            return f"{error}: "
        if len(scores) == 1:
            return f"every token has the same score, {scores.pop():g}, so pieces merge in no order: "
        begun = [d for d in differences if d.ours and d.theirs]
        starts = [tuple(self.ours.show(ids[0]).startswith("'▁") for ids in (d.ours, d.theirs)) for d in begun]
        for pair, what in (((True, False), "a space is put before"), ((False, True), "no space is put before")):
            if starts.count(pair) > 0.5 * len(starts):
                return f"{what} each text (tokenizer.ggml.add_space_prefix): "
        return ""


def _shares(total: Counter[str], differences: list[Difference]) -> str:
    """Return `106 of 1000 digits, 120 of 1000 whitespace`, the worst three kinds."""
    by_kind = Counter(d.sample.kind for d in differences)
    worst = sorted(by_kind, key=lambda kind: -by_kind[kind] / total[kind])[:3]
    return ", ".join(f"{by_kind[kind]} of {total[kind]} {kind}" for kind in worst)


def _typed(token: str) -> bool:
    """Whether a special token can be written into a text: it has more than spaces, is short, and is UTF-8."""
    return bool(token.strip()) and len(token) <= 64 and token.encode(errors="ignore").decode() == token
