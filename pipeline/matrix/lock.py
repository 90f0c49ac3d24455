"""A matrix written out again with all that a run decided once: revisions, models from outside, llama.cpp's commit.

JSON, which every reader of YAML takes, so that what a plan found holds for all machines that its jobs run on.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from pipeline.matrix.model import EmbeddedText, GitSource, HubText, Limit, PathSource, PathText, Sdist
from pipeline.matrix.spelling import spelled
from pipeline.recipe import QUANT_TYPES

if TYPE_CHECKING:
    from pipeline.matrix.model import Gates, Matrix, Model, Text, Toolchain
    from pipeline.result import Recipe


def dump(matrix: Matrix) -> str:
    """Return the matrix as text that `matrix.parse` reads as the same. Directories are given by absolute paths.

    What most models have stands under `defaults`, so that thousands of models stay within what is read.
    """
    settings = [_settings(model) for model in matrix.models]
    defaults = {key: json.loads(_commonest([s[key] for s in settings])) for key in settings[0]} if settings else {}
    models = []
    for model, own in zip(matrix.models, settings, strict=True):
        known = {"source": model.source, "revision": model.revision, "path": model.path and str(model.path)}
        differing = {key: value for key, value in own.items() if value != defaults[key]}
        models.append({key: value for key, value in known.items() if value} | differing)
    recipes = {r.name: _recipe(r) for m in matrix.models for r in m.recipes if r.name not in QUANT_TYPES}
    file = {
        "version": matrix.version,
        "llama_cpp": _toolchain(matrix.llama_cpp),
        "defaults": defaults,
        "recipes": recipes,
        "models": models,
    }
    return json.dumps(file, indent=1, ensure_ascii=False) + "\n"


def _settings(model: Model) -> dict[str, Any]:
    return {
        "organization": model.organization,
        "filename": model.filename,
        "quants": [recipe.name for recipe in model.recipes],
        "prompt": model.prompt,
        "max_tokens": model.max_tokens,
        "calibration": _text(model.calibration),
        "calibration_chunks": model.calibration_chunks,
        "evaluation": _text(model.evaluation),
        "evaluation_chunks": model.evaluation_chunks,
        "imatrix_format": model.imatrix_format,
        "card": model.card,
        "private": model.private,
        "gating": model.gating,
        "max_shard_size": f"{model.max_shard_size // 10**6}M",
        "gates": _gates(model.gates),
    }


def _gates(gates: Gates) -> dict[str, Any]:
    given = {field.name: getattr(gates, field.name) for field in fields(gates)}
    return {name: spelled(limit) if isinstance(limit, Limit) else limit for name, limit in given.items()}


def _commonest(values: list[Any]) -> str:
    return Counter(json.dumps(value) for value in values).most_common(1)[0][0]


def _recipe(recipe: Recipe) -> dict[str, Any]:
    return recipe.model_dump(exclude={"name"})


def _toolchain(toolchain: Toolchain) -> dict[str, str]:
    match toolchain:
        case Sdist():
            pin = f"{toolchain.name}=={toolchain.version}"
            return {"sdist": pin, "sha256": toolchain.sha256, "commit": toolchain.commit}
        case GitSource():
            return {"git": toolchain.url, "commit": toolchain.commit}
        case PathSource():
            return {"path": str(toolchain.path)}


def _text(text: Text) -> str | dict[str, str]:
    match text:
        case EmbeddedText():
            return "embedded"
        case HubText():
            return asdict(text)
        case PathText():
            return {"path": str(text.path)}
