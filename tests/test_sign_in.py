"""Who publishes, how patiently the Hub is asked, and what is said when it does not work: never a token."""

from __future__ import annotations

import io
import traceback

import bundles
import httpx2
import pytest
from bundles import REPO, held, sums, wanted
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import _auth, hf_raise_for_status

from pipeline.errors import BadInputError, GatedError, HubError
from pipeline.hub import api, ask, sign_in
from pipeline.hub.sentences import reason, sentences
from pipeline.progress import Display
from pipeline.publish.hub import Hub

TOKEN = "hf_signs_in"
SECRET = "X-Amz-Signature=5ec2e7"


@pytest.fixture
def hub(loopback_hub, monkeypatch):
    for name in ("HF_TOKEN_PATH", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE", "HF_OIDC_ID_TOKEN", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(_auth, "_OIDC_TOKEN_CACHE", None)
    monkeypatch.setattr(_auth, "_OAUTH_REFRESH_CACHE", None)
    loopback_hub.add_token(TOKEN, "me", "write", orgs={"nold": "write"})
    return loopback_hub


@pytest.fixture
def waits(monkeypatch):
    """The seconds that are slept, instead of sleeping."""
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    return waits


@pytest.fixture
def target():
    return Hub(Display(io.StringIO()))


def refused(call, match):
    with pytest.raises(HubError, match=match) as raised:
        call()
    said = str(raised.value)
    assert raised.value.exit_code == 4
    assert "\n" not in said
    assert said.endswith(".")
    assert not any(token in said for token in (TOKEN, "hf_jwt_", SECRET))
    return said


@pytest.mark.usefixtures("hub")
class TestToken:
    @pytest.fixture
    def file(self, tmp_path, monkeypatch):
        path = tmp_path / "token"
        monkeypatch.setenv("HF_TOKEN_PATH", str(path))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(path))
        return path

    def test_of_the_environment(self, monkeypatch):
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        assert sign_in.token() == TOKEN

    def test_of_a_file(self, file):
        file.write_text(f"{TOKEN}\n")
        assert sign_in.token() == TOKEN

    def test_the_environment_goes_before_the_file(self, file, monkeypatch):
        file.write_text("hf_file")
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        assert sign_in.token() == TOKEN

    @pytest.mark.parametrize("empty", ["", " ", "\n"])
    def test_an_empty_one_is_a_secret_that_is_missing(self, monkeypatch, empty):
        monkeypatch.setenv("HF_TOKEN", empty)
        refused(sign_in.token, r"^HF_TOKEN is set, and empty: .* secret that is not there.*token with write access")

    def test_a_file_that_is_not_there(self, file):
        refused(sign_in.token, rf"^HF_TOKEN_PATH names {file}, which is not there\. Write a token with write access")

    def test_a_file_that_is_empty(self, file):
        file.write_text("\n")
        refused(sign_in.token, rf"^HF_TOKEN_PATH names {file}, which is empty\. Write a token with write access")

    def test_none(self):
        refused(sign_in.token, r"needs a token with write access: set HF_TOKEN, or .*`hf auth login`.*HF_OIDC_RESOURCE")

    def test_none_is_said_before_the_hub_is_asked(self, hub, target, tmp_path):
        made = bundles.bundle(tmp_path / "room", bundles.files())
        refused(lambda: target.check([bundles.planned(made)]), "set HF_TOKEN")
        assert hub.requests == []


class TestTrustedPublisher:
    @pytest.fixture(autouse=True)
    def _job(self, hub, monkeypatch):
        monkeypatch.setenv("GITHUB_ACTIONS", "true")
        monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", f"{hub.endpoint}/-/id-token")
        monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "job")
        monkeypatch.setenv("HF_OIDC_RESOURCE", REPO)

    @pytest.fixture
    def trusted(self, hub):
        hub.add_publisher(REPO, f"job@{hub.endpoint}")

    @pytest.fixture
    def repo(self, hub):
        """A repo that somebody else has made."""
        owner = httpx2.post(
            f"{hub.endpoint}/api/repos/create",
            json={"name": REPO.partition("/")[2], "organization": "nold"},
            headers={"Authorization": f"Bearer {TOKEN}"},
        )
        owner.raise_for_status()

    @pytest.mark.usefixtures("trusted", "repo")
    def test_publishes_a_whole_release(self, hub, target, tmp_path):
        files = bundles.files()
        made = bundles.bundle(tmp_path / "room", files)
        target.check([bundles.planned(made)])
        target.stage(REPO, made.release.id, bundles.weights(tmp_path / "room", files))
        assert not target.publish(made).empty
        assert sums(held(hub)) == wanted(made)
        assert target.publish(made).empty
        assert len([r for r in hub.requests if r.path == "/oauth/token"]) == 1
        assert not [r for r in hub.requests if "whoami" in r.path]

    @pytest.mark.usefixtures("trusted")
    def test_goes_before_a_token(self, monkeypatch):
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        assert sign_in.token().startswith("hf_jwt_")

    @pytest.mark.usefixtures("trusted")
    def test_an_exchange_that_fails_once(self, hub):
        fault = hub.fault("/oauth/token", status=503)
        assert sign_in.token().startswith("hf_jwt_")
        assert fault.count == 0

    @pytest.mark.usefixtures("trusted")
    def test_an_exchange_that_always_fails(self, hub):
        hub.fault("/oauth/token", status=503, count=100, error="Down")
        refused(sign_in.token, rf"^The Hub failed on {REPO}: it answered 503, Down\. Nothing is lost; run again")

    def test_a_workflow_that_is_not_trusted(self, hub):
        hub.add_publisher(REPO, "another job")
        refused(
            sign_in.token,
            rf"^The Hub does not trust this workflow with {REPO}: .*Add its repository, workflow file and environment",
        )
        assert [r.status for r in hub.requests] == [400]

    def test_outside_of_actions(self, hub, monkeypatch):
        monkeypatch.delenv("GITHUB_ACTIONS")
        refused(sign_in.token, rf"^HF_OIDC_RESOURCE is {REPO}, but this job cannot prove .*anywhere else set HF_TOKEN")
        assert hub.requests == []

    def test_a_job_without_the_permission(self, hub, monkeypatch):
        monkeypatch.delenv("ACTIONS_ID_TOKEN_REQUEST_URL")
        refused(sign_in.token, r"this job cannot prove who it is: .*with `permissions: id-token: write`")
        assert hub.requests == []

    @pytest.mark.usefixtures("trusted")
    def test_a_repo_that_is_not_there_is_not_blamed_on_the_token(self, hub, target, tmp_path):
        """Its token creates no repos: a new one would not either."""
        made = bundles.bundle(tmp_path / "room", bundles.files())
        said = refused(lambda: target.check([bundles.planned(made)]), REPO)
        assert "make a new one" not in said
        assert hub.repos.get("model", REPO) is None


class TestAsk:
    @pytest.fixture(autouse=True)
    def _signed_in(self, hub, monkeypatch):
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        HfApi().create_repo(REPO)
        hub.requests.clear()

    @staticmethod
    def info():
        return ask(REPO, lambda: api().model_info(REPO))

    @pytest.mark.parametrize("status", [408, 409, 412, 429, 500, 502, 503, 504])
    def test_what_may_pass_is_tried_again(self, hub, waits, status):
        hub.fault("/api/models/", status=status, count=2)
        assert self.info().id == REPO
        assert [r.status for r in hub.requests] == [status, status, 200]
        assert 1 <= waits[0] <= 4
        assert 2 <= waits[1] <= 5

    @pytest.mark.parametrize("action", ["refuse", "lose"])
    def test_a_broken_connection_is_tried_again(self, hub, waits, action):
        hub.fault("/api/models/", action)
        assert self.info().id == REPO
        assert len(waits) == 1

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
    def test_what_will_not_pass_is_asked_once(self, hub, waits, status):
        hub.fault("/api/models/", status=status, count=100)
        with pytest.raises((BadInputError, HubError), match=REPO):
            self.info()
        assert [r.status for r in hub.requests] == [status]
        assert waits == []

    def test_it_ends(self, hub, waits):
        hub.fault("/api/models/", status=503, count=100, error="Down")
        refused(self.info, rf"^The Hub failed on {REPO}: it answered 503, Down\. Nothing is lost; run again")
        assert len(hub.requests) == 8
        assert len(waits) == 7
        assert max(waits) <= 33

    @pytest.mark.parametrize("status", [409, 429, 503])
    def test_waits_as_long_as_it_is_told(self, hub, waits, status):
        hub.fault("/api/models/", status=status, headers={"Retry-After": "77"})
        self.info()
        assert waits == [77]

    def test_zero_seconds_are_told_too(self, hub):
        hub.fault("/api/models/", status=429, headers={"Retry-After": "0"})
        assert self.info().id == REPO

    def test_waits_until_a_limit_ends(self, hub, waits):
        hub.fault("/api/models/", status=429, headers={"RateLimit": '"api";r=0;t=55', "Retry-After": "1"})
        self.info()
        assert waits == [55]

    def test_a_time_of_day_is_no_number_of_seconds(self, hub, waits):
        hub.fault("/api/models/", status=503, headers={"Retry-After": "Fri, 01 Jan 2100 00:00:00 GMT"})
        self.info()
        assert len(waits) == 1
        assert waits[0] <= 4

    def test_does_not_wait_for_an_hour(self, hub, waits):
        hub.fault("/api/models/", status=429, headers={"Retry-After": "3600"}, count=100, error="Slow down")
        refused(self.info, rf"^The Hub failed on {REPO}: it answered 429, Slow down\. .*run again, later")
        assert waits == []

    def test_does_not_wait_for_an_hour_where_the_client_asks_again_itself(self, hub, waits):
        hub.fault("/tree/", status=429, headers={"Retry-After": "3600"}, count=100, error="Slow down")
        refused(lambda: ask(REPO, lambda: list(api().list_repo_tree(REPO))), "429, Slow down")
        assert sum(waits) < 3600

    def test_says_that_it_waits(self, hub, waits, capsys):
        hub.fault("/api/models/", status=503, error="Down")
        self.info()
        out, err = capsys.readouterr()
        assert (out, err.splitlines()) == (
            "",
            [f"The Hub: it answered 503, Down; trying again in {waits[0]:.0f} s (try 2 of 8)."],
        )

    @pytest.mark.usefixtures("waits")
    def test_says_it_without_a_token_and_without_what_is_signed(self, capsys):
        errors = [failure(503), httpx2.ConnectError(f"no route to https://cdn.example/lfs/1?{SECRET}")]

        def call():
            if errors:
                raise errors.pop()
            return "done"

        assert ask(REPO, call) == "done"
        first, second = capsys.readouterr().err.splitlines()
        assert first.startswith("The Hub: no route to https://cdn.example/lfs/1; trying again in ")
        assert second.startswith(f"The Hub: it answered 503 to https://cdn.example/{REPO}; trying again in ")
        assert not any(secret in first + second for secret in (SECRET, TOKEN))


def failure(status, headers=None, url=f"https://cdn.example/{REPO}?{SECRET}"):
    """What the client raises for such an answer."""
    request = httpx2.Request("GET", url, headers={"Authorization": f"Bearer {TOKEN}"})
    with pytest.raises(HfHubHTTPError) as raised:
        hf_raise_for_status(httpx2.Response(status, headers=headers or {}, request=request))
    return raised.value


def said(error, revision="0123456789abcdef" * 2 + "01234567"):
    with pytest.raises((BadInputError, HubError)) as raised, sentences(REPO, revision):
        raise error
    return raised.value


class TestSentences:
    @pytest.mark.parametrize(
        ("status", "headers", "kind", "fix"),
        [
            (403, {"X-Error-Code": "GatedRepo"}, GatedError, "accept its terms"),
            (404, {"X-Error-Code": "RepoNotFound"}, BadInputError, "Check the spelling"),
            (404, {"X-Error-Code": "RevisionNotFound"}, BadInputError, "Check `revision` in matrix.yml"),
            (404, {"X-Error-Code": "EntryNotFound"}, BadInputError, "Run again"),
            (401, {}, HubError, "make a new one"),
            (403, {}, HubError, "Use one that may write to it"),
            (403, {"X-Error-Message": "Private repository storage limit reached"}, HubError, "storage enlarged"),
            (413, {"X-Error-Message": "Over quota"}, HubError, "storage enlarged"),
            (500, {}, HubError, "run again"),
        ],
    )
    def test_each_answer_has_its_own(self, status, headers, kind, fix):
        error = said(failure(status, headers))
        assert type(error) is kind
        assert fix in str(error)
        assert REPO in str(error)
        assert str(error).endswith(".")
        assert "\n" not in str(error)
        assert not any(secret in str(error) for secret in (SECRET, TOKEN))

    @pytest.mark.parametrize(
        "error",
        [
            httpx2.ConnectError(f"no route to https://cdn.example/lfs/1?{SECRET}"),
            httpx2.ReadTimeout("timed out"),
            httpx2.ReadTimeout(""),
            httpx2.RemoteProtocolError("Server disconnected"),
            ConnectionError(f"Network error: https://cas.example/xorbs?{SECRET}&b=c (no route)"),
            RuntimeError(f"CAS Client Error: PUT https://cas.example/shards?{SECRET}"),
        ],
    )
    def test_a_network_that_fails_is_one(self, error):
        text = str(said(error))
        assert text.startswith(f"The Hub could not be asked for {REPO} at 0123456789ab: ")
        assert "Check the network and HF_ENDPOINT, then run again" in text
        assert SECRET not in text

    def test_what_is_no_failure_of_the_hub_passes(self):
        with pytest.raises(RuntimeError, match="a bug"), sentences(REPO):
            raise RuntimeError("a bug")

    @pytest.mark.parametrize(
        ("text", "bare"),
        [
            (f"at https://cdn.example/a/b?{SECRET}&c=d: gone", "at https://cdn.example/a/b"),
            (f"'https://cdn.example/a?{SECRET}' is gone", "'https://cdn.example/a' is gone"),
            (
                f"https://a.example/x?{SECRET} and https://b.example/y?{SECRET}",
                "https://a.example/x and https://b.example/y",
            ),
            ("no address, no query?", "no address, no query?"),
        ],
    )
    def test_what_is_signed_is_left_out(self, text, bare):
        found = reason(httpx2.ConnectError(text))
        assert SECRET not in found
        assert found.startswith(bare)

    def test_the_server_is_heard_and_its_address_named_where_it_says_nothing(self):
        assert reason(failure(503, {"X-Error-Message": "Down for repairs."})) == "it answered 503, Down for repairs"
        assert reason(failure(503)) == f"it answered 503 to https://cdn.example/{REPO}"

    def test_no_stack_holds_the_token(self, hub, monkeypatch, target, tmp_path):
        """Not even where the whole chain is printed, as for a bug."""
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        made = bundles.bundle(tmp_path / "room", bundles.files())
        hub.fault("/auth-check/", status=403, count=100)
        with pytest.raises(HubError) as raised:
            target.check([bundles.planned(made)])
        assert TOKEN not in "".join(traceback.format_exception(raised.value))
