"""Commands, options, exit codes: what a person meets first."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import click
import factories
import pytest
from click.testing import CliRunner

from pipeline import actions, cli, endings, errors, matrix, plan, records, report
from pipeline.artifact import Step
from pipeline.cli import options, shared
from pipeline.progress import Display
from pipeline.store import Store

README = (Path(__file__).parent.parent / "README.md").read_text()


def invoke(*arguments: object):
    """Run the command line as `main` does; returns exit code, stdout, stderr."""
    runner = CliRunner()
    with runner.isolation() as (out, err, _):
        code = endings.guarded(lambda: cli.cli.main([str(a) for a in arguments], standalone_mode=False))
        return code, out.getvalue().decode(), err.getvalue().decode()


def test_check_says_what_is_there():
    code, out, _ = invoke("check", "--matrix", "matrix.yml")
    assert code == 0
    assert re.fullmatch(r"matrix.yml: \d+ models, \d+ jobs, nothing wrong\.\n", out)


def test_a_bad_matrix_exits_2_with_every_message(tmp_path):
    path = tmp_path / "matrix.yml"
    path.write_text("version: 1\nmodls: []\n")
    code, out, err = invoke("check", "--matrix", path)
    assert code == 2
    assert out == ""
    assert f"{path}:2:1: " in err
    assert "did you mean `models`" in err


def test_no_message_is_a_command_to_github(monkeypatch, capsys):
    said = "m.yml:3:5: 100%\n  ::stop-commands::x\n::add-mask::y ##[add-mask]z\nm.yml:4:5: a::b\x0b::error::c"

    def command():
        raise errors.BadInputError(said)

    endings.guarded(command)
    assert capsys.readouterr().err == said + "\n"
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    endings.guarded(command)
    *lines, first, second = capsys.readouterr().err.splitlines()
    assert (first, second) == (
        "::error file=m.yml,line=3,col=5::100%25",
        "::error file=m.yml,line=4,col=5::a::b",
    )
    assert len(lines) == 5
    assert not any(line.lstrip().startswith("::") or "##[" in line for line in lines)


def test_a_misspelt_command_says_what_was_meant():
    code, _, err = invoke("relase")
    assert code == 2
    assert "Did you mean 'release'?" in err


def test_a_size_that_is_none():
    code, _, err = invoke("store", "gc", "--max-size", "50")
    assert code == 2
    assert "write it as 500M, 20G or 1T" in err


@pytest.mark.parametrize(
    ("text", "size"), [("500M", 500_000_000), ("1.5 GB", 1_500_000_000), ("2T", 2 * 10**12), ("0", 0)]
)
def test_sizes(text, size):
    assert options.Bytes().convert(text, None, None) == size


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (errors.BadInputError("x"), 2),
        (errors.ToolchainError("x"), 3),
        (errors.HubError("x"), 4),
        (errors.OutOfRoomError("x"), 5),
        (OSError(errno.ENOSPC, "No space left on device"), 5),
        (KeyboardInterrupt(), 130),
        (click.exceptions.Exit(1), 1),
    ],
)
def test_exit_codes(raised, code, capsys):
    def command():
        raise raised

    assert endings.guarded(command) == code
    assert "Traceback" not in capsys.readouterr().err


def test_anything_withheld_exits_1_and_is_in_the_table(capsys):
    results = [factories.result("Q8_0"), factories.result("Q2_K", withheld=True)]
    assert endings.guarded(lambda: shared.finish(results, withheld=True)) == 1
    table = capsys.readouterr().out
    assert table == report.results_table(results) + "\n"
    assert "withheld: " in table


def test_what_is_not_there_is_said(tmp_path):
    assert "holds no results. Name" in invoke("summary", "--results", tmp_path / "nowhere")[2]
    assert "holds no results of a/b:Q8_0" in invoke("summary", "--results", tmp_path, "--job", "a/b:Q8_0")[2]
    assert "takes a model: a/b" in invoke("prepare", "a/b:Q8_0", "--store", tmp_path)[2]
    (tmp_path / "file").write_text("")
    code, _, err = invoke("run", "--only", "no*", "--publish-to", tmp_path / "file", "--store", tmp_path)
    assert code == 2
    assert "Nothing in the matrix is called no*" in err


def test_a_missing_package_says_how_to_get_it(capsys):
    def command():
        raise ModuleNotFoundError("No module named 'ruamel'", name="ruamel")

    assert endings.guarded(command) == 3
    assert "The package ruamel is missing. Run `make setup`" in capsys.readouterr().err


@dataclass(frozen=True)
class Blob(Step):
    kind: str
    size: int

    @property
    def label(self) -> str:
        return f"{self.size} bytes"

    def inputs(self):
        return {"size": self.size}

    def make(self, room, _store, _task):
        (room / "blob").write_bytes(bytes(self.size))


def test_store_list_and_gc(tmp_path):
    code, out, err = invoke("store", "list", "--store", tmp_path)
    assert (code, out) == (0, "")
    assert err.endswith(f"0 artifacts, 0.0 MB, in {tmp_path}\n")
    store = Store(tmp_path, Display(io.StringIO()))
    for kind, size in ("a", 1_000_000), ("b", 1_500_000), ("b", 1_600_000):
        store.get(Blob(kind, size))
    code, out, err = invoke("store", "list", "--store", tmp_path)
    assert code == 0
    assert [line.split()[1:3] for line in out.splitlines()] == [["1.0", "MB"], ["1.5", "MB"], ["1.6", "MB"]]
    summed = ["kind size artifacts", "b 3.1 MB 2", "a 1.0 MB 1", f"3 artifacts, 4.1 MB, in {tmp_path}"]
    assert [" ".join(line.split()) for line in err.splitlines()[1:]] == summed
    assert invoke("store", "gc", "--max-size", "0", "--store", tmp_path)[0] == 0


def test_summary_goes_to_the_job_as_well(tmp_path, monkeypatch):
    results = tmp_path / "results"
    records.save(results, factories.result("Q8_0"))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    code, out, _ = invoke("summary", "--results", results)
    assert code == 0
    assert (tmp_path / "summary.md").read_text() in out
    assert "| `Q8_0` |" in out
    code, out, _ = invoke("summary", "--results", results, "--job", "google/gemma-2b:Q8_0")
    assert out.startswith("## ✅ `google/gemma-2b:Q8_0`: passed\n")
    assert (tmp_path / "summary.md").read_text().endswith(out.rstrip("\n") + "\n")


def test_summary_of_a_plan_names_what_is_lost(tmp_path):
    job = plan.Job("a/b:Q8_0", "b-Q8_0.gguf", "run", "not made yet")
    made = plan.Plan((plan.ModelPlan("a/b", None, "me/b-GGUF", "0" * 16, (job,), due=True),))
    (tmp_path / "plan.json").write_text(json.dumps(made.to_json()))
    code, out, _ = invoke("summary", "--plan", tmp_path / "plan.json", "--results", tmp_path)
    assert code == 0
    assert "0 of 1 passed, 0 withheld, 0 failed, 1 lost" in out
    (tmp_path / "plan.json").write_text("{}")
    assert "This is no plan" in invoke("summary", "--plan", tmp_path / "plan.json")[2]


@pytest.mark.parametrize(
    ("command", "subject"), [("prepare", "a/b"), ("job", "a/b:Q8_0"), ("stage", "a/b:Q8_0"), ("release", "a/b")]
)
def test_a_command_that_fails_leaves_word_of_it(command, subject, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "matrix.yml").write_text(
        "version: 1\n"
        "llama_cpp: {git: https://example.com/llama.cpp, commit: 0123456789abcdef0123456789abcdef01234567}\n"
        "defaults: {organization: me, quants: [Q8_0]}\n"
        "models: [{source: a/b, path: empty}]\n"
    )
    given = ("--matrix", tmp_path / "matrix.yml", "--store", tmp_path / "store", "--results", tmp_path / "results")
    # A name that the matrix does not have is no failure of a run.
    assert invoke(command, subject.replace("b", "c"), *given)[0] == 2
    assert not records.gather(tmp_path / "results").failures
    code, _, err = invoke(command, subject, *given)
    (failure,) = records.gather(tmp_path / "results").failures
    assert (failure.command, failure.subject, failure.exit_code) == (command, subject, code)
    assert failure.message in err
    code, out, _ = invoke("summary", "--results", tmp_path / "results")
    assert code == 0
    assert f"### ❌ `{subject}`: {command}, exit code 2" in out


def test_a_summary_over_the_limit_is_cut_and_says_so():
    text = "a line\n" * 200_000
    cut = actions.capped(text)
    assert len(cut.encode()) <= actions.SUMMARY_BYTES
    assert cut.endswith(actions.CUT)
    assert actions.capped("short") == "short"


def commands(group: click.Group, prefix: str = "") -> list[str]:
    names = []
    for name, command in group.commands.items():
        names += commands(command, f"{prefix}{name} ") if isinstance(command, click.Group) else [f"{prefix}{name}"]
    return names


def test_the_readme_names_every_command_and_no_other():
    named = set(re.findall(r"python -m pipeline ((?:store )?[a-z]+)\b(?!\.)", README))
    assert named == set(commands(cli.cli))


def test_the_readme_shows_the_matrix_that_ships():
    block = re.search(r"```yaml\n# matrix.yml\n(.*?)```", README, re.DOTALL)
    assert block is not None
    shown = matrix.parse(block[1].encode(), "README.md", Path.cwd())
    assert shown.llama_cpp == matrix.load(Path("matrix.yml")).llama_cpp


@pytest.mark.programs
def test_who_interrupts_does_not_wait_for_a_hub_that_is_away(tmp_path):
    command = [sys.executable, "-m", "pipeline", "plan", "--only", "google/gemma-2b", "--store", tmp_path]
    away = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9"}  # where nobody listens
    with subprocess.Popen(command, env=away, stderr=subprocess.PIPE, text=True) as process:
        assert "trying again" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)  # as SIGINT, which a test in the background would have it ignore
        assert process.wait(30) == errors.INTERRUPTED  # it would be tried for minutes
