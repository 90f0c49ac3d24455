"""What decides the digest of a toolchain, and what is read out of a source tree without running it."""

from __future__ import annotations

import io
import subprocess
import tarfile

import pytest

from pipeline import toolchain
from pipeline.artifact import Artifact, digest_of
from pipeline.errors import BadInputError, ToolchainError
from pipeline.matrix import GitSource, PathSource, Sdist
from pipeline.progress import Display
from pipeline.store import Store

PIN = Sdist("llama-cpp-python", "0.3.36", "a" * 64, "0c1e57098")


def test_identity_is_of_source_and_flags_not_of_the_machine(monkeypatch):
    cpu = toolchain.Toolchain(toolchain.LlamaSource(PIN), cuda=False)
    gpu = toolchain.Toolchain(toolchain.LlamaSource(PIN), cuda=True)
    assert cpu.identity == gpu.identity
    assert digest_of(cpu) != digest_of(gpu)
    monkeypatch.setattr(toolchain, "_processor", lambda: "another machine")
    elsewhere = toolchain.Toolchain(toolchain.LlamaSource(PIN), cuda=False)
    assert elsewhere.identity == cpu.identity
    assert digest_of(elsewhere) != digest_of(cpu)
    other = toolchain.Toolchain(toolchain.LlamaSource(GitSource("https://x", "b" * 40)), cuda=False)
    assert other.identity != cpu.identity


def test_stores_that_the_compiler_takes_for_dead_are_kept(monkeypatch):
    cpu = toolchain.Toolchain(toolchain.LlamaSource(PIN), cuda=False)
    for features, expected in ((["avx2"], 0), (["amx_int8", "amx_tile", "avx2"], 1)):
        monkeypatch.setattr(toolchain, "_features", lambda features=features: features)
        assert sum("-fno-dse" in flag for flag in cpu.inputs()["flags"]) == expected


def test_a_directory_is_known_by_its_content(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.c").write_text("int a;")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_text("x")

    def digest():
        return digest_of(toolchain.LlamaSource(PathSource(tmp_path)))

    before = digest()
    (tmp_path / ".git" / "HEAD").write_text("y")
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "a.o").write_text("object")
    assert digest() == before
    (tmp_path / "src" / "a.c").write_text("int b;")
    assert digest() != before


@pytest.fixture
def llama(tmp_path):
    """As little of llama.cpp as passes for it, and a place to patch."""
    tree = tmp_path / "llama.cpp"
    (tree / "common").mkdir(parents=True)
    (tree / "CMakeLists.txt").write_text("project(llama.cpp)\n")
    (tree / "convert_hf_to_gguf.py").write_text("print()\n")
    (tree / "common" / "log.cpp").write_text(f"{{\n{toolchain.FLUSH_AFTER}}}\n")
    (tree / "models").mkdir()
    (tree / "models" / "vocab.gguf").write_text("large")
    return tree


def fetched(pin, tmp_path):
    store = Store(tmp_path / "store", Display(io.StringIO()))
    source = toolchain.LlamaSource(pin)
    tree = store.get(source).file("tree")
    assert (tree / "common" / "log.cpp").read_text() == f"{{\n{toolchain.FLUSH_AFTER}{toolchain.FLUSH}}}\n"
    assert sorted(p.name for p in tree.iterdir()) == ["CMakeLists.txt", "common", "convert_hf_to_gguf.py"]
    return source


def test_a_directory_is_copied_without_what_is_not_used(llama, tmp_path):
    assert fetched(PathSource(llama), tmp_path).commit.startswith("tree-")


@pytest.mark.programs
def test_a_commit_is_fetched_by_git(llama, tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        return subprocess.run(["git", *identity, *arguments], cwd=llama, check=True, capture_output=True, text=True)

    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "first")
    commit = git("rev-parse", "HEAD").stdout.strip()
    assert fetched(GitSource(llama.as_uri(), commit), tmp_path).commit == commit
    with pytest.raises(ToolchainError, match="git failed with exit code"):
        fetched(GitSource(llama.as_uri(), "0" * 40), tmp_path)


def test_a_directory_that_is_no_llama_cpp(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInputError, match=r"leads to no llama\.cpp"):
        fetched(PathSource(tmp_path / "empty"), tmp_path)


def archive(path, members):
    with tarfile.open(path, "w:gz") as tar:
        for name, text in members.items():
            info = tarfile.TarInfo(f"llama_cpp_python-0.3.36/{name}")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return path


def test_unpacks_llama_cpp_alone_and_not_its_dangling_git_file(tmp_path):
    members = {"setup.py": "x", "vendor/llama.cpp/.git": "gitdir: ..", "vendor/llama.cpp/CMakeLists.txt": "y"}
    members |= {"vendor/llama.cpp/models/big.gguf": "z", "vendor/llama.cpp/src/.gitignore": ""}
    path = archive(tmp_path / "llama_cpp_python-0.3.36.tar.gz", members)
    toolchain._unpack(path, PIN, tmp_path / "tree")
    files = {p.relative_to(tmp_path / "tree").as_posix() for p in (tmp_path / "tree").rglob("*") if p.is_file()}
    assert files == {"CMakeLists.txt", "src/.gitignore"}
    assert not path.exists()


def test_an_archive_that_reaches_outside_is_refused(tmp_path):
    path = archive(tmp_path / "llama_cpp_python-0.3.36.tar.gz", {"vendor/llama.cpp/../../../../evil": "x"})
    with pytest.raises(tarfile.FilterError):
        toolchain._unpack(path, PIN, tmp_path / "tree")
    assert not (tmp_path.parent / "evil").exists()


def test_an_archive_without_llama_cpp(tmp_path):
    path = archive(tmp_path / "llama_cpp_python-0.3.36.tar.gz", {"setup.py": "x"})
    with pytest.raises(BadInputError, match="holds no vendor"):
        toolchain._unpack(path, PIN, tmp_path / "tree")


def test_architectures_are_read_not_run(tmp_path):
    artifact = Artifact(tmp_path, "llama.cpp", "d", "label", 0.0, {})
    assert toolchain.architectures(artifact) is None
    (tmp_path / "tree" / "conversion").mkdir(parents=True)
    module = tmp_path / "tree" / "conversion" / "__init__.py"
    module.write_text('raise SystemExit\nTEXT_MODEL_MAP: dict[str, str] = {"LlamaForCausalLM": "llama"}\n')
    assert toolchain.architectures(artifact) == {"LlamaForCausalLM"}
    module.write_text("OTHER = 1\n")
    assert toolchain.architectures(artifact) is None
