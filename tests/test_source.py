"""Models that cannot be quantized are refused in words; what can is fetched at one revision."""

from __future__ import annotations

import io
import json
import os
from dataclasses import replace

import pytest
from test_safetensors import GOOD, write

from pipeline import source
from pipeline.errors import BadInputError, HubError
from pipeline.matrix import EmbeddedText, Gates, Model
from pipeline.progress import Display
from pipeline.store import Store

REPO = "google/gemma-2b"
SHA = "0123456789abcdef0123456789abcdef01234567"
CONFIG = {"architectures": ["GemmaForCausalLM"], "dtype": "bfloat16", "vocab_size": 10}


def model(path=None, revision=None) -> Model:
    return Model(
        source=REPO, revision=revision, path=path, organization="me", filename="{model}-{quant}.gguf", recipes=(),
        prompt="?", max_tokens=8, calibration=EmbeddedText(), calibration_chunks=None, evaluation=EmbeddedText(),
        evaluation_chunks=None, imatrix_format="gguf", card="full", private=False, gating="inherit",
        max_shard_size=10**9, gates=Gates(), line=3, column=5,
    )  # fmt: skip


@pytest.fixture
def directory(tmp_path):
    directory = tmp_path / "gemma-2b"
    directory.mkdir()
    write(directory / "model.safetensors", GOOD)
    (directory / "config.json").write_text(json.dumps(CONFIG))
    (directory / "LICENSE").write_text("terms")
    (directory / "tokenizer.json").write_text("{}")
    (directory / "LICENSE-Q4_K_M.gguf").write_text("not a licence")
    (directory / "modeling_gemma.py").write_text("raise SystemExit('remote code')")
    (directory / "pytorch_model.bin").write_bytes(b"pickle")
    return directory


class TestDirectory:
    def test_takes_what_converting_needs_and_nothing_that_runs(self, directory):
        looked = source.look(model(directory))
        assert [f.name for f in looked.files] == ["LICENSE", "config.json", "model.safetensors", "tokenizer.json"]
        assert (looked.architecture, looked.vocabulary) == ("GemmaForCausalLM", 10)
        assert looked.parameters == looked.weight_bytes // 2
        assert looked.licences == ["LICENSE"]

    def test_digest_follows_the_bytes(self, directory):
        before = source.look(model(directory)).digest
        assert source.look(model(directory)).digest == before
        write(directory / "model.safetensors", GOOD, b"\1" * 8)
        assert source.look(model(directory)).digest != before

    @pytest.mark.parametrize(
        ("config", "said"),
        [
            (None, "has no config.json"),
            ("{", "config.json is not JSON"),
            ("[]", "holds no JSON object"),
            ("[" * 100_000, "config.json is not JSON"),
        ],
    )
    def test_refuses_a_bad_config(self, directory, config, said):
        (directory / "config.json").unlink()
        if config is not None:
            (directory / "config.json").write_text(config)
        with pytest.raises(BadInputError, match=said):
            source.look(model(directory))

    def test_refuses_a_model_without_a_tokenizer(self, directory):
        (directory / "tokenizer.json").unlink()
        with pytest.raises(BadInputError, match="has no tokenizer"):
            source.look(model(directory))

    def test_refuses_an_index_that_does_not_fit_its_shards(self, directory):
        index = {"weight_map": {"a": "model.safetensors", "c": "model.safetensors"}}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(BadInputError, match=r"puts c into model\.safetensors, which does not hold it"):
            source.look(model(directory))

    def test_refuses_an_architecture_that_the_converter_does_not_know(self, directory):
        looked = source.look(model(directory))
        source.check_architecture(looked, frozenset({"GemmaForCausalLM"}))
        source.check_architecture(looked, None)
        with pytest.raises(BadInputError, match=r"is a GemmaForCausalLM, and the pinned llama\.cpp converts no such"):
            source.check_architecture(looked, frozenset({"LlamaForCausalLM"}))


class TestHub:
    @pytest.fixture(autouse=True)
    def hub(self, directory, loopback_hub):
        loopback_hub.add(REPO, directory, SHA)
        return loopback_hub

    def test_resolves_the_revision_and_downloads_no_weight_to_look(self, hub):
        looked = source.look(model())
        assert looked.revision == SHA
        assert [f.name for f in looked.files] == ["LICENSE", "config.json", "model.safetensors", "tokenizer.json"]
        assert not any("safetensors" in r.path for r in hub.requests if r.method == "GET" and "/resolve/" in r.path)

    def test_downloads_what_is_wanted_and_the_same_bytes(self, hub, directory, tmp_path):
        store = Store(tmp_path / "store", Display(io.StringIO()))
        looked = source.look(model())
        path = looked.open(store)
        assert sorted(p.name for p in path.iterdir()) == [
            "artifact.json",
            "config.json",
            "model.safetensors",
            "tokenizer.json",
        ]
        assert (path / "model.safetensors").read_bytes() == (directory / "model.safetensors").read_bytes()
        hub.requests.clear()
        assert looked.open(store) == path
        assert hub.requests == []

    def test_goes_on_after_a_dropped_connection(self, hub, tmp_path):
        store = Store(tmp_path / "store", Display(io.StringIO()))
        looked = source.look(model())
        hub.fault("/cdn/", status=404)
        with pytest.raises((BadInputError, HubError)):
            looked.open(store)
        hub.requests.clear()
        assert (looked.open(store) / "config.json").is_file()
        assert not any("config.json" in r.path for r in hub.requests if r.method == "GET" and "/resolve/" in r.path)

    def test_a_gated_repo_says_what_to_do(self, hub, directory):
        hub.add(REPO, directory, SHA, gated=True)
        with pytest.raises(HubError, match=r"gemma-2b is gated: accept its terms"):
            source.look(model())

    @pytest.mark.parametrize(("gated", "said"), [(False, "no"), ("auto", "auto"), (True, "manual")])
    def test_from_outside_a_gated_model_is_known_by_the_same_digest(self, hub, directory, monkeypatch, gated, said):
        (directory / "README.md").write_text("---\nlicense: gemma\n---\n# Gemma\n")
        hub.add(REPO, directory, SHA, gated=gated)
        outside = source.look(model(), from_outside=True)
        hub.add_token("hf_accepted", "accepted", access=[REPO])
        monkeypatch.setenv("HF_READ_TOKEN", "hf_accepted")
        inside = source.look(model())
        assert (outside.gated, outside.digest, outside.papers) == (said, inside.digest, inside.papers)
        assert (outside.config == {}) == bool(gated)
        assert inside.config == CONFIG

    def test_prose_and_licence_change_no_digest_and_what_is_converted_does(self, hub, directory):
        def changed(name, text):
            (directory / name).write_text(text)
            hub.add(REPO, directory, f"{len(hub.requests):040x}")
            return source.look(model())

        card = "---\nlicense: gemma\n---\n# Gemma\n\nOld words.\n"
        before = changed("README.md", card)
        prose = changed("README.md", card.replace("Old", "New"))
        assert prose.digest == before.digest
        assert prose.papers != before.papers
        assert changed("LICENSE", "other terms").digest == before.digest
        assert changed("README.md", card.replace("gemma", "mit")).digest != before.digest
        assert changed("README.md", card.replace("# Gemma", "# Qwen3-Reranker")).digest != before.digest
        changed("README.md", card)
        assert changed("tokenizer.json", '{"a": 1}').digest != before.digest

    def test_no_such_repo(self):
        with pytest.raises(BadInputError, match="The Hub has no repo google/gemma-9b, or it is private"):
            source.look(replace(model(), source="google/gemma-9b"))

    def test_no_such_revision(self):
        with pytest.raises(BadInputError, match=f"has no revision {'a' * 40}"):
            source.look(model(revision="a" * 40))

    def test_a_renamed_repo_is_named(self, hub):
        hub.rename(REPO, "google/gemma-2-2b")
        with pytest.raises(BadInputError, match=r"google/gemma-2b is called google/gemma-2-2b on the Hub now\. Write"):
            source.look(model())
        hub.rename("google/gemma-2-2b", "google/Gemma-2b")
        with pytest.raises(BadInputError, match=r"Write `source: google/Gemma-2b` in matrix\.yml"):
            source.look(replace(model(), source="google/gemma-2-2b"))

    def test_a_revision_that_leads_to_another_is_no_commit(self, hub, directory):
        branch = "f" * 40
        hub.add(REPO, directory, SHA, branch)
        with pytest.raises(BadInputError, match=f"has no commit {branch}: .* Write `revision: {SHA}`"):
            source.look(model(revision=branch))
        assert source.look(model(revision=SHA)).revision == SHA

    @pytest.mark.parametrize(
        ("name", "size"),
        [
            ("tokenizer.json", 10**10),
            ("config.json", 10**10),
            ("model.safetensors.index.json", 10**10),
            ("LICENSE", 10**10),
            ("README.md", 5_000_000),
        ],
    )
    def test_a_small_file_that_is_huge_is_not_fetched(self, hub, directory, name, size):
        (directory / name).touch()
        os.truncate(directory / name, size)
        hub.add(REPO, directory, SHA)
        with pytest.raises(BadInputError, match=rf"{name} has {size} bytes, and more than \d+ are not read"):
            source.look(model())
        assert not any("/resolve/" in r.path for r in hub.requests)
        with pytest.raises(BadInputError, match=rf"{name} has {size} bytes, and more than \d+ are not read"):
            source.look(model(directory))

    def test_many_large_files_beside_the_weights_are_not_fetched(self, hub, directory):
        for number in range(4):
            (directory / f"vocab.{number}").touch()
            os.truncate(directory / f"vocab.{number}", 90_000_000)
        hub.add(REPO, directory, SHA)
        with pytest.raises(BadInputError, match="bytes in 7 files beside its weights, and more than 300000000 are not"):
            source.look(model())
        assert not any("/resolve/" in r.path for r in hub.requests)

    def test_a_hub_that_fails_is_no_fault_of_the_user(self, hub):
        hub.fault("/api/models/", status=500, count=100)
        with pytest.raises(HubError, match="The Hub failed on google/gemma-2b: it answered 500"):
            source.look(model())

    def test_pickles_only(self, hub, directory):
        (directory / "model.safetensors").unlink()
        hub.add(REPO, directory, SHA)
        with pytest.raises(BadInputError, match="only as pickles"):
            source.look(model())
