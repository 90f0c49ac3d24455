"""A preview as a record: made where a pull request is checked, and read again, as hostile input, where it is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError

from pipeline.errors import BadInputError
from pipeline.result import Record

if TYPE_CHECKING:
    from collections.abc import Sequence

# What one preview may hold, so that a forged one costs nothing to read and cannot be long to show.
MAX_BYTES = 1 << 20
Name = Annotated[str, StringConstraints(max_length=200)]
Words = Annotated[str, StringConstraints(max_length=2_000)]
Bytes = Annotated[int, Field(ge=0, le=1 << 60)]


class Memory(Record):
    """Bytes to run a quant with a context of `context` tokens: its weights and the KV cache. An estimate."""

    context: Annotated[int, Field(ge=0, le=1 << 40)]
    size: Bytes


class QuantOutlook(Record):
    """What one quant is going to be."""

    quant: Name
    file: Name
    size: Bytes
    """Of the whole file, to the byte."""
    bits_per_weight: Annotated[float, Field(ge=0, le=64)]
    fallbacks: Annotated[int, Field(ge=0, le=1 << 30)]
    """Tensors that cannot have the type of the recipe."""
    tensors: Annotated[int, Field(ge=0, le=1 << 30)]
    memory: Annotated[tuple[Memory, ...], Field(max_length=4)]
    minutes: Annotated[float, Field(ge=0, le=1e9)]
    """How long its job takes, estimated from measured rates."""
    change: Literal["new", "replaced", "unchanged"]
    """What becomes of a file of this name on the target."""


class Outlook(Record):
    """What a pull request makes of one model."""

    version: Literal[1] = 1
    source: Name
    revision: Name | None
    repo: Name
    exists: bool
    """Whether the repo is there already."""
    architecture: Name
    parameters: Annotated[int, Field(ge=0, le=1 << 60)]
    context: Annotated[int, Field(ge=0, le=1 << 40)]
    """Longest context, in tokens."""
    licence: Words
    """A sentence: which licence, and what follows from it."""
    gating: Words
    """A sentence: whether the source is gated, and what follows from it."""
    quants: Annotated[tuple[QuantOutlook, ...], Field(max_length=1_000)]
    deletes: Annotated[tuple[Name, ...], Field(max_length=1_000)]
    """Files of the last release that go."""
    upload: Bytes
    """Of all files that are not there yet, imatrix included."""
    disk: Bytes
    """Peak on the runner's disk: source, reference, logits and all quants."""
    card: Annotated[str, StringConstraints(max_length=20_000)]
    """The head of the card as it will look, in Markdown."""


OUTLOOKS: TypeAdapter[tuple[Outlook, ...]] = TypeAdapter(Annotated[tuple[Outlook, ...], Field(max_length=1_000)])


def dump(outlooks: Sequence[Outlook]) -> bytes:
    return OUTLOOKS.dump_json(tuple(outlooks), indent=1)


def parse(data: bytes) -> tuple[Outlook, ...]:
    """Read previews that nobody vouches for.

    Raises `BadInputError` where they are none.
    """
    try:
        if len(data) > MAX_BYTES:
            raise BadInputError(f"The previews are larger than {MAX_BYTES} bytes, so they are not read.")
        return OUTLOOKS.validate_json(data)
    except ValidationError as error:
        raise BadInputError("These are no previews of this version of the pipeline. Run the check again.") from error
