"""The files of `.github/runners`: what they promise to the workflows, and a round of a machine's runner.

GitHub's own runner is a small script here, and GitHub the stand-in for it; nothing here shows that a GPU, systemd or a
cluster take these files.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from github.server import TOKEN
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
MACHINE = ROOT / ".github" / "runners" / "machine"
KUBERNETES = ROOT / ".github" / "runners" / "kubernetes"
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
GPU_RUNNER = re.compile(r"""vars\.GPU_RUNNER \|\| '\[(.*)\]'""")
STORE, VENV = "LLM_QUANTIZER_STORE", "LLM_QUANTIZER_VENV"


def load(file):
    return list(YAML(typ="safe").load_all(file))


@pytest.fixture(scope="module")
def values():
    (values,) = load(KUBERNETES / "values.yaml")
    return values


@pytest.fixture(scope="module")
def pod(values):
    return values["template"]["spec"]


@pytest.fixture(scope="module")
def container(pod):
    (container,) = pod["containers"]
    return container


@pytest.fixture(scope="module")
def claims():
    return {document["kind"]: document for document in load(KUBERNETES / "store.yaml")}


@pytest.fixture(scope="module")
def unit():
    """The unit's lines as (key, value), those of [Service] and all others."""
    lines = (MACHINE / "gpu-runner.service").read_text().splitlines()
    return [tuple(line.split("=", 1)) for line in lines if re.match(r"\w+=", line)]


@pytest.fixture(scope="module")
def settings():
    lines = (MACHINE / "gpu-runner.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_the_pipeline_reads_the_names_that_are_set(settings, container):
    assert f'"{STORE}"' in (ROOT / "pipeline" / "cli" / "options.py").read_text()
    assert f"${{{VENV}:-}}" in (ROOT / ".github" / "actions" / "setup" / "action.yml").read_text()
    assert {STORE, VENV} <= settings.keys()
    assert [entry["name"] for entry in container["env"]] == [STORE]
    assert f"ENV {VENV}=" in (KUBERNETES / "Containerfile").read_text()


def test_the_labels_are_those_that_the_workflows_ask_for(settings):
    asked = {match for file in WORKFLOWS for match in GPU_RUNNER.findall(file.read_text())}
    (labels,) = asked
    assert [f'"{label}"' for label in settings["RUNNER_LABELS"].split(",")] == labels.split(", ")


def test_no_workflow_of_a_pull_request_knows_the_gpu_runners():
    for file in WORKFLOWS:
        (workflow,) = load(file)
        # YAML 1.2 leaves `on` a word.
        if {"pull_request", "pull_request_target", "workflow_run"} & set(workflow["on"]):
            assert {job["runs-on"] for job in workflow["jobs"].values()} == {"ubuntu-latest"}, file.name


def test_the_scale_set_has_a_name_for_gpu_runner_and_no_secret_in_it(values):
    comment = (KUBERNETES / "values.yaml").read_text()
    assert f'GPU_RUNNER to ["{values["runnerScaleSetName"]}"]' in comment
    assert isinstance(values["githubConfigSecret"], str)
    assert values["minRunners"] == 0 < values["maxRunners"]


def test_a_pod_has_a_gpu_the_store_and_a_folder_of_its_own(pod, container, claims):
    assert container["name"] == "runner"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert pod["nodeSelector"]
    assert [entry["key"] for entry in pod["tolerations"]] == ["nvidia.com/gpu"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
    (store,) = (entry["value"] for entry in container["env"] if entry["name"] == STORE)
    claim = claims["PersistentVolumeClaim"]
    assert mounts[store]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert "emptyDir" in mounts["/home/runner/_work"]


def test_a_pod_has_no_way_to_its_node(pod, container):
    text = (KUBERNETES / "values.yaml").read_text()
    assert not re.search(r"privileged: true|docker\.sock|dind|hostPath|host(Network|PID|IPC)", text)
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    image = (KUBERNETES / "Containerfile").read_text()
    user, group = (pod["securityContext"][key] for key in ("runAsUser", "runAsGroup"))
    assert f"USER {user}:{group}" in image
    assert not re.search(r"\bsudo\b.*NOPASSWD|usermod|:latest", image)


def test_the_store_may_be_written_from_every_node(claims):
    volume, claim = claims["PersistentVolume"], claims["PersistentVolumeClaim"]
    assert volume["spec"]["accessModes"] == claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert claim["spec"]["volumeName"] == volume["metadata"]["name"]
    assert volume["spec"]["claimRef"] == {key: claim["metadata"][key] for key in ("namespace", "name")}
    assert "lookupcache=positive" in volume["spec"]["mountOptions"]
    assert not {"nolock", "local_lock=all", "local_lock=flock", "soft"} & set(volume["spec"]["mountOptions"])


def test_the_unit_lets_a_job_write_to_store_and_work_and_reach_the_gpu(unit, settings):
    unit = dict(unit)
    for name in (STORE, "RUNNER_WORK"):
        assert Path(settings[name]).is_relative_to(unit["ReadWritePaths"])
    for name in (VENV, "RUNNER_HOME"):
        assert not Path(settings[name]).is_relative_to(unit["ReadWritePaths"])
    assert unit["DeviceAllow"] == "char-nvidia* rw"
    closed = {"NoNewPrivileges": "yes", "ProtectSystem": "strict", "PrivateTmp": "yes", "CapabilityBoundingSet": ""}
    assert closed.items() <= unit.items()
    assert unit["User"] != "root"
    assert unit["Restart"] == "always"


def test_the_token_is_named_by_the_one_line_that_runs_as_root(unit):
    lines = [(key, value) for key, value in unit if "token" in value]
    assert [(key, value[0]) for key, value in lines] == [("ExecStartPre", "+")]
    assert [key for key, value in unit if key.startswith("Exec") and value[0] in "+!"] == ["ExecStartPre"]
    assert ("InaccessiblePaths", "/etc/gpu-runner") in unit


class Machine:
    """What a round meets: the folders of gpu-runner.env under a temporary one, and the unit's lines to run in them."""

    def __init__(self, place, unit, settings, fake):
        self.place = place
        self.lines = [(key, value.lstrip("+")) for key, value in unit if key.startswith("Exec")]
        self.settings = {key: self.moved(value) for key, value in settings.items() if key != "PATH"}
        self.settings |= {"RUNNERS": f"repos/{fake.repository.full_name}", "MIN_FREE_GB": "0"}
        self.settings |= {"PATH": os.environ["PATH"], "GITHUB_API_URL": fake.endpoint}
        for folder in ("RUNNER_HOME", "RUNNER_WORK", STORE):
            Path(self.settings[folder]).mkdir(parents=True)
        (place / "etc/gpu-runner").mkdir(parents=True)
        self.token.write_text(f"{TOKEN}\n")
        self.token.chmod(0o600)
        self.config.parent.mkdir(parents=True)
        self.runner = Path(self.settings["RUNNER_HOME"]) / "run.sh"
        self.runner.write_text(FAKE_RUNNER)
        self.runner.chmod(0o555)
        self.store, self.work = Path(self.settings[STORE]), Path(self.settings["RUNNER_WORK"])

    def moved(self, value):
        return re.sub(r"/(srv|opt|etc|run)(?=/)", rf"{self.place}/\1", value)

    @property
    def token(self):
        return self.place / "etc/gpu-runner/token"

    @property
    def config(self):
        return self.place / "run/gpu-runner/jitconfig"

    def run(self, key):
        """Run the unit's line `key` as systemd would, and return what became of it."""
        (line,) = (value for name, value in self.lines if name == key)
        script, *arguments = shlex.split(line)
        command = [MACHINE / Path(script).name, *map(self.moved, arguments)]
        return subprocess.run(command, env=self.settings, capture_output=True, text=True, check=False)


# It tells what it was given, then behaves as a job may: files everywhere, and a folder that nobody may write to.
FAKE_RUNNER = """#!/usr/bin/env bash
set -euo pipefail
{ env; echo "arguments: $*"; pwd; tr '\\0' '\\n' < /proc/$PPID/environ; } > "$LLM_QUANTIZER_STORE/told"
mkdir -p _work/model "$HOME/.cache"
touch _work/model/.hidden "$HOME/.cache/x" run-helper.sh
chmod 500 _work/model
"""


@pytest.fixture
def machine(tmp_path, unit, settings, fake_github):
    if not Path("/proc/self/environ").exists() or not shutil.which("bash"):
        pytest.skip("the machine's set-up is for Linux")
    return Machine(tmp_path, unit, settings, fake_github)


@pytest.mark.programs
class TestARound:
    def test_one_job_and_nothing_stays_but_the_store(self, machine, fake_github):
        (machine.work / "left").write_text("by a round that was killed")
        assert machine.run("ExecStartPre").stderr == ""
        (asked,) = fake_github.requests
        assert (asked.path, asked.status) == ("/actions/runners/generate-jitconfig", 201)
        assert asked.body["labels"] == ["self-hosted", "gpu"]
        assert asked.body["runner_group_id"] == 1
        config = machine.config.read_text()
        assert stat.S_IMODE(machine.config.stat().st_mode) == 0o600

        done = machine.run("ExecStart")
        assert (done.returncode, done.stderr) == (0, "")
        told = (machine.store / "told").read_text()
        assert f"ACTIONS_RUNNER_INPUT_JITCONFIG={config}" in told
        assert f"HOME={machine.work}/home" in told
        assert f"arguments: \n{machine.work}/runner\n" in told
        assert TOKEN not in told
        assert not machine.config.exists()
        assert sorted(path.name for path in machine.work.iterdir()) == ["home", "runner"]
        assert list(machine.runner.parent.iterdir()) == [machine.runner]  # the next round's runner is untouched

        assert machine.run("ExecStopPost").returncode == 0
        assert list(machine.work.iterdir()) == []
        assert (machine.store / "told").exists()

    def test_every_round_is_a_runner_of_its_own(self, machine, fake_github):
        for _ in range(2):
            assert machine.run("ExecStartPre").returncode == 0
        first, second = (asked.body["name"] for asked in fake_github.requests)
        assert first != second

    def test_links_of_a_job_lead_the_wiping_nowhere(self, machine, tmp_path):
        (tmp_path / "kept").mkdir(mode=0o500)
        (tmp_path / "kept.txt").write_text("kept")
        (machine.work / "folder").symlink_to(tmp_path / "kept")
        (machine.work / "file").symlink_to(tmp_path / "kept.txt")
        assert machine.run("ExecStopPost").returncode == 0
        assert list(machine.work.iterdir()) == []
        assert stat.S_IMODE((tmp_path / "kept").stat().st_mode) == 0o500
        assert (tmp_path / "kept.txt").read_text() == "kept"

    def test_too_little_disk_registers_nothing(self, machine, fake_github):
        machine.settings["MIN_FREE_GB"] = "1000000"
        refused = machine.run("ExecStartPre")
        assert refused.returncode == 1
        assert re.fullmatch(
            r"error: \d+ GB are free on the disk of .*1000000 GB on \(MIN_FREE_GB\)\. .*\n", refused.stderr
        )
        assert fake_github.requests == []
        assert not machine.config.exists()

    @pytest.mark.parametrize(
        ("status", "message", "sentence"),
        [
            (401, "Bad credentials", r"answered 401, Bad credentials\. Put a token that holds"),
            (403, "Resource not accessible", r"answered 403, .*`Administration: write` for the repository"),
            (404, "Not Found", r"answered 404, Not Found\. The token needs"),
            (503, "", r"answered 503, without a word\. It is tried again"),
            (422, "no\n::error::yes\x1b[31m" + "x" * 5000, r"answered 422, no ::error::yes \[31mx+\."),
        ],
    )
    def test_what_github_refuses_is_a_sentence(self, machine, fake_github, status, message, sentence):
        fake_github.fault("POST", status, message)
        refused = machine.run("ExecStartPre")
        assert refused.returncode == 1
        assert re.search(sentence, refused.stderr)
        assert refused.stderr.startswith("error: GitHub registers no runner in repos/me/quants: ")
        assert refused.stderr.count("\n") == 1
        assert TOKEN not in refused.stderr
        assert not machine.config.exists()

    def test_a_runner_of_an_organization(self, machine, fake_github):
        machine.settings |= {"RUNNERS": "orgs/me", "RUNNER_GROUP": "7"}
        refused = machine.run("ExecStartPre").stderr  # the stand-in knows no organizations
        assert "needs `Self-hosted runners: write` for the organization" in refused
        (asked,) = fake_github.requests
        assert (asked.method, asked.path) == ("POST", "/orgs/me/actions/runners/generate-jitconfig")
        assert asked.body["runner_group_id"] == 7

    def test_a_redirect_does_not_take_the_token_along(self, machine, fake_github):
        fake_github.fault("POST", 302, "Found", headers={"Location": f"{fake_github.endpoint}/elsewhere"})
        assert "answered 302" in machine.run("ExecStartPre").stderr
        assert len(fake_github.requests) == 1

    def test_nobody_answers(self, machine):
        machine.settings["GITHUB_API_URL"] = "http://127.0.0.1:9"
        refused = machine.run("ExecStartPre")
        assert refused.returncode == 1
        assert refused.stderr.startswith("error: GitHub could not be reached to register a runner: ")

    def test_an_answer_of_something_else(self, machine, fake_github):
        fake_github.fault("POST", 200, "hello")
        refused = machine.run("ExecStartPre")
        assert refused.stderr == "error: GitHub's answer holds no runner's configuration. Is GITHUB_API_URL right?\n"

    def test_a_token_that_others_may_read_is_not_used(self, machine, fake_github):
        machine.token.chmod(0o640)
        assert "may be read by others" in machine.run("ExecStartPre").stderr
        machine.token.chmod(0o600)
        machine.token.write_text("ghp_a\r\nX-Evil: yes\n")
        assert "holds no token of GitHub" in machine.run("ExecStartPre").stderr
        machine.token.unlink()
        assert "cannot be read: No such file or directory" in machine.run("ExecStartPre").stderr
        assert fake_github.requests == []

    def test_a_setting_that_is_missing_or_wrong_is_named(self, machine, fake_github):
        machine.settings["RUNNERS"] = "me/quants"
        assert "RUNNERS is 'me/quants'. Set it to repos/OWNER/NAME" in machine.run("ExecStartPre").stderr
        machine.settings["RUNNERS"] = "orgs/me"
        machine.settings["RUNNER_GROUP"] = "gpu"
        assert "RUNNER_GROUP is 'gpu'. Set it to a whole number." in machine.run("ExecStartPre").stderr
        del machine.settings["RUNNER_GROUP"]
        assert "RUNNER_GROUP is not set" in machine.run("ExecStartPre").stderr
        assert fake_github.requests == []
