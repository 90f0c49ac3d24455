"""A GGUF file, read back: what its header and its tensor table really say.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, read by the `gguf` package.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.errors import ToolchainError

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Tensor:
    name: str
    shape: tuple[int, ...]
    """Row length first, as GGUF has it."""
    type: str
    """As llama-quantize names it, in upper case: Q4_K, F32."""
    parameters: int
    size: int
    """Bytes of data."""


@dataclass(frozen=True)
class GGUFFile:
    path: Path
    metadata: dict[str, Any]
    """Scalars and strings only; arrays (the vocabulary) are left out."""
    tensors: dict[str, Tensor]

    @property
    def parameters(self) -> int:
        return sum(t.parameters for t in self.tensors.values())

    @property
    def bits_per_weight(self) -> float:
        return 8 * sum(t.size for t in self.tensors.values()) / self.parameters

    @property
    def types(self) -> dict[str, int]:
        """Number of tensors of each type, most frequent first."""
        counts: dict[str, int] = {}
        for tensor in self.tensors.values():
            counts[tensor.type] = counts.get(tensor.type, 0) + 1
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", "?"))

    def hyperparameter(self, name: str) -> int:
        """Return `<architecture>.<name>`, 0 where the file does not say."""
        return int(self.metadata.get(f"{self.architecture}.{name}", 0))

    @property
    def layers(self) -> int:
        """Layers that can be offloaded: the blocks and the output."""
        return self.hyperparameter("block_count") + 1


def read(path: Path) -> GGUFFile:
    """Read header and tensor table.

    Raises `ToolchainError` where the file does not open or ends before its last tensor does.
    """
    from gguf import GGUFReader, GGUFValueType

    try:
        reader = GGUFReader(path)
        metadata = {
            name: field.contents() for name, field in reader.fields.items() if field.types[0] != GGUFValueType.ARRAY
        }
        tensors = {
            t.name: Tensor(
                t.name, tuple(int(n) for n in t.shape), t.tensor_type.name, int(t.n_elements), int(t.n_bytes)
            )
            for t in reader.tensors
        }
    except (ValueError, IndexError, KeyError, OSError) as error:
        raise ToolchainError(f"{path.name} does not open as GGUF: {error}.") from error
    return GGUFFile(path, metadata, tensors)
