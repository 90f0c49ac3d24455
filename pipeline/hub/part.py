"""Some bytes of a file on the Hub, whatever the file's size."""

from __future__ import annotations

from huggingface_hub import hf_hub_url
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status


def part(repo: str, name: str, revision: str | None, begin: int, end: int) -> bytes:
    """Return the bytes from `begin` to before `end`, fewer where the file is shorter.

    No more than `end` bytes are read of any answer, be it the whole file.
    """
    # As it is: compressed, a few bytes could grow to any number.
    headers = build_hf_headers() | {"Range": f"bytes={begin}-{end - 1}", "Accept-Encoding": "identity"}
    with get_session().stream("GET", hf_hub_url(repo, name, revision=revision), headers=headers) as answer:
        if answer.is_error:
            answer.read()
        hf_raise_for_status(answer)
        skipped = 0 if answer.status_code == 206 else begin  # without ranges the file comes from its start
        content = bytearray()
        for piece in answer.iter_raw():
            content += piece
            if len(content) >= skipped + end - begin:
                break
    return bytes(content[skipped : skipped + end - begin])
