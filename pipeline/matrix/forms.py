"""What may be written in matrix.yml: one form a mapping, and with them the JSON Schema for editors."""

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
)

from pipeline import recipe
from pipeline.matrix.model import Gates, Limit
from pipeline.matrix.spelling import (
    Bits,
    Commit,
    Count,
    EmbeddingType,
    FileName,
    FilePath,
    FolderPath,
    GitUrl,
    HubFile,
    HubId,
    HubName,
    NotBlank,
    QuantName,
    QuantType,
    RecipeName,
    SdistPin,
    Sha256,
    ShardSize,
    ShortCommit,
    TensorRegex,
    TensorType,
    spelled,
)
from pipeline.result import Recipe


class Form(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class SdistForm(Form):
    """A source distribution on the package index that carries llama.cpp."""

    sdist: SdistPin
    sha256: Sha256 = Field(description="Of the archive, as the package index gives it")
    commit: ShortCommit = Field(description="The commit of llama.cpp in it")


class GitForm(Form):
    """A commit of a git repository."""

    git: GitUrl = Field(description="Address of the repository")
    commit: Commit


class PathForm(Form):
    """A source tree on this machine, built as it is."""

    path: FolderPath = Field(description="Relative to this file")


class HubTextForm(Form):
    """A text in a dataset on the Hub."""

    hub: HubId = Field(description="The dataset, owner/name")
    file: HubFile = Field(description="Path of the text in the dataset")
    revision: Commit
    sha256: Sha256


class PathTextForm(Form):
    """A text on this machine."""

    path: FilePath = Field(description="Relative to this file")


def _toolchain_kind(value: Any) -> str | None:
    if not isinstance(value, dict) or not value:
        return None
    return "<git>" if "git" in value else "<path>" if "path" in value else "<sdist>"


def _text_kind(value: Any) -> str | None:
    if isinstance(value, dict) and value:
        return "<path text>" if "path" in value else "<hub text>"
    return "<embedded>" if isinstance(value, str) else None


# pydantic puts the tags into the locations of its errors; in brackets they differ from every key of a form.
ToolchainForm = Annotated[
    Annotated[SdistForm, Tag("<sdist>")] | Annotated[GitForm, Tag("<git>")] | Annotated[PathForm, Tag("<path>")],
    Discriminator(_toolchain_kind),
]
TextForm = Annotated[
    Annotated[Literal["embedded"], Tag("<embedded>")]
    | Annotated[HubTextForm, Tag("<hub text>")]
    | Annotated[PathTextForm, Tag("<path text>")],
    Discriminator(_text_kind),
]


Divergence = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Percent = Annotated[float, Field(ge=0, le=100)]


def _limit_kind(value: Any) -> str | None:
    if isinstance(value, dict) and value:
        return "<by bits>"
    return "<number>" if isinstance(value, int | float | str) and not isinstance(value, bool) else None


def _once_each(limits: dict[str, float]) -> dict[str, float]:
    if len({float(bits) for bits in limits}) < len(limits):
        raise ValueError("gives the same bits per weight twice")
    return limits


DivergenceLimit = Annotated[
    Annotated[Divergence, Tag("<number>")]
    | Annotated[dict[Bits, Divergence], AfterValidator(_once_each), Tag("<by bits>")],
    Discriminator(_limit_kind),
]
PercentLimit = Annotated[
    Annotated[Percent, Tag("<number>")] | Annotated[dict[Bits, Percent], AfterValidator(_once_each), Tag("<by bits>")],
    Discriminator(_limit_kind),
]
_GATES = Gates()


class GatesForm(Form):
    """What a quant must reach to be published: a number for all, or {bits per weight: from there on}; null for none."""

    max_mean_kld: DivergenceLimit | None = Field(
        default=spelled(_GATES.max_mean_kld),
        description="Largest mean KL divergence from the reference, nats per token",
    )
    max_p999_kld: DivergenceLimit | None = Field(
        default=spelled(_GATES.max_p999_kld), description="Largest 99.9 % KL divergence, in nats per token"
    )
    min_same_top: PercentLimit | None = Field(
        default=spelled(_GATES.min_same_top),
        description="Least share of tokens with the same most likely next token, in percent",
    )
    max_ppl_ratio: DivergenceLimit | None = Field(
        default=spelled(_GATES.max_ppl_ratio), description="Largest ratio of the perplexity to the reference's"
    )
    max_logits_nmse: Divergence | None = Field(
        default=_GATES.max_logits_nmse,
        description="Largest squared error of the converted model's logits, as a share of their squares",
    )

    def gates(self) -> Gates:
        by_bits = {name: _limit(getattr(self, name)) for name in type(self).model_fields if name != "max_logits_nmse"}
        return Gates(**by_bits, max_logits_nmse=self.max_logits_nmse)


def _limit(given: float | dict[str, float] | None) -> Limit | None:
    if given is None:
        return None
    return Limit.of({float(bits): limit for bits, limit in given.items()} if isinstance(given, dict) else given)


class Settings(Form):
    """What a model is made with. Each can stand in `defaults`, for all models, and in a model, for that one."""

    organization: HubName | None = Field(default=None, description="Releases go to <organization>/<model>-GGUF")
    filename: FileName = Field(default="{model}-{quant}.gguf", description="Of each quant, with {model} and {quant}")
    quants: Annotated[list[QuantName], Field(min_length=1)] | None = Field(
        default=None, description="Quant types of llama-quantize and names of recipes, in the order of the card"
    )
    prompt: NotBlank = Field(default="What is a Large Language Model?", description="What every quant is asked")
    max_tokens: Count = Field(default=128, description="Longest answer to the test prompt")
    calibration: TextForm = Field(default="embedded", description="The text that the imatrix is measured on")
    calibration_chunks: Count | None = Field(default=None, description="How much of it is used; null for all")
    evaluation: TextForm = Field(default="embedded", description="The text that quants are measured on; another one")
    evaluation_chunks: Count | None = Field(default=None, description="How much of it is used; null for all")
    imatrix_format: Literal["gguf", "dat"] = Field(default="gguf", description="dat: the format before GGUF")
    card: Literal["full", "footer"] = Field(default="full", description="footer: the source's own card with a footer")
    private: bool = Field(default=False, description="Whether a repo that a release creates on the Hub is private")
    gating: Literal["inherit", "open"] = Field(
        default="inherit", description="open: releases of a gated source may be in repos that are open to everyone"
    )
    max_shard_size: ShardSize = Field(default="45G", description="Larger quants are split into shards: 45G, 500M")
    gates: GatesForm = GatesForm()


class ModelForm(Settings):
    """A model to quantize, with settings where they differ from the defaults."""

    source: HubId = Field(description="The model on the Hub, owner/name")
    revision: Commit | None = Field(default=None, description="Left out, it is resolved when planned")
    path: FolderPath | None = Field(
        default=None, description="A directory used in place of a download, relative to this file"
    )


class RecipeForm(Form):
    """A quant type with other types for some tensors."""

    base: QuantType
    token_embedding: EmbeddingType | None = None
    output: EmbeddingType | None = None
    pure: bool = Field(default=False, description="All other tensors get the base's main type, without its mixture")
    tensors: dict[TensorRegex, TensorType] = Field(
        default={}, description="Regular expression over tensor names to type; the first that fits counts"
    )
    imatrix: bool = Field(default=True, description="Whether the imatrix is used")

    @field_validator("tensors")
    @classmethod
    def _has_an_effect(cls, tensors: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        base = info.data.get("base")
        if tensors and base and not recipe.mixes(base):
            raise ValueError(f"has no effect on {base}: llama-quantize reads it for quantized types only")
        return tensors

    @field_validator("imatrix")
    @classmethod
    def _is_there_if_needed(cls, imatrix: bool, info: ValidationInfo) -> bool:
        # A field that is wrong is not in info.data, and has its own message already.
        whole = info.data.keys() == cls.model_fields.keys() - {"imatrix"}
        if not imatrix and whole and recipe.needs_imatrix(Recipe(name="", **info.data)):
            raise ValueError("must be `true`: llama-quantize refuses these types without an imatrix")
        return imatrix

    def named(self, name: str) -> Recipe:
        return Recipe(name=name, **self.model_dump())


def _version(number: int) -> int:
    if number != 1:
        raise ValueError(f"must be 1, the format that this program reads, not {number}")
    return number


class MatrixFile(Form):
    """The models of this repository and how they are quantized."""

    version: Annotated[int, AfterValidator(_version), Field(json_schema_extra={"const": 1})] = Field(
        description="Of this format"
    )
    llama_cpp: ToolchainForm = Field(description="The llama.cpp that makes and measures everything")
    defaults: Settings = Field(default=Settings(), description="Settings of every model that does not have its own")
    recipes: dict[RecipeName, RecipeForm] = Field(default={}, description="Quants of your own, by name")
    models: Annotated[list[ModelForm], Field(min_length=1)]


def schema() -> dict[str, Any]:
    """The JSON Schema of matrix.yml, draft 2020-12."""
    made = MatrixFile.model_json_schema()
    for definition in [made, *made["$defs"].values()]:
        # pydantic's titles repeat the names of classes and keys.
        definition.pop("title", None)
        for value in definition.get("properties", {}).values():
            value.pop("title", None)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "matrix.yml"} | made
