"""The card of a release: what every file is worth, how that was found out, and where it comes from."""

from __future__ import annotations

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


def render(
    release: Release,
    source_card: str | None,
    plot: str | None,
    licence_files: Sequence[str],
) -> str:
    """The card; `plot` and `licence_files` name files that lie beside it."""
    source = SourceCard.parse(source_card or "")
    provenance = release.provenance
    return fill(
        "card.md.j2",
        front_matter=dump(_metadata(release, source, licence_files)),
        project=PROJECT,
        repo=release.repo,
        base_model=release.base_model,
        revision=provenance.revision,
        parameters=units.count(provenance.reference.parameters),
        architecture=inline(provenance.architecture),
        context=f"{provenance.context_length:,}",
        title=inline(release.repo.rpartition("/")[2]),
        base=sections.base(release),
        verdict=sections.verdict(release),
        licence=sections.licence(source, licence_files),
        notice=notice(source.metadata),
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
        passed=sections.passed(release),
        warnings=sections.warnings(release),
        withheld=sections.withheld(release),
        missing=[code(quant) for quant in release.missing],
        withdrawn=sections.withdrawn(release),
        origin=sections.origin(release),
        recipes=sections.recipes(release),
        original=None if source_card is None else plain(source.text),
        problem=source.problem,
        cut=source.cut,
        limit=f"{LONGEST_TEXT:,}",
        source_url=sections.source_url(provenance, "blob", "README.md"),
    )


def render_footer(release: Release, source_card: str | None) -> str:
    """The source's own card, whole and unchanged, and under it who made the quants, of what and with what.

    Where its front matter cannot be read, ours stands first, and theirs is shown as text: the Hub takes no
    card whose front matter does not parse.
    """
    source = SourceCard.parse(source_card or "")
    front_matter = source.front_matter
    body = source.text
    if source.problem or not source_card:
        front_matter = dump(_metadata(release, source, ())) + "\n"
        body = (fence(source.front_matter, "yaml") + "\n\n" if source.front_matter else "") + body
    end = closing(body)
    return fill(
        "footer.md.j2",
        front_matter=front_matter,
        body=_line(fence(body, "markdown") if end is None else body + end),
        base=sections.base(release),
        withdrawn=sections.withdrawn(release),
        project=PROJECT,
        cut=source.cut,
        limit=f"{LONGEST_TEXT:,}",
        source_url=sections.source_url(release.provenance, "blob", "README.md"),
    )


def _line(text: str) -> str:
    return text if text.endswith("\n") else text + "\n"


def _metadata(release: Release, source: SourceCard, licence_files: Sequence[str]) -> dict[str, Any]:
    kept = dict(source.metadata)
    link = kept.get("license_link")
    if link and "://" not in link and link not in licence_files:
        kept["license_link"] = sections.source_url(release.provenance, "blob", link)
    ours = ["gguf", *(["imatrix"] if any(r.recipe.imatrix for r in release.published) else []), "llm-quantizer"]
    return {
        **kept,
        "base_model": release.base_model,
        "base_model_relation": "quantized",
        "quantized_by": release.repo.partition("/")[0],
        "library_name": "gguf",
        "tags": list(dict.fromkeys([*kept.get("tags", []), *ours])),
    }
