"""What the workflow files must hold that no run of them by act shows: rights, secrets, runners, names."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from pipeline import legs
from pipeline.plan import Job, ModelPlan, Plan

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS = {path.name: yaml.safe_load(path.read_text()) for path in sorted(FOLDER.glob("*.yml"))}
ACTIONS = sorted((ROOT / ".github" / "actions").glob("*/action.yml"))
# The steps that a token that may write to the Hub reaches.
PUBLISHING = {"Stage", "Release", "Render", "Withdraw"}


def events(name):
    return set(WORKFLOWS[name][True])  # YAML 1.1 reads `on` as a truth value


def jobs():
    return [(name, key, job) for name, workflow in WORKFLOWS.items() for key, job in workflow["jobs"].items()]


def steps():
    return [(name, key, step) for name, key, job in jobs() for step in job.get("steps", ())]


def test_nothing_has_a_right_that_it_does_not_name():
    for name, workflow in WORKFLOWS.items():
        assert workflow["permissions"] == {}, name
    for name, key, job in jobs():
        assert job["permissions"], f"{name}: {key} names none"


def test_every_action_is_pinned_by_its_commit_with_the_version_beside_it():
    for path in [*FOLDER.glob("*.yml"), *ACTIONS]:
        for used in re.findall(r"uses: (.*)", path.read_text()):
            assert re.fullmatch(r"\./\.github/.*|[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", used), f"{path.name}: {used}"


def test_nothing_of_an_event_is_put_into_a_shells_text():
    scripts = [(name, step["run"]) for name, _, step in steps() if "run" in step]
    scripts += [
        (str(p), s["run"]) for p in ACTIONS for s in yaml.safe_load(p.read_text())["runs"]["steps"] if "run" in s
    ]
    assert len(scripts) > 15
    for name, script in scripts:
        assert "${{" not in script, name


def test_no_checkout_keeps_a_token():
    found = [step for _, _, step in steps() if str(step.get("uses", "")).startswith("actions/checkout@")]
    assert len(found) > 8
    assert all(step["with"]["persist-credentials"] is False for step in found)


@pytest.mark.parametrize("name", [name for name in WORKFLOWS if "pull_request" in events(name)])
def test_a_pull_request_reaches_no_runner_of_ours_and_no_secret(name):
    text = (FOLDER / name).read_text()
    assert "secrets." not in text
    for job in WORKFLOWS[name]["jobs"].values():
        assert job["runs-on"] == "ubuntu-latest"
        assert job["permissions"] == {"contents": "read"}
    assert "pull_request_target" not in text


def test_pull_requests_start_the_check_and_the_tests_alone():
    assert {name for name in WORKFLOWS if "pull_request" in events(name)} == {"check.yml", "test.yml"}
    assert not any("pull_request_target" in events(name) for name in WORKFLOWS)


def test_the_token_that_may_write_reaches_the_steps_that_publish_alone():
    for name, key, job in jobs():
        for step in job.get("steps", ()):
            given = json.dumps(step)
            if "secrets.HF_TOKEN" in given or "HF_OIDC_RESOURCE" in given:
                assert step["name"] in PUBLISHING, f"{name}: {key}: {step['name']}"
                assert job["environment"] == "publish", f"{name}: {key}"
                assert "default_branch" in job["if"], f"{name}: {key}"
                assert set(step["env"]) <= {
                    *("HF_TOKEN", "HF_READ_TOKEN", "HF_OIDC_RESOURCE"),
                    *("MODEL", "MODELS", "QUANTS", "NAME", "REASON", "LIFT"),
                }
        # What asks GitHub for an identity is given to whole jobs: those that publish, and those that call them.
        if job["permissions"].get("id-token"):
            assert job.get("environment") == "publish" or "uses" in job, f"{name}: {key}"


def test_what_is_published_is_said_by_the_plan_and_by_no_job_that_ran_a_model():
    for name, key in (("quant.yml", "stage"), ("model.yml", "release")):
        found = WORKFLOWS[name]["jobs"][key]["steps"]
        assert not any("needs." in json.dumps(step) for step in found), f"{name}: {key}"
        names = [step.get("name") for step in found]
        held, publishes = names.index("Hold the plan against its digest"), next(n for n in names if n in PUBLISHING)
        assert held < names.index(publishes)
        assert found[held]["env"] == {"DIGEST": "${{ inputs.digest }}"}


def test_what_makes_and_what_runs_a_model_has_no_more_than_a_token_to_read():
    for name, key in (("model.yml", "prepare"), ("quant.yml", "job")):
        job = WORKFLOWS[name]["jobs"][key]
        assert set(re.findall(r"secrets\.(\w+)", json.dumps(job))) == {"HF_READ_TOKEN"}
        assert job["permissions"] == {"contents": "read"}
        assert "environment" not in job


def test_the_plan_holds_no_secret():
    assert "secrets." not in json.dumps(WORKFLOWS["quantize.yml"]["jobs"]["plan"])


def test_names_of_concurrency(golden):
    found = {name: workflow.get("concurrency") for name, workflow in WORKFLOWS.items()}
    found |= {f"{name}: {key}": job["concurrency"] for name, key, job in jobs() if "concurrency" in job}
    golden("concurrency.json", json.dumps({k: v for k, v in found.items() if v}, indent=1) + "\n")


def test_the_matrices_of_a_plan(golden):
    def model(source, *quants):
        made = tuple(Job(f"{source}:{quant}", f"{quant}.gguf", action, "") for quant, action in quants)
        return ModelPlan(source, "f" * 40, f"me/{source.partition('/')[2]}-GGUF", "0" * 16, made, due=True)

    plan = Plan(
        (
            model(
                "google/gemma-2b", ("Q8_0", "run"), ("Q4_K_M", "published"), ("Q2_K", "withdrawn"), ("IQ4_XS", "reuse")
            ),
            model("tiny/llama", ("Q8_0", "published")),
            model("many/quants", *((f"Q{number}", "run") for number in range(300))),
        )
    )
    matrices = {"batches": legs.batches(plan), "quants": {m.source: legs.quants(m) for m in plan.models}}
    golden("github.json", json.dumps(matrices, indent=1) + "\n")
