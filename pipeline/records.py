"""Where a run's records lie: a result a job, a failure a command that ended in an error, a release a model."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from pipeline import endings
from pipeline.errors import BadInputError, disk_errors
from pipeline.result import Failure, Released, Result

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Command = Literal["prepare", "job", "stage", "release"]
FAILURES = "failures"
RELEASES = "releases"
Kind = Result | Failure | Released
KINDS: TypeAdapter[Kind] = TypeAdapter(Annotated[Kind, Field(union_mode="left_to_right")])


@dataclass(frozen=True)
class Records:
    """All records of a run."""

    results: tuple[Result, ...]
    failures: tuple[Failure, ...]
    released: tuple[Released, ...]

    @property
    def any(self) -> bool:
        return bool(self.results or self.failures or self.released)

    def of(self, job: str) -> list[Result | Failure]:
        """Return what one job left."""
        made = [result for result in self.results if result.job == job]
        return [*made, *(f for f in self.failures if f.subject == job and not (made and f.command == "job"))]


def result_path(directory: Path, job_id: str) -> Path:
    return directory / f"{_file_name(job_id)}.json"


def failure_path(directory: Path, command: Command, subject: str) -> Path:
    return directory / FAILURES / f"{_file_name(subject)}.{command}.json"


def release_path(directory: Path, source: str) -> Path:
    return directory / RELEASES / f"{_file_name(source)}.json"


def save(directory: Path, result: Result) -> Result:
    """Write a result as its one JSON file, whole or not at all, and return it."""
    _write(result_path(directory, result.job), result)
    return result


def save_failure(directory: Path, failure: Failure) -> Failure:
    """Write what became of a command, likewise."""
    _write(failure_path(directory, failure.command, failure.subject), failure)
    return failure


def save_released(directory: Path, released: Released) -> Released:
    """Write what a release did, likewise."""
    _write(release_path(directory, released.source), released)
    return released


def load(paths: Iterable[Path]) -> list[Result]:
    """Read result files.

    Raises `BadInputError` for a file that is none.
    """
    results = []
    for path in paths:
        try:
            results.append(Result.model_validate_json(path.read_bytes()))
        except (OSError, ValidationError) as error:
            raise BadInputError(f"{path} is no result of this version of the pipeline. Run its job again.") from error
    return results


def gather(directory: Path) -> Records:
    """Read every record under a directory: one of results, or a tree of such, as downloaded artifacts lie in.

    A record is known by its name, which holds `--`, and its kind by what is in it: an upload of one file alone
    loses the directory that it lay in. Of several records of one thing the last by path counts.

    Raises `BadInputError` for a file of such a name that is none.
    """
    results: dict[str, Result] = {}
    failures: dict[tuple[str, str], Failure] = {}
    released: dict[str, Released] = {}
    for path in sorted({*directory.rglob("*--*.json"), *directory.rglob(f"{FAILURES}/*.json")}):
        try:
            record = KINDS.validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise BadInputError(
                f"{path} is no record of this version of the pipeline. Run the command again that left it."
            ) from error
        match record:
            case Result():
                results[record.job] = record
            case Failure():
                failures[record.command, record.subject] = record
            case Released():
                released[record.source] = record
    return Records(tuple(results.values()), tuple(failures.values()), tuple(released.values()))


@contextmanager
def failing(directory: Path, command: Command, subject: str) -> Iterator[None]:
    """Leave a `Failure` where what is done in here ends in an error that has a sentence, and none where it does not.

    What the same command left of the same subject before goes then: records say how the last run of it ended.
    """
    failed = failure_path(directory, command, subject)
    with suppress(OSError):  # a record that cannot be written must not hide what is to be said
        failed.unlink(missing_ok=True)
    try:
        with disk_errors(Path.cwd(), "writing"):
            yield
    except BaseException as error:
        if ending := endings.ending(error):
            with suppress(OSError, BadInputError):
                if command in ("job", "release"):
                    left = result_path if command == "job" else release_path
                    left(directory, subject).unlink(missing_ok=True)
                save_failure(
                    directory,
                    Failure(command=command, subject=subject, exit_code=ending.exit_code, message=ending.message),
                )
        raise


def _file_name(subject: str) -> str:
    """Name a file after a job, `owner--name--QUANT`, or a model, `owner--name`."""
    return subject.replace("/", "--").replace(":", "--")


def _write(path: Path, record: Kind) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInputError(f"{path.parent} cannot be made: {error.strerror}. Name another with --results.") from error
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
    scratch.replace(path)
