"""`python -m tests.hub`, as a person or a workflow runs it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx2
import huggingface_hub
import pytest
from huggingface_hub import HfApi

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.programs


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """`serve(*arguments)` starts the program and gives it and its endpoint."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    started = []

    def start(*arguments):
        command = [sys.executable, "-m", "tests.hub", "--port", "0", "--data", tmp_path / "data", *arguments]
        program = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(program)
        return program, program.stdout.readline().strip()

    yield start
    for program in started:
        program.kill()
        program.communicate()
    huggingface_hub.close_session()


def stop(program, number):
    program.send_signal(number)
    assert program.communicate(timeout=10) == ("", "")
    assert program.returncode == 0


def test_serves_until_it_is_told_to_stop(serve, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    model = f"org/model={tmp_path / 'model'}"
    program, endpoint = serve("--model", model, "--token", "hf_me=me:write:acme,other", "--token", "hf_reads=you")
    api = HfApi(endpoint=endpoint, token="hf_me")
    sha = api.model_info("org/model").sha
    api.create_repo("acme/m")
    api.upload_file(path_or_fileobj=b"hello", path_in_repo="hello.txt", repo_id="acme/m")
    assert [org["name"] for org in api.whoami()["orgs"]] == ["acme", "other"]
    assert api.whoami("hf_reads")["auth"]["accessToken"]["role"] == "read"
    seen = httpx2.get(f"{endpoint}/-/requests").json()
    assert seen[0]["path"] == "/api/models/org/model"
    stop(program, signal.SIGTERM)

    program, endpoint = serve("--model", model)
    api = HfApi(endpoint=endpoint, token=False)
    assert api.model_info("org/model").sha == sha
    assert api.list_repo_files("acme/m") == [".gitattributes", "hello.txt"]
    stop(program, signal.SIGINT)


def test_listens_on_this_machine_alone(serve):
    _, endpoint = serve()
    port = int(endpoint.rpartition(":")[2])
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.2", port)):
        pass


def test_a_model_that_is_not_there(serve):
    program, said = serve("--model", "org/model=nowhere")
    assert said == ""
    assert "nowhere is no directory" in program.communicate()[1]
    assert program.returncode == 2
