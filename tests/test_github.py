"""The client of GitHub's API, against the stand-in for it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from github.repository import Pull
from github.server import TOKEN

from pipeline import github
from pipeline.errors import BadInputError, GitHubError
from pipeline.github import GitHub


@pytest.fixture
def fake(fake_github):
    fake_github.repository.commit("main", {"matrix.yml": b"version: 1\r\n"}, "First")
    return fake_github


@pytest.fixture
def client(fake):
    return GitHub.of_environment()


def test_a_branch_with_one_changed_file(client, fake):
    base = client.head(client.default_branch())
    client.set_branch("watch/a--b", base)
    before = client.read("matrix.yml", "watch/a--b")
    assert before.content == b"version: 1\r\n"
    client.write("matrix.yml", before, b"\xffnew", "watch/a--b", "Change it")
    assert fake.repository.files("watch/a--b") == {"matrix.yml": b"\xffnew"}
    assert fake.repository.files("main") == {"matrix.yml": b"version: 1\r\n"}
    client.set_branch("watch/a--b", base)  # back again
    assert fake.repository.branches["watch/a--b"] == base


def test_a_branch_that_is_not_there(client):
    assert client.head("watch/nobody") is None


def test_a_pull_request_is_opened_found_and_updated(client):
    base = client.head("main")
    client.set_branch("x", base)
    client.write("matrix.yml", client.read("matrix.yml", "x"), b"2", "x", "Change it")
    opened = client.open_pull("x", "main", "A title", "A body")
    assert client.pulls("me", "x") == [opened]
    assert client.pulls("somebody", "x") == []
    assert (opened.head.ref, opened.head.sha) == ("x", client.head("x"))
    changed = client.edit_pull(opened.number, "Another", "Body")
    assert (changed.number, changed.title, changed.body) == (opened.number, "Another", "Body")


def test_comments_and_files_come_in_pages(client, fake):
    fake.repository.pulls.append(pull(1, [{"filename": f"f{i}"} for i in range(250)]))
    for i in range(201):
        fake.repository.add_comment(1, "somebody", f"comment {i}")
    assert [c.body for c in client.comments(1)] == [f"comment {i}" for i in range(201)]
    assert len(client.changed_files(1)) == 250
    made = client.comment(1, "mine")
    assert client.edit_comment(made.id, "mine, changed").body == "mine, changed"
    assert [(c.body, c.user.login) for c in client.comments(1)][201:] == [("mine, changed", github.BOT)]


def pull(number, files):
    return Pull(number, "A title", None, "somebody", "patch-1", "main", "c" * 40, files=files)


@pytest.mark.parametrize(
    ("status", "message", "headers", "sentence"),
    [
        (401, "Bad credentials", {}, "does not accept the token .* \\(Bad credentials\\).* GITHUB_TOKEN"),
        (403, "Resource not accessible by integration", {}, "may not do this in me/quants: reading .*`permissions`"),
        (
            403,
            "GitHub Actions is not permitted to create or approve pull requests.",
            {},
            "Settings, Actions, General: “Allow GitHub Actions to create and approve pull requests”",
        ),
        (
            403,
            "API rate limit exceeded for installation ID 1.",
            {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1796000000"},
            "rate limit is used up while reading .* Run again after 2026-11-30 00:53 UTC",
        ),
        (
            429,
            "You have exceeded a secondary rate limit",
            {"Retry-After": "3600"},
            "wants fewer requests .* in some min",
        ),
        (404, "Not Found", {}, "no such thing, or the token may not see it, while reading .* GITHUB_REPOSITORY"),
        (409, "is at 1234 but expected 5678", {}, "Something else changed the same .* Run again"),
        (422, "Validation Failed", {}, "takes this for wrong while reading .*: Validation Failed\\. "),
        (418, "", {}, "failed while reading .*: it answered 418, without a word"),
        (301, "Moved Permanently", {}, "it answered 301, Moved Permanently"),
    ],
)
def test_what_github_refuses_is_a_sentence(client, fake, status, message, headers, sentence):
    fake.fault("GET", status, message, headers=headers)
    with pytest.raises(GitHubError, match=sentence) as raised:
        client.default_branch()
    assert str(raised.value).endswith(".")
    assert TOKEN not in str(raised.value)
    assert len(fake.requests) == 1  # nothing of this gets better at once


def test_a_hostile_message_stays_in_its_line(client, fake):
    fake.fault("GET", 422, "no\n::error::yes\x1b[31m" + "x" * 5000)
    with pytest.raises(GitHubError) as raised:
        client.default_branch()
    assert "\n" not in str(raised.value)
    assert "\x1b" not in str(raised.value)
    assert len(str(raised.value)) < 500


def test_what_may_get_better_is_tried_again(client, fake, capsys):
    fake.fault("GET", 502)
    fake.fault("GET", 403, "You have exceeded a secondary rate limit. Please wait.")
    fake.fault("GET", 429, "Slow down", headers={"Retry-After": "7"})
    assert client.default_branch() == "main"
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "GitHub: it answered 502; trying again in 2 s."
    assert said[2] == "GitHub: it answered 429; trying again in 7 s."
    fake.fault("GET", 503, count=9)
    with pytest.raises(GitHubError, match="it answered 503"):
        client.default_branch()
    assert fake.faults[-1].count == 9 - github.ATTEMPTS


def test_a_lost_answer_is_asked_for_again_unless_it_was_a_change(client, fake):
    fake.repository.pulls.append(pull(1, []))
    fake.fault("GET /issues", 0, lose=True)
    assert client.comments(1) == []
    fake.fault("POST", 0, lose=True)
    with pytest.raises(GitHubError, match="could not be reached while commenting on pull request 1"):
        client.comment(1, "once")
    assert [comment.body for comment in fake.repository.comments] == ["once"]


def test_nobody_answers(fake, monkeypatch, capsys):
    monkeypatch.setenv("GITHUB_API_URL", "http://127.0.0.1:9/")
    with pytest.raises(
        GitHubError, match=r"could not be reached while reading what the repository is: .*GITHUB_API_URL"
    ):
        GitHub.of_environment().default_branch()
    assert capsys.readouterr().err.count("trying again") == github.ATTEMPTS - 1


def test_an_answer_of_something_else(client, fake, monkeypatch):
    fake.repository.default_branch = ["main"]
    with pytest.raises(GitHubError, match="an answer that cannot be read while reading what the repository is"):
        client.default_branch()


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("GITHUB_TOKEN", "", r"env: GITHUB_TOKEN: \$\{\{ github.token \}\}"),
        ("GITHUB_REPOSITORY", "", "set it to owner/name"),
        ("GITHUB_REPOSITORY", "me/quants/../../user", "set it to owner/name"),
    ],
)
def test_outside_of_actions(fake, monkeypatch, name, value, sentence):
    monkeypatch.setenv(name, value)
    with pytest.raises(BadInputError, match=sentence):
        GitHub.of_environment()
    assert fake.requests == []


def test_the_token_is_in_no_representation(client):
    assert TOKEN not in repr(client)


def test_names_cannot_leave_their_place_in_a_path(client, fake):
    assert client.pulls("me", "a&state=all#/../../..") == []
    with pytest.raises(GitHubError, match="no such thing"):
        client.read("matrix.yml", "main&x=1")
    assert all(re.match(r"/(pulls|contents/matrix.yml)\?", asked.path) for asked in fake.requests)


@pytest.mark.programs
def test_the_stand_in_as_a_process(tmp_path, monkeypatch):
    (tmp_path / "matrix.yml").write_text("version: 1\n")
    options = ["--port", "0", "--repository", "me/fork", "--file", f"matrix.yml={tmp_path / 'matrix.yml'}"]
    command = [sys.executable, "-m", "tests.github", *options]
    root = Path(__file__).parents[1]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        try:
            endpoint = process.stdout.readline().strip()
            client = GitHub(endpoint, "me/fork", TOKEN)
            assert client.read("matrix.yml", client.default_branch()).content == b"version: 1\n"
            httpx2.put(f"{endpoint}/-/files", json={"matrix.yml": "version: 2\n"}).raise_for_status()
            opened = {"number": 7, "title": "t", "body": "b", "owner": "you", "branch": "p", "base": "main", "sha": "1"}
            httpx2.post(f"{endpoint}/-/pulls", json=opened).raise_for_status()
            assert [pull.number for pull in client.pulls("you", "p")] == [7]
            state = json.loads(httpx2.get(f"{endpoint}/-/state").content)
            assert state["branches"] == {"main": {"matrix.yml": "version: 2\n"}}
            assert [asked["path"] for asked in state["requests"]][:2] == ["", "/contents/matrix.yml?ref=main"]
        finally:
            process.terminate()
        assert process.wait() == 0
