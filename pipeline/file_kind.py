"""What a file that is no GGUF seems to be, by its first bytes, and what to do about it."""

from __future__ import annotations

from typing import NamedTuple


class Kind(NamedTuple):
    """`seems`: the second half of a sentence that begins with "it", without the full stop. `advice`: a sentence."""

    seems: str
    advice: str


HEAD = 512
"""Bytes from the beginning of the file that are enough to tell."""

_CONVERT = "Convert it first: `python -m pipeline run`, or convert_hf_to_gguf.py of llama.cpp."
_PICKLE = f"{_CONVERT} Pickles run code when they are opened, so nothing here opens them: look for safetensors."
_UNPACK = "Unpack it, and name the GGUF that is in it."
_MAGIC = (
    (b"version https://git-lfs", Kind("is a Git LFS pointer, not the file itself", "Run `git lfs pull` beside it.")),
    (b"PK\x03\x04", Kind("seems to be a zip archive, perhaps PyTorch's pickled weights", f"{_UNPACK} {_PICKLE}")),
    (b"\x80\x02", Kind("seems to be pickled weights", _PICKLE)),
    (b"\x1f\x8b", Kind("seems to be compressed by gzip", _UNPACK)),
    (b"\x28\xb5\x2f\xfd", Kind("seems to be compressed by zstd", _UNPACK)),
    (b"7z\xbc\xaf\x27\x1c", Kind("seems to be a 7z archive", _UNPACK)),
    (b"FUGG", Kind("begins with FUGG: a GGUF with its bytes in reverse", "Convert the model again.")),
    (
        (b"lmgg", b"tjgg", b"fmgg", b"algg"),
        Kind("is a GGML file of before August 2023, which llama.cpp no longer reads", "Convert the model again."),
    ),
)


def kind(head: bytes, size: int) -> Kind:
    """Say what a file seems to be that begins with `head` (`HEAD` bytes, or all) and does not begin as a GGUF does."""
    if not size:
        return Kind("is empty", "Download it again.")
    for magic, found in _MAGIC:
        if head.startswith(magic):
            return found
    if not head.strip(b"\0"):
        return Kind("begins with nothing but zeros, as an unfinished download does", "Download it again.")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size:
        return Kind("seems to be safetensors", _CONVERT)
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return Kind("is a web page, perhaps an error in place of the file", "Download it again, signed in if need be.")
    if start.startswith((b"{", b"[")):
        return Kind("seems to be JSON, perhaps an error in place of the file", "Name the .gguf file itself.")
    if _is_text(head):
        return Kind("seems to be a text", "Name the .gguf file itself.")
    return Kind(f"begins with {head[:4]!r}, not with GGUF", "Name the .gguf file itself, or download it again.")


def _is_text(head: bytes) -> bool:
    """Whether it is UTF-8 without control characters; its last character may be cut."""
    text = head.decode(errors="replace")[: -4 if len(head) == HEAD else None]
    return "\N{REPLACEMENT CHARACTER}" not in text and all(c.isprintable() or c.isspace() for c in text)
