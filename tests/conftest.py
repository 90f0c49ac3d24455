"""What every test gets: golden files, and no network and no programs unless it says that it needs them."""

from __future__ import annotations

import ipaddress
import os
import socket
import subprocess
from pathlib import Path

import huggingface_hub
import matplotlib.font_manager  # noqa: F401 - its first import may run fc-list; from here on nothing may
import pytest
from github import FakeGitHub
from github.server import TOKEN
from hub import LoopbackHub
from hub.accounts import EVER_GIVEN
from huggingface_hub import constants

pytest_plugins = ["machine"]
# Two processes run tests on the same cores: threads that wait spinning, as llama-bench's do, would make both slow.
os.environ["OMP_WAIT_POLICY"] = "passive"
GOLDEN = Path(__file__).parent / "golden"
LINES = pytest.StashKey[list[str]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """Fail a test in whose output a token stands that some loopback Hub, or the stand-in for GitHub, gave out."""
    report = yield
    output = "\n".join(text for _, text in report.sections)
    if report.passed and any(token in output for token in {TOKEN, *EVER_GIVEN}):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} printed a token of the Hub, or of GitHub."
    return report


@pytest.fixture(scope="session")
def conclude(request):
    """`conclude(line)` has a line printed when all tests are over."""
    return request.config.stash.setdefault(LINES, []).append


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):  # one of several processes, which prints nothing itself
        session.config.workeroutput["lines"] = session.config.stash.get(LINES, [])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    node.config.stash.setdefault(LINES, []).extend(getattr(node, "workeroutput", {}).get("lines", []))


def pytest_terminal_summary(terminalreporter, config):
    for line in config.stash.get(LINES, []):
        terminalreporter.write_line(line)


def pytest_addoption(parser):
    parser.addoption("--update-golden", action="store_true", help="rewrite the files under tests/golden")


@pytest.fixture
def golden(request):
    """`golden(name, text)` compares a text with a file under tests/golden; --update-golden rewrites it."""

    def compare(name, text):
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="")
        assert path.exists(), f"{path} is missing: run pytest with --update-golden"
        assert text == path.read_bytes().decode("utf-8"), "if this is wanted: pytest --update-golden"

    return compare


@pytest.fixture
def loopback_hub(tmp_path, monkeypatch):
    """A Hub on this machine that the client in this process talks to, without a token and without Xet.

    What hf_xet keeps between calls belongs to the process: tests of Xet start programs of their own.
    """
    monkeypatch.setattr("time.sleep", lambda _seconds: None)  # the client's waits between its tries
    with LoopbackHub(tmp_path / "hub") as hub:
        # What HF_ENDPOINT decides when the client is imported.
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        url = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield hub
    huggingface_hub.close_session()


@pytest.fixture
def fake_github(monkeypatch):
    """A stand-in for GitHub on this machine that the commands in this process talk to, as in a job of Actions."""
    monkeypatch.setattr("time.sleep", lambda _seconds: None)  # the waits between tries
    with FakeGitHub() as fake:
        for name, value in fake.environment().items():
            monkeypatch.setenv(name, value)
        yield fake


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """Connections reach this machine alone; a name that is not its own is not even looked up."""
    connect, connect_ex, look_up = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def guarded(call):
        def checked(self, address):
            if self.family in (socket.AF_INET, socket.AF_INET6):
                _refuse_unless_local(address[0])
            return call(self, address)

        return checked

    def checked_look_up(host, *args, **kwargs):
        _refuse_unless_local(host)
        return look_up(host, *args, **kwargs)

    monkeypatch.setattr(socket.socket, "connect", guarded(connect))
    monkeypatch.setattr(socket.socket, "connect_ex", guarded(connect_ex))
    monkeypatch.setattr(socket, "getaddrinfo", checked_look_up)


def _refuse_unless_local(host):
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost", socket.gethostname()):
        return
    try:
        if ipaddress.ip_address(name).is_loopback or ipaddress.ip_address(name).is_unspecified:
            return
    except ValueError:
        pass  # a name, and not this machine's
    pytest.fail(f"a test may not connect to {name!r}: only to this machine")


@pytest.fixture(autouse=True)
def _no_programs(request, monkeypatch):
    if request.node.get_closest_marker("real") or request.node.get_closest_marker("programs"):
        return

    def refuse(*args, **_kwargs):
        pytest.fail(f"a test may not start a program unless marked `programs` or `real`: {args[-1:]}")

    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
    for name in ("system", "posix_spawn", "posix_spawnp", "fork", "forkpty"):
        if hasattr(os, name):
            monkeypatch.setattr(os, name, refuse)
