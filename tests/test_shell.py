"""Programs that fail, print a lot, are killed, or must not see a secret."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import shell
from pipeline.errors import BadInputError, KilledError, OutOfRoomError, ToolchainError

pytestmark = pytest.mark.programs
ROOT = Path(__file__).parent.parent


def python(code: str, tmp_path, **options):
    return shell.run([sys.executable, "-c", code], cwd=tmp_path, doing="testing", **options)


def test_keeps_both_streams_apart_and_shows_them_as_they_come(tmp_path):
    seen: list[str] = []
    code = "import sys; print('out'); print('é', file=sys.stderr)"
    done = python(code, tmp_path, watch=seen.append, env={"PYTHONIOENCODING": "utf-8"})
    assert (done.stdout, done.stderr) == ("out\n", "é\n")
    # Pieces of the two streams may come between each other.
    assert "out" in "".join(seen)
    assert "é" in "".join(seen)


def test_drains_more_than_a_pipe_holds(tmp_path):
    done = python("import sys; [s.write('x' * 300_000) for s in (sys.stderr, sys.stdout)]", tmp_path)
    assert len(done.stdout) == len(done.stderr) == 300_000


def test_failure_names_program_and_last_lines(tmp_path):
    code = "print(*range(100), sep='\\n'); raise SystemExit('the last word')"
    with pytest.raises(ToolchainError, match=r"failed with exit code 1 while testing(?s:.*)the last word") as failure:
        python(code, tmp_path)
    assert "| 98\n" in str(failure.value)
    assert "| 50\n" not in str(failure.value)


def test_killed_program_is_named_with_its_signal(tmp_path):
    """By somebody else, so that nothing is concluded from it."""
    with pytest.raises(KilledError, match="was killed by SIGKILL while testing"):
        python("import os; os.kill(os.getpid(), 9)", tmp_path)


def test_crashed_program_is_named_with_its_signal(tmp_path):
    with pytest.raises(ToolchainError, match="was killed by SIGABRT while testing"):
        python("import os; os.abort()", tmp_path)


def test_kernel_that_killed_for_memory_is_out_of_room(tmp_path, monkeypatch):
    counts = iter([3, 4])
    monkeypatch.setattr(shell, "_oom_kills", lambda: next(counts))
    with pytest.raises(OutOfRoomError, match="Not enough memory"):
        python("import os; os.kill(os.getpid(), 9)", tmp_path)


def test_full_disk_is_out_of_room(tmp_path):
    with pytest.raises(OutOfRoomError, match="is full"):
        python("raise SystemExit('write: No space left on device')", tmp_path)


def test_missing_program(tmp_path):
    with pytest.raises(BadInputError, match="no-such-program was not found"):
        shell.run(["no-such-program"], cwd=tmp_path, doing="testing", failure=BadInputError)


def test_no_secret_reaches_a_program(tmp_path, monkeypatch):
    for name in (
        "HF_TOKEN",
        "GITHUB_TOKEN",
        "ACTIONS_ID_TOKEN_REQUEST_URL",
        "AWS_SECRET_ACCESS_KEY",
        "HF_OIDC_RESOURCE",
    ):
        monkeypatch.setenv(name, "sesame")
    assert "sesame" not in python("import os; print(dict(os.environ))", tmp_path).stdout


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_program_dies_with_us(tmp_path):
    pid_file = tmp_path / "pid"
    child = f"import os, time, pathlib; pathlib.Path({str(pid_file)!r}).write_text(str(os.getpid())); time.sleep(60)"
    code = (
        "from pathlib import Path; from pipeline import shell; import sys;"
        f"shell.run([sys.executable, '-c', {child!r}], cwd=Path('.'), doing='sleeping')"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    while not pid_file.exists() or not pid_file.read_text():
        time.sleep(0.01)
    pid = int(pid_file.read_text())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    for _ in range(500):
        try:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return  # dead; only its new parent has not looked yet
        except (ProcessLookupError, FileNotFoundError):
            return
        time.sleep(0.01)
    pytest.fail("the program outlived us")
