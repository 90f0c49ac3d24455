"""A plan as the matrices of GitHub Actions, which hold 256 legs each: models in batches, the quants of a model in legs.

Names alone go through a job's outputs, which may be 1 MB in all; everything else travels in the plan.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.plan import ModelPlan, Plan

MOST = 256


def batches(plan: Plan) -> list[dict[str, str]]:
    """Return the models that a release is due for, 256 at most in a batch.

    A batch is `{name, models}`, the models as JSON in JSON, since they are the input of a workflow: a list of
    `{source, repo, slug}`; the slug is what names artifacts.
    """
    due = [{"source": m.source, "repo": m.repo, "slug": m.source.replace("/", "--")} for m in plan.models if m.due]
    return [
        {"name": f"{start + 1} to {start + len(part)} of {len(due)}", "models": json.dumps(part)}
        for start in range(0, len(due), MOST)
        if (part := due[start : start + MOST])
    ]


def quants(model: ModelPlan) -> list[str]:
    """Return the jobs to run of one model as 256 legs at most: the name of a quant each, or several with blanks."""
    names = [job.id.partition(":")[2] for job in model.to_do]
    legs = min(MOST, len(names))
    return [" ".join(names[leg::legs]) for leg in range(legs)]
