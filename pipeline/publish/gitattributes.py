"""`.gitattributes` as the Hub writes it: on the Hub it does so itself, in a folder we do."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.result import Release

# The Hub starts every repo with these, then adds a line for each large file that none of them covers.
DEFAULT_PATTERNS = """
*.7z *.arrow *.bin *.bz2 *.ckpt *.ftz *.gz *.h5 *.joblib *.lfs.* *.mlmodel *.model *.msgpack *.npy *.npz *.onnx *.ot
*.parquet *.pb *.pickle *.pkl *.pt *.pth *.rar *.safetensors saved_model/**/* *.tar.* *.tar *.tflite *.tgz *.wasm *.xz
*.zip *.zst *tfevents*
""".split()  # noqa: SIM905 - 35 quoted lines read worse
LARGE = (".gguf", ".dat")


def render(release: Release) -> str:
    patterns = [*DEFAULT_PATTERNS, *(f.name for f in release.files if f.name.endswith(LARGE))]
    return "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in patterns)
