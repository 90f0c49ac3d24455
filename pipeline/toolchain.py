"""llama.cpp: fetched as the matrix pins it, built once a machine, and named for everything that it makes."""

from __future__ import annotations

import ast
import hashlib
import os
import platform
import re
import shutil
import sys
import tarfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import psutil

from pipeline import lanes, package_index, shell
from pipeline.artifact import Step, canonical, digest_of, file_sha256
from pipeline.errors import BadInputError, ToolchainError
from pipeline.matrix.model import GitSource, PathSource, Sdist

if TYPE_CHECKING:
    from pipeline.artifact import Artifact
    from pipeline.progress import Task
    from pipeline.store import Store

TARGETS = (
    "llama-quantize",
    "llama-imatrix",
    "llama-perplexity",
    "llama-completion",
    "llama-tokenize",
    "llama-gguf-split",
    "llama-bench",
)
# Without contraction into fused multiply-adds, quantizing gives the same bytes on any x86-64.
FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DCMAKE_C_FLAGS=-ffp-contract=off",
    "-DCMAKE_CXX_FLAGS=-ffp-contract=off",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_SERVER=OFF",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
)
# The tools find their libraries beside themselves, wherever the store moves them.
PLACEMENT = (
    "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON",
    "-DCMAKE_INSTALL_RPATH=$ORIGIN",
    "-DCMAKE_INSTALL_RPATH_USE_LINK_PATH=ON",  # CUDA's libraries stay where they are
)
# GCC 12's `_tile_loadconfig` reads 64 bytes and declares 8, so that most stores into them count as dead, and ggml's
# kernels for AMX die of SIGILL or SIGSEGV at the first quantized matrix.
KEEP_STORES = "-DCMAKE_CXX_FLAGS_RELEASE=-O3 -DNDEBUG -fno-dse -fno-tree-dse"
# The tools print through a thread of their own and leave without waiting for it: without this, on a loaded machine,
# some runs of llama-perplexity lose their last lines, and end well. It changes what is printed, never what is computed.
FLUSH_FILE = "common/log.cpp"
FLUSH_AFTER = "        log = new common_log;\n"
FLUSH = "        std::atexit([]() { common_log_pause(common_log_main()); });\n"
# For tools whose speed is not what is measured: their threads wait for each other asleep, so that two programs on the
# same cores do not spin against each other. On free cores llama-perplexity took as long either way.
PATIENT = {"OMP_WAIT_POLICY": "passive"}
# For programs of ours that load ggml: it makes tables by OpenMP, and would start a debugger where it gives up. And
# numpy would start threads for products of matrices, which they never ask for.
LOADS_GGML = {**PATIENT, "GGML_NO_BACKTRACE": "1", "OPENBLAS_NUM_THREADS": "1"}
# Nothing that is built or run comes from these, and they are most of the source's bytes.
UNUSED = {"docs", "media", "models"}
NOT_SOURCE = {".git", "build", "__pycache__"}


@dataclass(frozen=True)
class LlamaSource(Step):
    """The source tree of llama.cpp, under `tree/`."""

    pin: Sdist | GitSource | PathSource
    kind: ClassVar[str] = "llama.cpp"
    # What is run here comes from where the matrix says, by its hash, and not from whoever may write to a second tier.
    shared: ClassVar[bool] = False

    @property
    def label(self) -> str:
        return f"fetch llama.cpp {self.commit}"

    @property
    def commit(self) -> str:
        """The commit, or `tree-<12 hex>` for a directory that the matrix names by path."""
        return f"tree-{self._tree_digest[:12]}" if isinstance(self.pin, PathSource) else self.pin.commit

    @property
    def origin(self) -> str:
        """Where it comes from, and what was changed in it, for people."""
        match self.pin:
            case Sdist(name=name, version=version, sha256=sha256):
                place = f"{name}=={version} from the package index, sha256 {sha256}"
            case GitSource(url=url):
                place = url
            case PathSource():
                place = "a local directory"
        return f"{place}; its log is flushed when a tool ends"

    def inputs(self) -> dict[str, Any]:
        match self.pin:
            case Sdist(sha256=sha256, commit=commit):
                pinned = {"sha256": sha256, "commit": commit}
            case GitSource(commit=commit):
                pinned = {"commit": commit}
            case PathSource():
                pinned = {"tree": self._tree_digest}
        return pinned | {"patch": FLUSH}

    def make(self, room: Path, store: Store, task: Task) -> None:  # noqa: ARG002
        tree = room / "tree"
        match self.pin:
            case Sdist():
                requirement = f"{self.pin.name}=={self.pin.version}"
                archive = package_index.fetch(requirement, self.pin.sha256, "sdist", room, ToolchainError)
                _unpack(archive, self.pin, tree)
            case GitSource(url=url, commit=commit):
                tree.mkdir()
                doing = f"fetching {url} at {commit}"
                for arguments in (
                    ["init", "--quiet"],
                    ["fetch", "--quiet", "--depth", "1", url, commit],
                    ["checkout", "--quiet", "FETCH_HEAD"],
                ):
                    # A repository that wants a password is an error, not a question.
                    shell.run(["git", *arguments], cwd=tree, env={"GIT_TERMINAL_PROMPT": "0"}, doing=doing)
                shutil.rmtree(tree / ".git")
            case PathSource(path=path):
                shutil.copytree(path, tree, ignore=shutil.ignore_patterns(*NOT_SOURCE, *UNUSED))
        log = tree / FLUSH_FILE
        if log.is_file() and FLUSH_AFTER in (text := log.read_text(encoding="utf-8")):
            log.write_text(text.replace(FLUSH_AFTER, FLUSH_AFTER + FLUSH, 1), encoding="utf-8")
        for name in UNUSED:
            shutil.rmtree(tree / name, ignore_errors=True)
        if not (tree / "convert_hf_to_gguf.py").is_file() or not (tree / "CMakeLists.txt").is_file():
            raise BadInputError(
                "`llama_cpp` in matrix.yml leads to no llama.cpp: convert_hf_to_gguf.py or CMakeLists.txt is missing."
                " Correct it."
            )

    @cached_property
    def _tree_digest(self) -> str:
        assert isinstance(self.pin, PathSource)
        root = self.pin.path
        tree: dict[str, str] = {}
        for directory, names, files in os.walk(root):
            names[:] = [name for name in names if name not in NOT_SOURCE | UNUSED]
            for file in files:
                path = Path(directory, file)
                if path.is_file():
                    tree[str(path.relative_to(root))] = file_sha256(path)
        return hashlib.sha256(canonical(tree)).hexdigest()


@dataclass(frozen=True)
class Toolchain(Step):
    """The built tools, under `bin/`, for this machine."""

    source: LlamaSource
    cuda: bool
    kind: ClassVar[str] = "toolchain"
    # Built for this machine's processor, and run here: nobody else has a use for it, or is to have a hand in it.
    shared: ClassVar[bool] = False

    @property
    def label(self) -> str:
        return f"build llama.cpp {self.source.commit} for {'CUDA' if self.cuda else 'the CPU'}"

    @cached_property
    def identity(self) -> str:
        """Digest of what decides the bytes that the tools make: source and flags, not the machine."""
        return hashlib.sha256(canonical([self.source.inputs(), FLAGS])).hexdigest()

    def inputs(self) -> dict[str, Any]:
        return {
            "source": digest_of(self.source),
            "flags": [*FLAGS, *PLACEMENT, *_for_amx()],
            "cuda": self.cuda,
            "machine": self.machine,
        }

    @property
    def machine(self) -> str:
        """What is built here is built for."""
        return _processor()

    def make(self, room: Path, store: Store, task: Task) -> None:
        tree = store.get(self.source).file("tree")
        build = room / "build"
        build.mkdir()
        doing = f"building llama.cpp {self.source.commit}"
        # Else CMake asks git, and git answers with the repository that happens to be around the store.
        env = {"GIT_CEILING_DIRECTORIES": str(store.root)}
        configure = [
            _program("cmake"),
            *("-S", tree, "-B", build, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={_program('ninja')}"),
            *FLAGS,
            *PLACEMENT,
            *_for_amx(),
            *("-DLLAMA_BUILD_NUMBER=0", f"-DLLAMA_BUILD_COMMIT={self.source.commit}"),
            *(["-DGGML_CUDA=ON"] if self.cuda else []),
        ]
        shell.run(configure, cwd=build, env=env, doing=doing)

        def watch(text: str) -> None:
            if steps := re.findall(r"^\[(\d+)/(\d+)\]", text, re.MULTILINE):
                done, total = map(int, steps[-1])
                task.advance(done / total, f"{done} of {total} files")

        compile_ = [_program("cmake"), "--build", build, "--target", *TARGETS]
        shell.run(compile_, cwd=build, env=env, doing=doing, watch=watch)
        (build / "bin").rename(room / "bin")
        shutil.rmtree(build)


@dataclass(frozen=True)
class Tools:
    """The tools, ready to run."""

    directory: Path
    converter: Path
    """convert_hf_to_gguf.py"""
    threads: int

    def path(self, name: str) -> Path:
        return self.directory / name


def tools(store: Store, toolchain: Toolchain) -> Tools:
    """Return the tools, building them where the store has none for this machine; in a lane, for its share of cores."""
    built = store.get(toolchain)
    source = store.get(toolchain.source)
    shared = max(1, threads() // lanes.sharing())
    return Tools(built.file("bin"), source.file("tree/convert_hf_to_gguf.py"), shared)


def threads() -> int:
    """Physical cores that this process may use: what inference and quantizing are fastest with."""
    physical = psutil.cpu_count(logical=False) or 1
    return min(physical, len(os.sched_getaffinity(0))) if sys.platform == "linux" else physical


def has_cuda() -> bool:
    """Whether a CUDA compiler and a working NVIDIA GPU are here."""
    return bool(shutil.which("nvcc") and shutil.which("nvidia-smi") and Path("/dev/nvidia0").exists())


def architectures(source: Artifact) -> frozenset[str] | None:
    """Return the names of the architectures that the converter knows, as in a config.json's `architectures`.

    Read from the table in llama.cpp's `conversion/__init__.py`, without running it; None where a llama.cpp of
    another age keeps no such table, so that nothing can be said before the converter runs.
    """
    module = source.file("tree/conversion/__init__.py")
    if not module.is_file():
        return None
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "TEXT_MODEL_MAP" and node.value:
            return frozenset(ast.literal_eval(node.value))
    return None


def _unpack(archive: Path, pin: Sdist, tree: Path) -> None:
    """Unpack llama.cpp out of the source distribution, and nothing else of it.

    Its `.git` stays behind: it is a file that points at a repository that is not there, and makes Ninja
    configure for ever.
    """
    inside = f"{archive.name.removesuffix('.tar.gz')}/vendor/llama.cpp/"
    with tarfile.open(archive) as tar:
        for member in tar:
            if not member.name.startswith(inside):
                continue
            member.name = member.name.removeprefix(inside)
            if member.name != ".git" and member.name.split("/")[0] not in UNUSED:
                tar.extract(member, tree, filter="data")
    archive.unlink()
    if not tree.is_dir():
        raise BadInputError(f"{pin.name}=={pin.version} holds no vendor/llama.cpp. Check `llama_cpp` in matrix.yml.")


def _program(name: str) -> str:
    """Return CMake or Ninja: the machine's, else the one that came as a wheel with this environment."""
    if found := shutil.which(name) or shutil.which(name, path=Path(sys.executable).parent):
        return found
    raise ToolchainError(f"{name} was not found. Install it, or run `make setup`, which brings it as a wheel.")


def _processor() -> str:
    """Name the instruction set, since the tools are built for exactly this one (-march=native)."""
    if (features := _features()) is None:
        return f"{platform.system()} {platform.machine()} {platform.processor()}"
    return f"Linux {platform.machine()} {hashlib.sha256(' '.join(features).encode()).hexdigest()[:16]}"


def _for_amx() -> list[str]:
    return [KEEP_STORES] if "amx_tile" in (_features() or ()) else []


def _features() -> list[str] | None:
    """The processor's features by Linux's names, sorted; None where it does not say."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text()
    except OSError:
        return None
    flags = re.search(r"^(?:flags|Features)\s*: (.*)$", cpuinfo, re.MULTILINE)
    return sorted(flags[1].split()) if flags else []
