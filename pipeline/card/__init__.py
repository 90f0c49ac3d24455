"""The card of a release: what every file is worth, how that was found out, and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pipeline import units
from pipeline.card import ladder, sections, tables
from pipeline.card.markdown import closing, code, fence, inline, plain
from pipeline.card.notice import notice
from pipeline.card.original import LONGEST_TEXT, SourceCard, dump
from pipeline.template import fill

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.result import Release

PROJECT = "https://github.com/Nold360/llm-quantizer"


@dataclass(frozen=True)
class Subject:
    """What a card is about, as far as it is known before any file is made."""

    repo: str
    source: str
    """owner/name"""
    revision: str | None
    architecture: str
    parameters: int
    context: int
    imatrix: bool
    """Whether any file is made with one."""
    licence_files: Sequence[str]
    """Copied from the source."""

    @classmethod
    def of(cls, release: Release, licence_files: Sequence[str]) -> Subject:
        provenance = release.provenance
        return cls(
            repo=release.repo,
            source=release.base_model,
            revision=provenance.revision,
            architecture=provenance.architecture,
            parameters=provenance.reference.parameters,
            context=provenance.context_length,
            imatrix=any(r.recipe.imatrix for r in release.published),
            licence_files=licence_files,
        )


def head(subject: Subject, source: SourceCard, verdict: str | None = None) -> str:
    """What the card begins with: front matter, title, what it is made of, licence.

    `verdict` is None before there is one.
    """
    return fill(
        "head.md.j2",
        front_matter=dump(_metadata(subject, source)),
        title=inline(subject.repo.rpartition("/")[2]),
        verdict=verdict,
        base=sections.base(subject.source),
        revision=subject.revision,
        parameters=units.count(subject.parameters),
        architecture=inline(subject.architecture),
        context=f"{subject.context:,}",
        licence=sections.licence(source, subject.licence_files),
        notice=notice(source.metadata),
        problem=source.problem,
        source_url=_original(subject),
    )


def render(
    release: Release,
    source_card: str | None,
    plot: str | None,
    licence_files: Sequence[str],
) -> str:
    """The card; `plot` and `licence_files` name files that lie beside it."""
    source = SourceCard.parse(source_card or "")
    provenance = release.provenance
    subject = Subject.of(release, licence_files)
    return fill(
        "card.md.j2",
        head=head(subject, source, sections.verdict(release)),
        project=PROJECT,
        repo=release.repo,
        base_model=release.base_model,
        revision=provenance.revision,
        example=sections.example(release),
        picks=tables.picks(release),
        share=f"{ladder.SHARE:.0%}".replace("%", " %"),
        files=tables.files(release),
        plot=plot and quote(plot),
        floor=ladder.noise_floor(provenance) > 0,
        legend=tables.legend(release),
        details=tables.details(release),
        checksums=tables.checksums(release),
        protocol=sections.protocol(release),
        fallbacks=sections.fallbacks(release),
        prompt=fence(provenance.prompt),
        prompt_use="through the model's chat template" if provenance.chat_template else "as it stands",
        max_tokens=provenance.max_tokens,
        answers=sections.answers(release),
        vetted=sections.vetted(release),
        passed=sections.passed(release),
        warnings=sections.warnings(release),
        withheld=sections.withheld(release),
        published=bool(release.published),
        missing=[code(quant) for quant in release.missing],
        withdrawn=sections.withdrawn(release),
        origin=sections.origin(release),
        recipes=sections.recipes(release),
        original=None if source_card is None else plain(source.text),
        cut=source.cut,
        limit=f"{LONGEST_TEXT:,}",
        source_url=_original(subject),
    )


def front_matter_of_footer(subject: Subject, source: SourceCard) -> str:
    """The source's own front matter, unchanged; ours where there is none that can be read."""
    if source.problem or not (source.front_matter or source.text):
        return dump(_metadata(subject, source)) + "\n"
    return source.front_matter


def render_footer(release: Release, source_card: str | None) -> str:
    """The source's own card, whole and unchanged, and under it who made the quants, of what and with what.

    Where its front matter cannot be read, ours stands first, and theirs is shown as text: the Hub takes no
    card whose front matter does not parse.
    """
    source = SourceCard.parse(source_card or "")
    subject = Subject.of(release, ())
    body = source.text
    if source.problem:
        body = (fence(source.front_matter, "yaml") + "\n\n" if source.front_matter else "") + body
    end = closing(body)
    return fill(
        "footer.md.j2",
        front_matter=front_matter_of_footer(subject, source),
        body=_line(fence(body, "markdown") if end is None else body + end),
        base=sections.base(release.base_model),
        withdrawn=sections.withdrawn(release),
        project=PROJECT,
        cut=source.cut,
        limit=f"{LONGEST_TEXT:,}",
        source_url=_original(subject),
    )


def _line(text: str) -> str:
    return text if text.endswith("\n") else text + "\n"


def _original(subject: Subject) -> str:
    """Where the source's card is."""
    return sections.source_url(subject.source, subject.revision, "README.md")


def _metadata(subject: Subject, source: SourceCard) -> dict[str, Any]:
    kept = dict(source.metadata)
    link = kept.get("license_link")
    if link and "://" not in link and link not in subject.licence_files:
        kept["license_link"] = sections.source_url(subject.source, subject.revision, link)
    ours = ["gguf", *(["imatrix"] if subject.imatrix else []), "llm-quantizer"]
    return {
        **kept,
        "base_model": subject.source,
        "base_model_relation": "quantized",
        "quantized_by": subject.repo.partition("/")[0],
        "library_name": "gguf",
        "tags": list(dict.fromkeys([*kept.get("tags", []), *ours])),
    }
