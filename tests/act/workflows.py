"""Runs the shipped workflow files with `act`, on this machine, in a copy of this tree that is a git repository.

What is GitHub's own is far away and stood in for: the storage of artifacts by a folder (`actions/`), its REST API,
where a workflow asks it, by tests/github. `_for_act` says what is changed in the copy of the workflows, and why.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parent.parent.parent
STAND_INS = {"upload-artifact": "upload", "download-artifact": "download", "cache": "cache"}


@dataclass
class Ran:
    """One run of act, as its log in JSON tells it."""

    returncode: int
    rows: list[dict]
    steps: dict[str, dict[str, str]] = field(default_factory=dict)
    """Job, its matrix with it, to step to result."""
    summaries: list[tuple[str, str]] = field(default_factory=list)
    """Job and Markdown, in the order in which they were written."""
    outputs: dict[str, str] = field(default_factory=dict)

    @property
    def log(self) -> str:
        return "\n".join(str(row.get("msg", "")).rstrip("\n") for row in self.rows)

    def failed(self) -> list[tuple[str, str]]:
        """Steps that failed, each with its job."""
        return [(job, step) for job, steps in self.steps.items() for step, how in steps.items() if how == "failure"]

    def ran(self, step: str) -> list[str]:
        """The jobs in which a step of this name ran."""
        return [job for job, steps in self.steps.items() if steps.get(step) in {"success", "failure"}]


class Checkout:
    """A clone of this tree in which scenarios are committed, and workflows run."""

    def __init__(self, root: Path, environment: dict[str, str], variables: dict[str, str] | None = None) -> None:
        self.root = root / "llm-quantizer"
        self.home = root
        self.environment = environment
        self.variables = {"GPU_RUNNER": '["self-hosted"]'} | (variables or {})
        self.artifacts = root / "artifacts"
        self.artifacts.mkdir()
        tracked = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, capture_output=True, check=True, text=True,
        ).stdout.split("\0")  # fmt: skip
        for name in filter(None, tracked):
            if (ROOT / name).is_file() and not name.startswith("tests/"):
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, self.root / name)
        for path in (self.root / ".github" / "workflows").glob("*.yml"):
            path.write_text(_for_act(path.read_text()))
        self.git("init", "--quiet", "--initial-branch=main")
        self.git("remote", "add", "origin", "https://github.com/someone/llm-quantizer")
        self.commit("Begin")

    def git(self, *arguments: str) -> str:
        who = ["-c", "user.name=someone", "-c", "user.email=someone@example.com"]
        ran = subprocess.run(["git", *who, *arguments], cwd=self.root, capture_output=True, check=True, text=True)
        return ran.stdout.strip()

    def write(self, name: str, text: str) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(text, encoding="utf-8")

    def commit(self, subject: str) -> str:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", subject)
        return self.git("rev-parse", "HEAD")

    def act(self, event: str, workflow: str, payload: dict, secrets: Mapping[str, str], more: Mapping[str, str]) -> Ran:
        """Run one workflow file for an event to its end, as a run of its own, but for one that follows another."""
        if event != "workflow_run":
            shutil.rmtree(self.artifacts)
            self.artifacts.mkdir()
        (self.home / "event.json").write_text(json.dumps(payload))
        command = [
            Path(sys.executable).parent / "act", event, "--json", "-W", f".github/workflows/{workflow}",
            "-e", self.home / "event.json", "--action-cache-path", self.home / "act-cache", "--no-cache-server",
            "-P", "ubuntu-latest=-self-hosted", "-P", "self-hosted=-self-hosted",
            "--artifact-server-port", str(_port()), "--concurrent-jobs", "1",
        ]  # fmt: skip
        for name, value in self.variables.items():
            command += ["--var", f"{name}={value}"]
        for name, value in secrets.items():
            command += ["-s", f"{name}={value}"]
        environment = self.environment | {
            "ACT_ARTIFACTS": str(self.artifacts),
            "LLM_QUANTIZER_VENV": str(Path(sys.executable).parent.parent),
            "PYTHONDONTWRITEBYTECODE": "1",
            **more,
        }
        for name, value in environment.items():
            command += ["--env", f"{name}={value}"]
        for pinned in self.pins():
            action = pinned.partition("@")[0].rpartition("/")[2]
            if action in STAND_INS:
                command += ["--local-repository", f"{pinned}={ROOT / 'tests' / 'act' / 'actions' / STAND_INS[action]}"]
        ran = subprocess.run(
            [str(word) for word in command], cwd=self.root, capture_output=True, text=True, check=False,
            env={"PATH": os.environ["PATH"], "HOME": str(self.home)},
        )  # fmt: skip
        return _read(ran)

    def pins(self) -> set[str]:
        """The actions that the workflows use, with their commits."""
        files = [*(self.root / ".github").rglob("*.yml")]
        return {pin for path in files for pin in re.findall(r"uses: (\w[^\s@]*@[0-9a-f]{40})", path.read_text())}


def _for_act(workflow: str) -> str:
    """Change what act does in another way than GitHub.

    It refuses `queue:`. And where a job of a called workflow fails, it gives up the calling one, whose other jobs
    GitHub goes on with as their `if:` says: so a job that fails is one whose step may, and did.
    """
    workflow = workflow.replace("      queue: max\n", "")
    return workflow.replace("        id: job\n", "        id: job\n        continue-on-error: true\n")


def _read(ran: subprocess.CompletedProcess[str]) -> Ran:
    rows = []
    for line in (ran.stdout + ran.stderr).splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            rows.append({"msg": line})
    found = Ran(ran.returncode, rows)
    for row in rows:
        job = str(row.get("job") or row.get("jobID") or "")
        if row.get("matrix"):
            job += f" {json.dumps(row['matrix'])}"
        if "stepResult" in row:
            found.steps.setdefault(job, {})[str(row.get("step") or row.get("stepID"))] = row["stepResult"]
        if row.get("command") == "summary":
            found.summaries.append((job, row["content"]))
        if row.get("command") == "set-output":
            found.outputs[row["name"]] = row["arg"]
    return found


def _port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
