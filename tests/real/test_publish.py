"""`python -m pipeline` and the Hub: published and had back, killed on the way, on several machines, from the Hub."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from conftest import copied_store, leftovers, write_matrix
from hub import LoopbackHub
from machine import ROOT, SHARED, empty_store

from pipeline import matrix, run
from pipeline.publish.folder import Folder
from pipeline.publish.hub import Hub
from pipeline.toolchain import tools

REPO = "me/llama-GGUF"
TOKEN = "hf_aTokenOfTheTests"
MODES = {"xet": {}, "lfs": {"HF_HUB_DISABLE_XET": "1"}}

SNAPSHOT = """
import sys
from huggingface_hub import snapshot_download
snapshot_download(sys.argv[1], local_dir=sys.argv[2])
"""


@pytest.fixture(scope="module")
def shared(machine_store, prepared, tmp_path_factory):
    return copied_store(machine_store, prepared, tmp_path_factory.mktemp("shared") / "store")


@pytest.fixture
def store(shared):
    """One store for all tests here: what they are about comes after the jobs."""
    return shared


@pytest.fixture(scope="module")
def expected(shared, toolchain, model_directory, tmp_path_factory):
    """What a release of the tiny llama in Q8_0 and Q4_K_M holds, by way of a folder."""
    root = tmp_path_factory.mktemp("expected")
    shop = run.Workshop(shared, root / "results", Folder(root / "out"))
    (model,) = matrix.load(write_matrix(root / "matrix.yml", model_directory("llama"), "Q8_0, Q4_K_M")).models
    (steps,) = run.look([model], toolchain, root / "matrix.yml")
    run.run_model(shop, steps, model.recipes)
    return {p.name: p.read_bytes() for p in (root / "out" / "llama-GGUF").iterdir() if p.name != ".gitattributes"}


@pytest.fixture
def hub(tmp_path, shared):
    with LoopbackHub(tmp_path / "hub") as hub:
        hub.add_token(TOKEN, "me", "write", orgs={"nold": "write"})
        yield hub
    files = [p for root in (tmp_path, shared.root) for p in root.rglob("*") if p.is_file()]
    written = [p for p in files if TOKEN.encode() in p.read_bytes()]
    assert written == [], "the token was written down"


@pytest.fixture(params=MODES)
def mode(request):
    return MODES[request.param]


@pytest.fixture
def signed_in(hub, tmp_path):
    """The environment of somebody who publishes to the loopback Hub, with an empty cache."""
    return {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(tmp_path / "hf-home"),
        "HF_TOKEN": TOKEN,
        "HF_XET_CLIENT_RETRY_BASE_DELAY": "10ms",
    }


@pytest.fixture
def pipeline(start, signed_in, tmp_path):
    """`pipeline(command, …)` runs it against the Hub to its end; returns exit code, stdout, stderr."""

    def run(*arguments, **environment):
        process = start(*arguments, env=signed_in | environment)
        out, err = process.communicate()
        assert TOKEN not in out + err
        return process.returncode, out, err

    return run


@pytest.fixture
def places(tmp_path):
    return "--results", tmp_path / "results", "--publish-to", "hub"


def main(hub):
    """The files of the repo at main, with their bytes, `.gitattributes` left out."""
    files = hub.repos.get("model", REPO).commit("main").files
    return {n: hub.objects.path(f.sha256).read_bytes() for n, f in files.items() if n != ".gitattributes"}


def branches(hub):
    return [name for name in hub.repos.get("model", REPO).refs if name.startswith("refs/heads/")]


def commits(hub):
    return [r for r in hub.requests if r.method == "POST" and "/commit/main" in r.path and r.status == 200]


def fetched(environment, directory):
    """What the real client downloads."""
    subprocess.run([sys.executable, "-c", SNAPSHOT, REPO, directory], env=os.environ | environment, check=True)
    return {p.name: p.read_bytes() for p in directory.iterdir() if p.is_file() and p.name != ".gitattributes"}


def test_published_and_had_back(
    pipeline, hub, mode, signed_in, places, matrix_file, store, toolchain, expected, tmp_path
):
    path = matrix_file("llama", "Q8_0, Q4_K_M")
    code, out, err = pipeline("run", "--matrix", path, *places, **mode)
    assert code == 0, err
    assert "Q4_K_M" in out
    assert len(commits(hub)) == 1
    assert branches(hub) == ["refs/heads/main"]
    assert len(hub.repos.get("model", REPO).refs) == 2, "a tag and no more"

    back = fetched(signed_in | mode, tmp_path / "back")
    assert back == expected

    sent, asked = hub.uploaded(), len(hub.requests)
    code, _, err = pipeline("run", "--matrix", path, *places, **mode)
    assert code == 0
    assert f"{REPO}: {hub.endpoint}/{REPO}, as it was" in err
    assert hub.uploaded() == sent
    assert {r.method for r in hub.requests[asked:]} == {"GET"}
    assert len(commits(hub)) == 1

    program = tools(store, toolchain).path("llama-completion")
    for tag in ("Q4_K_M", "Q8_0"):
        answered = subprocess.run(
            [program, "-hf", f"{REPO}:{tag}", "-n", "4", "-no-cnv", "-p", "hello"],
            env=os.environ | {"MODEL_ENDPOINT": f"{hub.endpoint}/", "LLAMA_CACHE": str(tmp_path / "cache")},
            stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False,
        )  # fmt: skip
        assert answered.returncode == 0, answered.stderr.decode(errors="replace")
    held = [p.read_bytes() for p in (tmp_path / "cache").rglob("*") if p.is_file()]
    assert back["llama-Q4_K_M.gguf"] in held
    assert back["llama-Q8_0.gguf"] in held


def test_a_large_quant_goes_up_in_shards(pipeline, hub, places, matrix_file, store, toolchain, tmp_path):
    path = matrix_file("llama", "Q8_0, Q2_K", "max_shard_size: 1M")
    code, _, err = pipeline("run", "--matrix", path, *places)
    assert code == 0, err
    found = main(hub)
    shards = sorted(name for name in found if name.startswith("llama-Q8_0"))
    assert len(shards) >= 2
    assert shards == [f"llama-Q8_0-{n:05}-of-{len(shards):05}.gguf" for n in range(1, len(shards) + 1)]
    assert f"[`Q8_0`]({shards[0]}) ‡" in found["README.md"].decode()
    release = json.loads(found["release.json"])
    sums = {f["name"]: f["sha256"] for f in release["files"]}
    assert all(hashlib.sha256(found[name]).hexdigest() == sums[name] for name in shards)
    answered = subprocess.run(
        [tools(store, toolchain).path("llama-completion"), "-hf", f"{REPO}:Q8_0", "-n", "4", "-no-cnv", "-p", "hello"],
        env=os.environ | {"MODEL_ENDPOINT": f"{hub.endpoint}/", "LLAMA_CACHE": str(tmp_path / "cache")},
        stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert answered.returncode == 0, answered.stderr.decode(errors="replace")
    held = [p.read_bytes() for p in (tmp_path / "cache").rglob("*") if p.is_file()]
    assert all(found[name] in held for name in shards)


# Where a run is held while it is killed: in the upload of the second file, before it is committed, before the one
# commit, and after it, when the answer is still to come.
KILLS = {
    "uploading": (None, r"/lfs/[^/]+$|/cas/v1/xorbs/", 1),
    "staging": ("POST", r"/commit/staging", 1),
    "before the commit": ("POST", r"/commit/main", 0),
    "after the commit": ("GET", r"/resolve/[0-9a-f]{40}/.*gguf", 0),
    "tidying": ("DELETE", r"/branch/staging", 0),
}


# What carries weights: a body to the large file storage, or a piece of one to Xet's.
BODY = re.compile(r"/lfs/[0-9a-f]+$|/cas/v1/xorbs/")


@pytest.mark.parametrize("moment", KILLS)
def test_killed_while_publishing_the_next_run_ends_it(
    start, pipeline, hub, signed_in, mode, places, matrix_file, expected, moment
):
    path = matrix_file("llama", "Q8_0, Q4_K_M")
    method, where, skip = KILLS[moment]
    fault = hub.fault(where, "delay", method=method, skip=skip, seconds=1.0)
    process = start("run", "--matrix", path, *places, env=signed_in | mode)
    while process.poll() is None and fault.count:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, f"{moment} was over before it could be killed"
    hub.faults.clear()
    code, _, err = pipeline("run", "--matrix", path, *places, **mode)
    assert code == 0, err
    assert main(hub) == expected
    assert len(commits(hub)) == 1
    assert branches(hub) == ["refs/heads/main"]
    sent = sum(r.received for r in hub.requests if BODY.search(r.path) and r.status == 200)
    large = sum(len(content) for name, content in expected.items() if name.endswith(".gguf"))
    assert sent == large if mode else sent < 1.01 * large, "something was sent twice"


def test_where_the_disk_is_short_a_quant_goes_when_the_hub_has_it(
    loopback_hub, monkeypatch, machine_store, prepared, toolchain, matrix_file, expected, tmp_path
):
    loopback_hub.add_token(TOKEN, "me", "write")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    store = copied_store(machine_store, prepared, tmp_path / "store")
    shop = run.Workshop(store, tmp_path / "results", Hub(store.display), lean=True)
    path = matrix_file("llama", "Q8_0, Q4_K_M")
    (steps,) = run.look(matrix.load(path).models, toolchain, path)
    shop.target.check([run.planned(steps, steps.model.recipes)])
    stage = Hub.stage

    def stopped(*arguments):
        stage(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(Hub, "stage", stopped)
    with pytest.raises(KeyboardInterrupt):
        run.run_model(shop, steps, steps.model.recipes)
    monkeypatch.setattr(Hub, "stage", stage)
    run.run_model(shop, steps, steps.model.recipes)
    assert not {"quant", "tensor"} & {artifact.kind for artifact in store.artifacts()}
    said = store.display._stream.getvalue()
    assert {quant: said.count(f"{quant}: quantize …") for quant in ("Q8_0", "Q4_K_M")} == {"Q8_0": 1, "Q4_K_M": 1}
    found = main(loopback_hub)
    assert {n: found[n] for n in found if n.endswith(".gguf")} == {
        n: expected[n] for n in expected if n.endswith(".gguf")
    }


def test_jobs_here_and_the_release_there(pipeline, hub, places, matrix_file, store, machine_store, tmp_path):
    """As workflows run it: only `stage` and `release` have the token, and the release has no weights at all."""
    path = matrix_file("llama", "Q8_0, Q4_K_M")
    results = places[:2]
    for quant in ("Q8_0", "Q4_K_M"):
        assert pipeline("job", f"tiny/llama:{quant}", "--matrix", path, *results, HF_TOKEN="")[0] == 0
        code, _, err = pipeline("stage", f"tiny/llama:{quant}", "--matrix", path, *places)
        assert code == 0, err
    elsewhere = empty_store(machine_store, tmp_path / "elsewhere")
    release = ("release", "tiny/llama", "--matrix", path, *places, "--store", elsewhere.root)
    code, out, err = pipeline(*release, "--dry-run")
    assert code == 0, err
    assert "copy  llama-Q8_0.gguf" in out
    assert commits(hub) == []
    sent = hub.uploaded()
    code, out, err = pipeline(*release)
    assert code == 0, err
    assert hub.uploaded() - sent < 250_000
    assert {a.kind for a in elsewhere.artifacts()} - {*SHARED} == {"papers", "plot"}
    assert set(main(hub)) >= {"llama-Q8_0.gguf", "llama-Q4_K_M.gguf", "imatrix.gguf"}


REFUSALS = {
    "wrong token": ({"HF_TOKEN": "hf_wrong"}, "does not accept the token"),
    "no token": ({"HF_TOKEN": "", "HF_TOKEN_PATH": "nowhere"}, "HF_TOKEN is set, and empty"),
    "read-only token": ({"HF_TOKEN": "hf_reads"}, "may only read"),
    "unknown organization": ({"HF_TOKEN": "hf_stranger"}, "is in no organization me"),
    "full quota": ({}, "has no room left"),
}


@pytest.mark.parametrize("why", REFUSALS)
def test_what_cannot_be_published_is_refused_before_any_work(
    pipeline, hub, places, matrix_file, machine_store, tmp_path, why
):
    store = empty_store(machine_store, tmp_path / "store")
    hub.add_token("hf_reads", "me", "read")
    hub.add_token("hf_stranger", "you", "write")
    if why == "full quota":
        hub.quota["me"] = 1000
    environment, said = REFUSALS[why]
    places = (*places, "--store", store.root)
    code, out, err = pipeline("run", "--matrix", matrix_file("llama", "Q8_0"), *places, **environment)
    assert code == 4
    assert said in err
    room, *rest = err.splitlines()
    assert room.startswith("The run takes up to ")
    assert len(rest) == 1, err
    assert out == ""
    assert {a.kind for a in store.artifacts()} <= {*SHARED}


@pytest.fixture
def hub_matrix(matrix_file, model_directory):
    """A matrix whose model comes from the Hub."""

    def write(*arguments):
        path = matrix_file(*arguments)
        path.write_text(path.read_text().replace(f"    path: {model_directory('llama')}\n", ""))
        return path

    return write


def test_from_a_private_hub_repo_killed_in_the_download(
    start, pipeline, hub, mode, signed_in, hub_matrix, model_directory, machine_store, tmp_path
):
    store = empty_store(machine_store, tmp_path / "store")
    hub.add("tiny/llama", model_directory("llama"), "a" * 40, private=True)
    hub.add_token(TOKEN, "me", "write", access=["tiny/llama"])
    path = hub_matrix("llama", "Q8_0")
    places = ["--matrix", path, "--store", store.root, "--results", tmp_path / "results", "--publish-to"]
    fault = hub.fault(r"/cdn/|/cas/xorbs", "delay", method="GET", skip=1, seconds=3.0)
    process = start("run", *places, tmp_path / "out", env=signed_in | mode)
    while process.poll() is None and fault.count:
        time.sleep(0.005)
    assert any(room.startswith("source-") for room in leftovers(store))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    hub.faults.clear()
    before = [r.path for r in hub.requests if r.status == 200 and "/cdn/" in r.path]
    code, _, err = pipeline("run", *places, tmp_path / "out", **mode)
    assert code == 0, err
    assert leftovers(store) == []
    again = [r.path for r in hub.requests if r.status == 200 and "/cdn/" in r.path][len(before) :]
    assert not set(before) & set(again), "a finished file was downloaded again"
    release = json.loads((tmp_path / "out" / "llama-GGUF" / "release.json").read_bytes())
    assert release["provenance"]["revision"] == "a" * 40
    (snapshot,) = (a for a in store.artifacts() if a.kind == "source")
    for name in snapshot.files:
        assert snapshot.file(name).read_bytes() == (model_directory("llama") / name).read_bytes()
    assert "model.safetensors.index.json" in snapshot.files


def test_a_gated_source_without_access(pipeline, hub, places, hub_matrix, model_directory, store):
    hub.add("tiny/llama", model_directory("llama"), "a" * 40, gated=True)
    code, _, err = pipeline("run", "--matrix", hub_matrix("llama", "Q8_0"), *places)
    assert code == 4
    assert "tiny/llama is gated: accept its terms" in err
    assert len(err.splitlines()) == 1


def test_the_hub_started_by_itself_serves_what_it_was_given(model_directory, tmp_path):
    arguments = ["--port", "0", "--data", tmp_path / "data", "--model", f"tiny/llama={model_directory('llama')}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.hub", *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        endpoint = process.stdout.readline().strip()
        environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home")}
        subprocess.run([sys.executable, "-c", SNAPSHOT, "tiny/llama", tmp_path / "copy"], env=environment, check=True)
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()
    assert (tmp_path / "copy" / "config.json").read_bytes() == (model_directory("llama") / "config.json").read_bytes()
