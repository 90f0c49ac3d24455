"""What a job made, measured and decided: the one JSON file a job leaves, and what a release is made of."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, field_serializer, field_validator, model_validator

from pipeline.tensor_names import expand, group


class Record(BaseModel):
    """A frozen value that reads and writes JSON; an unknown key is an error, so old files are noticed."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Estimate(Record):
    """A mean and its standard error, in the unit of the field that holds it."""

    value: float
    error: float

    @property
    def interval(self) -> float:
        """Half the width of the 95 % confidence interval (normal approximation)."""
        return 1.96 * self.error


class FileEntry(Record):
    """One file of a release; `size` in bytes."""

    name: str
    size: int
    sha256: str

    @property
    def entry(self) -> FileEntry:
        """Name, size and sha256 alone."""
        return FileEntry(name=self.name, size=self.size, sha256=self.sha256)


class Fallback(Record):
    """A tensor that could not have the type its recipe wanted (its rows do not divide into blocks)."""

    tensor: str
    wanted: str
    used: str


class QuantFile(FileEntry):
    """The quantized GGUF, as read back from the file itself."""

    parameters: int
    bits_per_weight: float
    """Bits of tensor data per parameter, over all tensors, metadata left out."""
    types: dict[str, int]
    """Number of tensors of each ggml type."""
    weights: dict[str, int] = {}
    """Number of parameters of each ggml type; empty in results of before it was counted."""
    fallbacks: tuple[Fallback, ...]
    """In JSON `{"Q4_K": {"Q5_0": {"blk.*.ffn_down.weight": "0-29"}}}`: wanted, used, tensors by layer."""

    @field_serializer("fallbacks")
    def _grouped(self, fallbacks: tuple[Fallback, ...]) -> dict[str, dict[str, dict[str, str]]]:
        swaps: dict[str, dict[str, list[str]]] = {}
        for f in fallbacks:
            swaps.setdefault(f.wanted, {}).setdefault(f.used, []).append(f.tensor)
        return {wanted: {used: group(names) for used, names in used_by.items()} for wanted, used_by in swaps.items()}

    @field_validator("fallbacks", mode="before")
    @classmethod
    def _one_by_one(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return [
            Fallback(tensor=tensor, wanted=wanted, used=used)
            for wanted, used_by in value.items()
            for used, groups in used_by.items()
            for tensor in expand(groups)
        ]


class Verdict(Record):
    """What one check decided: what was seen, and what to do about it (empty for a pass).

    "skip": the check did not run, and `seen` says why; it speaks neither for nor against the file.
    """

    check: str
    outcome: Literal["pass", "warn", "fail", "skip"]
    seen: str
    advice: str = ""


class Answer(Record):
    """The greedy answer to the test prompt. `stopped`: the model ended it, not the token limit."""

    text: str
    stopped: bool


class Offload(Record):
    """How many of a model's layers ran on the GPU."""

    layers: int
    of: int


class Quality(Record):
    """A file against the reference's logits, as llama-perplexity measures them over the evaluation text.

    Divergences are in nats per token, `same_top` in percent, perplexities per token.
    """

    mean_kld: Estimate
    median_kld: float
    p999_kld: float
    max_kld: float
    ppl_ratio: Estimate
    same_top: Estimate
    ppl: Estimate
    chunks: int
    context: int
    offload: Offload


class Speed(Record):
    """Tokens a second from llama-bench (mean and standard deviation over `repetitions`), on `machine`."""

    prompt_tokens: int
    prompt_rate: Estimate
    generated_tokens: int
    generation_rate: Estimate
    repetitions: int
    threads: int
    machine: str
    offload: Offload


class Recipe(Record):
    """How one quant is made; types are named as llama-quantize names them, in upper case."""

    name: str
    base: str
    token_embedding: str | None = None
    output: str | None = None
    tensors: dict[str, str] = {}
    """Regular expression over tensor names to ggml type, in the order given."""
    pure: bool = False
    imatrix: bool = True


class Result(Record):
    """What was made, measured and decided for one job, `owner/name:QUANT`."""

    version: Literal[1] = 1
    job: str
    recipe: Recipe
    artifact: str
    """Digest of the quant in the store."""
    file: QuantFile
    """What was checked and measured, under the name that it is published by."""
    shards: tuple[FileEntry, ...] = ()
    """What is published in its place where it is too large for one file."""
    verdicts: tuple[Verdict, ...]
    answer: Answer
    answers: tuple[Answer, ...] = ()
    """To the further prompts, in the order of `Provenance.prompts`; empty where the file was not run."""
    quality: Quality | None
    """None where the file is broken, so that nothing was measured."""
    speed: Speed | None
    seconds: float = 0.0
    """How long the steps of this job alone took, in whichever run it was that made them."""
    provenance: Provenance

    @property
    def quant(self) -> str:
        return self.recipe.name

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """What is published."""
        return self.shards or (self.file.entry,)

    @property
    def answered(self) -> bool:
        """Whether it was run: what is broken by the checks before that is not, and some files cannot be."""
        return bool(self.answers or self.answer.text or self.answer.stopped)

    @property
    def failures(self) -> tuple[Verdict, ...]:
        return tuple(v for v in self.verdicts if v.outcome == "fail")

    @property
    def withheld(self) -> bool:
        return bool(self.failures)


class Failure(Record):
    """A command of a run that ended in an error: what the summary of the run says of it."""

    version: Literal[1] = 1
    command: Literal["prepare", "job", "stage", "release"]
    subject: str
    """A job id, or a model's `owner/name`."""
    exit_code: int
    message: str
    """What the command said: a sentence with its fix, perhaps with the last lines of a program, each behind `  | `."""


class Released(Record):
    """What `release` did with a model."""

    version: Literal[1] = 1
    source: str
    repo: str
    release: str
    place: str
    """A directory, or the address of a repo."""
    published: tuple[str, ...]
    """Quants that are there now."""
    changed: bool
    """Whether anything was changed, or all was there already."""
    uploaded: int
    """Bytes that the release itself sent; what jobs staged is not among them."""
    verdicts: tuple[Verdict, ...] = ()
    """On the release, and on the target after it."""


class TextUse(Record):
    """A text and how much of it was used: `chunks` of `context` tokens."""

    name: str
    sha256: str
    chunks: int
    context: int


class Provenance(Record):
    """What every quant of a release has in common: where it comes from and what it is compared with."""

    source: str
    """owner/name on the Hub."""
    revision: str | None
    """Commit of the source on the Hub; None for a directory given by path without one."""
    source_digest: str
    """sha256 over the names and sha256 of the source's files."""
    architecture: str
    context_length: int
    llama_cpp: str
    """Commit of llama.cpp."""
    llama_cpp_origin: str
    flags: tuple[str, ...]
    reference: QuantFile
    reference_quality: Quality
    """The reference against its own logits: what these measurements read when nothing differs."""
    reference_answer: Answer
    reference_answers: tuple[Answer, ...] = ()
    """To the further prompts."""
    prompt: str
    max_tokens: int
    prompts: tuple[str, ...] = ()
    """What is asked beside the test prompt, of every model alike, and answered in `pipeline.prompt.SHORT` tokens."""
    chat_template: bool
    """Whether the prompt went through the model's chat template."""
    imatrix: FileEntry
    imatrix_entries: int
    """Number of tensors that the imatrix covers."""
    calibration: TextUse
    evaluation: TextUse
    logits: str = ""
    """Digest of the reference logits: two results with the same one were measured in the same way."""
    verdicts: tuple[Verdict, ...] = ()
    """What was held against the reference and the imatrix; none of them a fail, or there would be no quant."""


class Withdrawal(Record):
    """A file that was published and taken back. It stays on the card."""

    quant: str
    artifact: str
    """Digest of the quant: made of other inputs it is another file, which may be published."""
    reason: str
    date: str
    """Of the day, YYYY-MM-DD in UTC."""


class Release(Record):
    """`release.json`: what one commit on one target holds and why."""

    version: Literal[1] = 1
    id: str
    """Digest over the inputs of every job: known before the first of them runs."""
    repo: str
    """<organization>/<model>-GGUF"""
    base_model: str
    pipeline: str
    """Version of llm-quantizer."""
    provenance: Provenance
    results: tuple[Result, ...]
    """Published and withheld alike, in the order of the matrix."""
    files: tuple[FileEntry, ...]
    """Every file of the release but release.json itself."""
    missing: tuple[str, ...] = ()
    """Quants of the matrix that this release goes without, since their jobs came to no result."""
    withdrawn: tuple[Withdrawal, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    """On the release itself, whatever its target; those on each quant stand in `results`."""

    @field_serializer("results")
    def _without_provenance(self, results: tuple[Result, ...]) -> list[dict[str, Any]]:
        # It is the same for all, and stands once in the release.
        return [result.model_dump(mode="json", exclude={"provenance"}) for result in results]

    @model_validator(mode="before")
    @classmethod
    def _with_provenance(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("results"), list):
            shared = {"provenance": value.get("provenance")}
            results = [shared | r if isinstance(r, dict) else r for r in value["results"]]
            return value | {"results": results}
        return value

    @property
    def published(self) -> tuple[Result, ...]:
        return tuple(r for r in self.results if not r.withheld)

    @property
    def withheld(self) -> tuple[Result, ...]:
        return tuple(r for r in self.results if r.withheld)

    @property
    def gone(self) -> tuple[Withdrawal, ...]:
        """What was withdrawn and is not there again."""
        there = {result.quant for result in self.results}
        return tuple({w.quant: w for w in self.withdrawn if w.quant not in there}.values())

    def withdrawal(self, quant: str, artifact: str) -> Withdrawal | None:
        """Return why this very file is not to be published, None where nothing speaks against it."""
        return next((w for w in self.withdrawn if (w.quant, w.artifact) == (quant, artifact)), None)
