"""A loopback Hub, a store with the toolchain alone, and a clone of this tree, for workflows to run in."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import pytest
from hub import LoopbackHub
from machine import ROOT, empty_store

from pipeline import matrix
from pipeline.result import Release
from pipeline.source import CARD

from workflows import Checkout  # isort: skip - beside this file

if TYPE_CHECKING:
    from collections.abc import Mapping

    from workflows import Ran

    from pipeline.store import Store

TOKEN = "hf_aTokenToPublishWith"
REVISION = "a" * 40
OUT = ROOT / "out" / "act"
SETTINGS = "max_tokens: 16, calibration_chunks: 2, evaluation_chunks: 2"


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.real)


@dataclass
class World:
    """All that a run of a workflow meets."""

    hub: LoopbackHub
    store: Store
    checkout: Checkout

    def matrix(self, models: str, quants: str = "Q8_0, Q4_K_M", settings: str = SETTINGS) -> None:
        """Write matrix.yml: the shipped pin, these defaults, and `models` as its list."""
        pin = matrix.load(ROOT / "matrix.yml").llama_cpp
        self.checkout.write(
            "matrix.yml",
            "version: 1\n"
            f'llama_cpp: {{sdist: {pin.name}=={pin.version}, sha256: {pin.sha256}, commit: "{pin.commit}"}}\n'
            f"defaults: {{organization: me, quants: [{quants}], {settings}}}\n"
            f"models:\n{models}",
        )

    def merge(self, base: str | None = None) -> Ran:
        """Commit what was written to main, and run what GitHub runs then; `base`: where main was before."""
        before = base or self.checkout.git("rev-parse", "HEAD")
        after = self.checkout.commit("Add a model")
        return self.run("push", "quantize.yml", before=before, after=after)

    def publish(self) -> None:
        """Do by one command what a merge leads to."""
        command = [sys.executable, "-m", "pipeline", "run", "--publish-to", "hub"]
        environment = os.environ | self.checkout.environment | {"HF_TOKEN": TOKEN}
        subprocess.run(command, cwd=self.checkout.root, env=environment, check=True, capture_output=True)
        shutil.rmtree(self.checkout.root / "results")

    def button(self, workflow: str, **inputs: object) -> Ran:
        given = {name: str(value).lower() if isinstance(value, bool) else value for name, value in inputs.items()}
        return self.run("workflow_dispatch", workflow, inputs=given)

    def pull_request(self, base: str, number: int = 7) -> Ran:
        """Run the check of a pull request, whose merge is what is checked out; no secret is there."""
        self.checkout.commit("A pull request")
        pull = {"number": number, "base": {"sha": base, "ref": "main"}}
        return self.run("pull_request", "check.yml", secrets={}, number=number, pull_request=pull)

    def run(
        self,
        event: str,
        workflow: str,
        *,
        secrets: Mapping[str, str] = MappingProxyType({"HF_TOKEN": TOKEN}),
        environment: Mapping[str, str] = MappingProxyType({}),
        **payload: object,
    ) -> Ran:
        repository = {"default_branch": "main", "full_name": "someone/llm-quantizer"}
        whole = {"ref": "refs/heads/main", "repository": repository, **payload}
        ran = self.checkout.act(event, workflow, whole, secrets, environment)
        assert TOKEN not in ran.log
        return ran

    def release(self, repo: str) -> Release | None:
        found = self.hub.repos.get("model", repo)
        if found is None or "release.json" not in found.commit("main").files:
            return None
        return Release.model_validate_json(self.file(repo, "release.json"))

    def file(self, repo: str, name: str) -> bytes:
        entry = self.hub.repos.get("model", repo).commit("main").files[name]
        return self.hub.objects.path(entry.sha256).read_bytes()

    def keep(self, ran: Ran, repo: str, folder: str) -> None:
        """Leave what people read of a run in out/act, to be looked at."""
        place = OUT / folder
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        for number, (job, text) in enumerate(ran.summaries, 1):
            name = re.sub(r"[^A-Za-z0-9_.-]+", "-", job).strip("-")
            (place / f"{number:02}-{name}.md").write_text(text, encoding="utf-8")
        if self.release(repo):
            (place / "card.md").write_bytes(self.file(repo, CARD))


@pytest.fixture
def world(tmp_path, machine_store):
    store = empty_store(machine_store, tmp_path / "store")
    with LoopbackHub(tmp_path / "hub") as hub:
        hub.add_token(TOKEN, "me", "write")
        environment = {
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(tmp_path / "hf-home"),
            "HF_XET_CLIENT_RETRY_BASE_DELAY": "10ms",
            "LLM_QUANTIZER_STORE": str(store.root),
        }
        yield World(hub, store, Checkout(tmp_path, environment))


def plan_of(ran: Ran, world: World) -> dict[str, str]:
    """Return what the run planned: job to action."""
    plan = json.loads((world.checkout.artifacts / "plan" / "plan.json").read_bytes())
    return {job["id"]: job["action"] for model in plan["models"] for job in model["jobs"]}
