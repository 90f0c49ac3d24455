"""A preview as a record: made where a pull request is checked, and read again, as hostile input, where it is shown."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, ValidationError

from pipeline.errors import BadInputError
from pipeline.result import Record

# What one preview may hold, so that a forged one costs little to read and cannot be long to show.
MAX_BYTES = 4 << 20
CARD_LENGTH = 20_000
PROBLEM_LENGTH = 2_000
MOST = 1_000
Name = Annotated[str, StringConstraints(max_length=300)]
Names = Annotated[tuple[Name, ...], Field(max_length=MOST)]
Words = Annotated[str, StringConstraints(max_length=PROBLEM_LENGTH)]
Bytes = Annotated[int, Field(ge=0, le=1 << 60)]
Count = Annotated[int, Field(ge=0, le=1 << 60)]


class Memory(Record):
    """Bytes to run a quant with a context of `context` tokens: its weights and the KV cache. An estimate."""

    context: Count
    size: Bytes


class QuantOutlook(Record):
    """What one quant is going to be."""

    quant: Name
    file: Name
    size: Bytes
    """Of the whole file, to the byte."""
    shards: Count
    """Files that it is published as; 1 for a whole one."""
    bits_per_weight: Annotated[float, Field(ge=0, le=64)]
    fallbacks: Count
    """Tensors that cannot have the type of the recipe."""
    tensors: Count
    memory: Annotated[tuple[Memory, ...], Field(max_length=4)]
    """Empty where nobody knows how large the cache of such a model is."""
    minutes: Annotated[float, Field(ge=0, le=1e9)]
    """How long its job takes, estimated from measured rates."""
    change: Literal["new", "replaced", "unchanged"]
    """What becomes of a file of this name on the target."""


class Outlook(Record):
    """What a pull request makes of one model: facts alone, which the page puts into sentences."""

    source: Name
    revision: Name | None
    repo: Name
    exists: bool
    """Whether the repo is there already, for all that can be seen."""
    private: bool
    """What it becomes where it is not."""
    architecture: Name
    parameters: Count
    context: Count
    """Longest context, in tokens."""
    licence: Name | None
    """As the source's card names it."""
    notice: bool
    """Whether that licence wants a line on every card."""
    licence_files: Names
    """Copied from the source."""
    gated: Literal["no", "auto", "manual"] | None
    """None for a source that is a directory."""
    quants: Annotated[tuple[QuantOutlook, ...], Field(max_length=MOST)]
    cores: Count
    """Of the machine that `minutes` are estimated for."""
    deletes: Names
    """Files of the last release that go."""
    upload: Bytes
    """Of all large files that are not there yet, imatrix included."""
    disk: Bytes
    """Peak on the runner's disk: source, reference, logits and all quants."""
    card: Annotated[str, StringConstraints(max_length=CARD_LENGTH)]
    """The head of the card as it will look, in Markdown."""


class Preview(Record):
    """All that a pull request changes, and the models that cannot be made."""

    version: Literal[1] = 1
    outlooks: Annotated[tuple[Outlook, ...], Field(max_length=MOST)] = ()
    problems: Annotated[tuple[Words, ...], Field(max_length=MOST)] = ()
    """A sentence each, with its place in the matrix before it: `matrix.yml:3:5: …`."""


def dump(preview: Preview) -> bytes:
    """Write what `parse` reads, without the heads of the cards where those would make it too large."""
    data = preview.model_dump_json(indent=1).encode()
    if len(data) <= MAX_BYTES:
        return data
    bare = tuple(outlook.model_copy(update={"card": ""}) for outlook in preview.outlooks)
    return preview.model_copy(update={"outlooks": bare}).model_dump_json().encode()


def parse(data: bytes) -> Preview:
    """Read a preview that nobody vouches for.

    Raises `BadInputError` where it is none.
    """
    if len(data) > MAX_BYTES:
        raise BadInputError(f"The preview is larger than {MAX_BYTES} bytes, so it is not read.")
    try:
        return Preview.model_validate_json(data)
    except ValidationError as error:
        raise BadInputError("This is no preview of this version of the pipeline. Run the check again.") from error
