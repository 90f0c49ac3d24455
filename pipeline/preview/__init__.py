"""What a model is going to become, from the headers of its files alone: no weight is fetched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import BadInputError, GatedError, HubError, PipelineError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.job import Steps
    from pipeline.matrix.model import Model
    from pipeline.preview.record import Outlook, Preview
    from pipeline.run import Workshop
    from pipeline.toolchain import Toolchain


def look(
    shop: Workshop, models: Sequence[Model], toolchain: Toolchain, matrix_file: Path
) -> tuple[Preview, list[PipelineError]]:
    """Look ahead at each model; return what was seen, and the errors of those that cannot be made."""
    from pipeline import run
    from pipeline.matrix.located import shown
    from pipeline.preview.record import MOST, PROBLEM_LENGTH, Preview

    outlooks, problems, failures = [], [], []
    if len(models) > MOST:
        first = models[MOST]
        crowd = BadInputError(
            f"{first.place(matrix_file)}this changes {len(models):,} models, and a"
            f" preview holds {MOST:,}. Bring them in several pull requests."
        )
        return Preview(problems=(str(crowd),)), [crowd]
    for model in models:
        where = model.place(matrix_file)
        try:
            if len(model.recipes) > MOST:
                raise BadInputError(
                    f"{model.source} has {len(model.recipes):,} quants, and a preview holds {MOST:,} of a model. Take"
                    " some out of `quants`."
                )
            (steps,) = run.look([model], toolchain, matrix_file)
            outlooks.append(_outlook(shop, steps))
        except GatedError:
            problems.append(
                f"{where}{model.source} is gated, so that without a token nothing but the list of its files can be read"
                " and nothing foreseen. The run reads it with the token in HF_READ_TOKEN."
            )
        except PipelineError as error:
            said = str(error).removeprefix(where)
            # Lines of a program stand behind a bar; what else came from a model's files makes no line of its own.
            said = shown(said, PROBLEM_LENGTH) if isinstance(error, BadInputError | HubError) else said
            problems.append(f"{where}{said}"[:PROBLEM_LENGTH])
            failures.append(error)
    return Preview(outlooks=tuple(outlooks), problems=tuple(problems)), failures


def _outlook(shop: Workshop, steps: Steps) -> Outlook:
    from pipeline.preview.engine import foresee
    from pipeline.preview.outlook import outlook
    from pipeline.source import check_architecture
    from pipeline.toolchain import architectures

    check_architecture(steps.source, architectures(shop.store.get(steps.toolchain.source)))
    card = _card(shop, steps)
    foreseen = foresee(shop.store, steps)
    last = shop.target.last(steps.model.repo)
    exists = last is not None or shop.target.exists(steps.model.repo)
    return outlook(steps, foreseen, card, last, exists=exists)


def _card(shop: Workshop, steps: Steps) -> str | None:
    from pipeline.snapshot import Papers
    from pipeline.source import CARD

    path = shop.store.get(Papers(steps.source)).file(CARD)
    return path.read_bytes().decode("utf-8", "replace") if path.is_file() else None
