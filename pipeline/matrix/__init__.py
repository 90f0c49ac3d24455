"""matrix.yml: parsed once, into frozen objects, with every mistake in it named at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pipeline import recipe
from pipeline.check.names import names
from pipeline.errors import BadInputError
from pipeline.matrix import complaint, located
from pipeline.matrix.forms import (
    GitForm,
    HubTextForm,
    ModelForm,
    PathForm,
    PathTextForm,
    RecipeForm,
    SdistForm,
    Settings,
    TextForm,
    ToolchainForm,
    schema,
)
from pipeline.matrix.located import MOST_PROBLEMS, Problem, shown
from pipeline.matrix.model import (
    EmbeddedText,
    Gates,
    GitSource,
    HubText,
    Limit,
    Matrix,
    Model,
    PathSource,
    PathText,
    Sdist,
    Text,
    Toolchain,
)
from pipeline.matrix.spelling import foreign, meant, size_in_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pipeline.matrix.located import Document, Loc
    from pipeline.result import Recipe

__all__ = [
    "EmbeddedText",
    "Gates",
    "GitSource",
    "HubText",
    "Limit",
    "Matrix",
    "Model",
    "PathSource",
    "PathText",
    "Sdist",
    "Text",
    "Toolchain",
    "load",
    "parse",
    "schema",
]


MAX_NAME: Final = 96 - len("-GGUF")
"""Length of a model's name: with the suffix of its release it must be a name of the Hub."""
MOST_JOBS: Final = 1 << 16
"""As many models as 256 batches of GitHub Actions hold, if each has one quant."""


def load(path: Path, unlisted: Sequence[Mapping[str, Any]] = ()) -> Matrix:
    """Read a matrix file. BadInputError names every problem in it, one a line, with line and column.

    `unlisted` are models, as the file would have them, that are taken as if they stood in it.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise BadInputError(f"{path}: there is no such file; name one with --matrix") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadInputError(f"{path}: the file cannot be read: {reason}") from error
    return parse(data, str(path), path.resolve().parent, unlisted)


def parse(data: bytes, name: str, folder: Path, unlisted: Sequence[Mapping[str, Any]] = ()) -> Matrix:
    """Read a matrix that may stand elsewhere, in a git commit say; `folder`: what its paths start from."""
    document = located.parse(data)
    if unlisted and isinstance(document.value, dict) and isinstance(document.value.get("models"), list):
        document.value["models"] += map(dict, unlisted)
    problems = document.problems
    if document.value is None:
        raise _all_of(problems, name)
    file, found = complaint.check(document, folder)
    problems += found
    reader = _Reader(document, folder)
    models = reader.models()
    if file is None or problems:
        raise _all_of(problems, name)
    return Matrix(file.version, _toolchain(file.llama_cpp, folder), models)


def _all_of(problems: list[Problem], name: str) -> BadInputError:
    found = sorted(set(problems))
    said, left = found[:MOST_PROBLEMS], found[MOST_PROBLEMS:]
    if left:
        said.append(Problem(left[0].line, left[0].column, f"and {len(left):,} more from here on; mend these first"))
    return BadInputError("\n".join(f"{name}:{problem}" for problem in said))


class _Reader:
    """Makes models of the forms, and adds to the document's problems what is wrong between them.

    It works on what is right of a file that has mistakes, so that all of them are known at once.
    """

    def __init__(self, document: Document, folder: Path) -> None:
        self.document = document
        self.folder = folder
        top = document.value if isinstance(document.value, dict) else {}
        models, defaults = top.get("models"), top.get("defaults", {})
        self.given = models if isinstance(models, list) else []
        self.defaults = complaint.salvage(Settings, defaults, folder) or Settings()
        self.wrong_defaults = _wrong_keys(defaults, self.defaults)
        self.recipes = self._recipes(top.get("recipes"))
        self.sources: dict[str, int] = {}
        """casefolded, with the line of the first model that has it; so are the repos"""
        self.repos: dict[str, int] = {}
        self.named: set[Loc] = set()
        """where a name was found wrong already"""
        self.jobs = 0

    def models(self) -> tuple[Model, ...]:
        if self.defaults.quants:
            self._quants(("defaults", "quants"), self.defaults.quants)
        models = [self._model(("models", i), value) for i, value in enumerate(self.given)]
        return tuple(model for model in models if model)

    def _wrong(self, loc: Loc, text: str, *, key: bool = False) -> None:
        self.document.problems.append(self.document.problem(loc, text, key=key))

    def _recipes(self, given: object) -> dict[str, Recipe | None]:
        """Recipes by their casefolded names; None for one that is wrong, which quants may name all the same."""
        recipes: dict[str, Recipe | None] = {}
        for name, value in given.items() if isinstance(given, dict) else ():
            if name.casefold() in recipes:
                self._wrong(("recipes", name), f"`{shown(name)}` differs from another recipe in case only", key=True)
            form = complaint.salvage(RecipeForm, value, self.folder)
            recipes[name.casefold()] = form.named(name) if form else None
        return recipes

    def _model(self, loc: Loc, value: object) -> Model | None:
        form = complaint.salvage(ModelForm, value, self.folder)
        if form is None:
            return None
        own = form.model_fields_set & Settings.model_fields.keys()
        settings = self.defaults.model_copy(update={key: getattr(form, key) for key in own})
        before, self.jobs = self.jobs, self.jobs + len(settings.quants or [])
        if self.jobs > MOST_JOBS:  # a short file can name a product that no machine lists
            if before <= MOST_JOBS:
                self._wrong(loc, f"with this model the matrix has more than {MOST_JOBS:,} jobs; divide it into several")
            return None
        wrong = _wrong_keys(value, form) | (self.wrong_defaults - own)
        for key in ("organization", "quants"):
            if getattr(settings, key) is None and key not in wrong:
                self._wrong(loc, f"this model needs `{key}`, here or under `defaults`")

        def where(key: str) -> Loc:
            return (*loc, key) if key in own else ("defaults", key)

        recipes = self._quants(where("quants"), settings.quants or [])
        calibration, evaluation = (_text(t, self.folder) for t in (settings.calibration, settings.evaluation))
        if _same(calibration, evaluation):
            self._wrong(where("evaluation"), "`evaluation` must be another text than `calibration`")
        model = Model(
            source=form.source,
            revision=form.revision,
            path=_absolute(form.path, self.folder) if form.path else None,
            organization=settings.organization or "",  # then there is a problem, and no matrix
            filename=settings.filename,
            recipes=recipes,
            prompt=settings.prompt,
            max_tokens=settings.max_tokens,
            calibration=calibration,
            calibration_chunks=settings.calibration_chunks,
            evaluation=evaluation,
            evaluation_chunks=settings.evaluation_chunks,
            imatrix_format=settings.imatrix_format,
            card=settings.card,
            private=settings.private,
            gating=settings.gating,
            max_shard_size=size_in_bytes(settings.max_shard_size),
            gates=settings.gates.gates(),
            line=self.document.spot(loc).line if loc in self.document.values else 0,
            column=self.document.spot(loc).column,
        )
        self._names(model, (*loc, "source"), where("quants"))
        self._is_new(model, (*loc, "source"), has_repo=bool(model.organization) and "organization" not in wrong)
        return model

    def _names(self, model: Model, source: Loc, quants: Loc) -> None:
        """Refuse before any work what its release would be refused for: a name that leads to another quant's file."""
        files = {r.name: [model.file_name(r.name)] for r in model.recipes}
        for verdict in names(files, [f"imatrix.{model.imatrix_format}"]):
            loc = source if "`filename`" in verdict.advice else quants
            if verdict.outcome == "fail" and loc not in self.named:  # in `defaults` it would be said of every model
                self._wrong(loc, f"{verdict.seen}. {verdict.advice}".removesuffix("."))
                self.named.add(loc)

    def _quants(self, loc: Loc, names: list[str]) -> tuple[Recipe, ...]:
        recipes: list[Recipe] = []
        seen: set[str] = set()
        for i, name in enumerate(names):
            known = recipe.quant_type(name)
            if name.isascii() and name.casefold() in self.recipes:
                made, label = self.recipes[name.casefold()], name
            elif known:
                made, label = recipe.builtin(known), known
            else:
                self._wrong((*loc, i), self._unknown_quant(name))
                continue
            if label.casefold() in seen:
                alias = f", which is {label}," if label != name else ""
                self._wrong((*loc, i), f"`{shown(name)}`{alias} is in this list already")
            seen.add(label.casefold())
            if made:
                recipes.append(made)
        return tuple(recipes)

    def _unknown_quant(self, name: str) -> str:
        if name.upper() == "COPY":
            return "`COPY` quantizes nothing; leave it out"
        hint = ""
        if len(self.document.problems) < MOST_PROBLEMS:  # to compare with every name takes a while
            names = [r.name for r in self.recipes.values() if r and r.name.isascii()]
            hint = meant(name, [*recipe.QUANT_TYPES, *recipe.ALIASES, *names])
        return f"`{shown(name)}` is no quant type, and no recipe of this file{foreign(name)}{hint}"

    def _is_new(self, model: Model, loc: Loc, *, has_repo: bool) -> None:
        # The Hub takes names that differ in case only for the same.
        source, repo = model.source.casefold(), model.repo.casefold()
        if source in self.sources:
            self._wrong(loc, f"`{model.source}` is listed already, in line {self.sources[source]}")
        elif has_repo and repo in self.repos:
            text = f"`{model.repo}` is already the release of the model in line {self.repos[repo]}"
            self._wrong(loc, f"{text}; give one of them another `organization`")
        elif len(model.name) > MAX_NAME:
            self._wrong(loc, f"the name of `{model.source}` leaves no room for `-GGUF`: {MAX_NAME} characters at most")
        self.sources.setdefault(source, model.line)
        if has_repo:
            self.repos.setdefault(repo, model.line)


def _wrong_keys(value: object, form: Settings) -> set[str]:
    """The keys that `salvage` left out; each has its message already."""
    return set(value) - form.model_fields_set if isinstance(value, dict) else set()


def _absolute(path: str, folder: Path) -> Path:
    return (folder / path).resolve()


def _toolchain(form: ToolchainForm, folder: Path) -> Toolchain:
    match form:
        case SdistForm(sdist=sdist):
            name, _, version = sdist.partition("==")
            return Sdist(name, version, form.sha256, form.commit)
        case GitForm():
            return GitSource(form.git, form.commit)
        case PathForm():
            return PathSource(_absolute(form.path, folder))


def _text(form: TextForm, folder: Path) -> Text:
    match form:
        case HubTextForm():
            return HubText(form.hub, form.file, form.revision, form.sha256)
        case PathTextForm():
            return PathText(_absolute(form.path, folder))
        case "embedded":
            return EmbeddedText()


def _same(one: Text, other: Text) -> bool:
    match one, other:
        case HubText(), HubText():
            return one.sha256 == other.sha256 or (one.hub, one.file) == (other.hub, other.file)
        case PathText(), PathText():
            return one.path == other.path
    return False
