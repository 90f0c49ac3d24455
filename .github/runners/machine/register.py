#!/usr/bin/env -S python3 -I
"""Register one runner for one job: `register.py TOKEN_FILE CONFIG_FILE`, the part of a round that runs as root.

It asks GitHub for the configuration of a just-in-time runner and leaves that, and nothing else, to the owner of
CONFIG_FILE's folder. The token stays in this process, which is over before the runner starts. The rest comes from the
environment: see gpu-runner.env.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import secrets
import shutil
import socket
import stat
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import NoReturn

API = "https://api.github.com"
LIMIT = 60  # seconds
LARGEST = 1 << 20  # a configuration is some thousand bytes
RIGHTS = {
    "repos": "`Administration: write` for the repository",
    "orgs": "`Self-hosted runners: write` for the organization",
}


class RefuseRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would take the token along, to wherever it leads."""

    def redirect_request(self, *_: object) -> None:
        return None


def main() -> None:
    token_file, config_file = (Path(name) for name in sys.argv[1:])
    check_disk(setting("LLM_QUANTIZER_STORE"), setting("RUNNER_WORK"))
    leave(config_file, ask(read_token(token_file)))


def check_disk(*places: str) -> None:
    """Take no job that could not end."""
    needed = number("MIN_FREE_GB")
    for place in places:
        try:
            free = shutil.disk_usage(place).free / 1e9
        except OSError as error:
            fail(f"{place} cannot be looked at: {error.strerror}. Create it, or name another one.")
        if free < needed:
            fail(
                f"{free:.0f} GB are free on the disk of {place}, and a job is taken from {needed} GB on"
                " (MIN_FREE_GB). Free some, by “Clean the store” on another runner or `python -m pipeline store gc`"
                " here, or take a larger disk."
            )


def read_token(file: Path) -> str:
    try:
        if file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            fail(f"{file} may be read by others than its owner, jobs among them. Run `chmod 600 {file}`.")
        token = file.read_text(encoding="ascii").strip()
    except OSError as error:
        fail(f"{file} cannot be read: {error.strerror}. Put GitHub's token there.")
    except ValueError:
        token = ""
    return token if re.fullmatch(r"[\w.-]+", token) else fail(f"{file} holds no token of GitHub. Put one there.")


def ask(token: str) -> str:
    """Return the runner's configuration, in base64. It registers one runner, for one job."""
    owner = setting("RUNNERS")
    if not re.fullmatch(r"repos/[\w.-]+/[\w.-]+|orgs/[\w.-]+", owner):
        fail(f"RUNNERS is {owner!r}. Set it to repos/OWNER/NAME or orgs/NAME.")
    name = re.sub(r"[^\w.-]", "-", socket.gethostname())[:48]
    wanted = {
        "name": f"{name}-{secrets.token_hex(4)}",
        "runner_group_id": number("RUNNER_GROUP"),
        "labels": setting("RUNNER_LABELS").split(","),
        "work_folder": "_work",
    }
    request = urllib.request.Request(  # noqa: S310 - the administrator's own address
        f"{(os.environ.get('GITHUB_API_URL') or API).rstrip('/')}/{owner}/actions/runners/generate-jitconfig",
        json.dumps(wanted).encode(),
        {
            "Accept": "application/vnd.github+json",
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/json",
            "X-GitHub-Api-Version": "2022-11-28",
        },
    )
    try:
        with urllib.request.build_opener(RefuseRedirects).open(request, timeout=LIMIT) as answer:
            config = json.loads(answer.read(LARGEST))["encoded_jit_config"]
    except urllib.error.HTTPError as error:
        fail(
            f"GitHub registers no runner in {owner}: it answered {error.code}, {said(error)}. {hint(error.code, owner)}"
        )
    except (OSError, http.client.HTTPException) as error:
        fail(f"GitHub could not be reached to register a runner: {error}. It is tried again.")
    except (ValueError, KeyError, TypeError):
        config = None
    if not (isinstance(config, str) and re.fullmatch(r"[A-Za-z0-9+/]+=*", config)):
        fail("GitHub's answer holds no runner's configuration. Is GITHUB_API_URL right?")
    return config


def said(error: urllib.error.HTTPError) -> str:
    """Return what GitHub says of it, on one line."""
    try:
        message = json.loads(error.read(LARGEST))["message"]
    except (OSError, ValueError, KeyError, TypeError):
        return "without a word"
    return "".join(c if c.isprintable() else " " for c in str(message))[:200].rstrip(".") or "without a word"


def hint(status: int, owner: str) -> str:
    match status:
        case 401:
            return "Put a token that holds into the token's file."
        case 403 | 404:
            return f"The token needs {RIGHTS[owner.partition('/')[0]]}, and RUNNER_GROUP has to be a group of it."
        case 301 | 307 | 308:
            return "It was renamed: set RUNNERS to its name now."
        case _:
            return "It is tried again."


def leave(file: Path, config: str) -> None:
    """Write the configuration for the one who owns the folder, and for nobody else."""
    file.unlink(missing_ok=True)
    place = file.parent.stat()
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as written:
        os.fchown(descriptor, place.st_uid, place.st_gid)
        written.write(config)


def setting(name: str) -> str:
    return os.environ.get(name) or fail(f"{name} is not set. gpu-runner.env says what belongs there.")


def number(name: str) -> int:
    value = setting(name)
    return int(value) if re.fullmatch("[0-9]{1,9}", value) else fail(f"{name} is {value!r}. Set it to a whole number.")


def fail(sentence: str) -> NoReturn:
    sys.exit(f"error: {sentence}")


if __name__ == "__main__":
    main()
