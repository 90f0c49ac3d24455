"""What a pull request's author reads: of good models, of bad ones, and of records that somebody has forged."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import factories
import pytest
from markdown_it import MarkdownIt
from test_cli import invoke

from pipeline import card, disk, job, matrix, preview, run
from pipeline.artifact import digest_of
from pipeline.card.markdown import visible
from pipeline.card.original import SourceCard
from pipeline.errors import BadInputError, HubError
from pipeline.gguf_file import GGUFFile, Tensor
from pipeline.preview import memory, record
from pipeline.preview.foreseen import Foreseen, ForeseenQuant
from pipeline.preview.minutes import minutes
from pipeline.preview.outlook import outlook
from pipeline.preview.page import LIMIT, page
from pipeline.result import FileEntry
from pipeline.source import Source

MATRIX = """\
version: 1
llama_cpp: {git: https://github.com/ggml-org/llama.cpp, commit: 0123456789abcdef0123456789abcdef01234567}
defaults: {organization: nold, quants: [Q4_K_M, Q8_0]}
models:
  - source: google/gemma-2b
    quants: [Q4_K_M, Q5_K_M, Q8_0]
  - source: mistralai/Mixtral-8x7B-v0.1
    max_shard_size: 20G
"""
SHA = "9cf48e52b224239de00d483ec8eb84fb8d0f3a3a"
GEMMA_CARD = """\
---
license: gemma
extra_gated_heading: Access Gemma on Hugging Face
---

# Gemma
"""
GEMMA = {
    "block_count": 18,
    "context_length": 8192,
    "embedding_length": 2048,
    "feed_forward_length": 16384,
    "attention.head_count": 8,
    "attention.head_count_kv": 1,
    "attention.key_length": 256,
    "attention.value_length": 256,
    "attention.layer_norm_rms_epsilon": 1e-6,
}
MIXTRAL = {
    "block_count": 32,
    "context_length": 32768,
    "embedding_length": 4096,
    "feed_forward_length": 14336,
    "attention.head_count": 32,
    "attention.head_count_kv": 8,
    "expert_count": 8,
    "expert_used_count": 2,
    "rope.freq_base": 1e6,
}
HOSTILE = (
    "@everyone `@here` ``` #1 <img src=x onerror=alert(1)> ![p](https://evil.example/p.png) [l](https://evil.example) "
    "https://evil.example www.evil.example a@evil.example </details> <!-- | **b** \\| \u202egnp.exe\u202c \x1b[2J\n"
    "\n# heading\n\n~~~\n| a |\n"
)


def gguf(architecture, hyperparameters, tensors=()):
    metadata = {f"{architecture}.{key}": value for key, value in hyperparameters.items()}
    held = {name: Tensor(name, (count,), "BF16", count, 2 * count) for name, count in tensors}
    return GGUFFile(Path("reference.gguf"), {"general.architecture": architecture} | metadata, held, 0, 0)


def steps(index, config, *, gated, licences=()):
    model = matrix.parse(MATRIX.encode(), "matrix.yml", Path("/nowhere")).models[index]
    toolchain = run.toolchain_of(matrix.parse(MATRIX.encode(), "matrix.yml", Path("/nowhere")), cuda=False)
    names = ["model.safetensors", "config.json", "tokenizer.json", *licences]
    files = tuple(FileEntry(name=name, size=5_012_344_832 if "safe" in name else 9_000, sha256="") for name in names)
    contents = {file.name: file.sha256 for file in files}
    source = Source(model.source, SHA, None, files, ("model.safetensors",), config, "", contents, gated)
    return job.Steps(model, source, toolchain)


def foreseen(of, reference, sizes, *, shards=0, fallbacks=()):
    name = next(iter(reference.tensors))  # the same tensor in all of them, so that the store has it once
    quants = tuple(
        ForeseenQuant(
            recipe,
            size,
            {name: Tensor(name, (1,), "Q4_K", reference.parameters, size)},
            found,
            (size // max(n, 1),) * n,
        )
        for recipe, size, found, n in zip(of.model.recipes, sizes, [fallbacks, *[()] * 9], [0, shards, 0], strict=False)
    )
    return Foreseen(reference, 2 * reference.parameters, 2_068_563, imatrix_exact=True, quants=quants)


@pytest.fixture
def gemma():
    """A gated model with a last release: one quant as it was, one remade, one gone, one new."""
    of = steps(0, {"vocab_size": 256_000}, gated="manual")
    seen = foreseen(
        of,
        gguf("gemma", GEMMA, [("token_embd.weight", 524_288_000), ("blk.0.ffn_up.weight", 1_981_884_416)]),
        [1_634_000_000, 1_844_000_000, 2_669_000_000],
    )
    same, _, remade = (of.model.file_name(r.name) for r in of.model.recipes)
    results = [
        factories.result("Q4_K_M", file=factories.file(same), artifact=digest_of(of.quant(of.model.recipes[0]))),
        factories.result("Q8_0", file=factories.file(remade)),
        factories.result("Q2_K"),
    ]
    last = factories.release(quants=results)
    return outlook(of, seen, GEMMA_CARD, last, exists=True)


@pytest.fixture
def mixtral():
    """A new mixture of experts, with a file in shards, and no licence."""
    of = steps(1, {"vocab_size": 32_000}, gated="no", licences=["LICENSE"])
    experts = [("blk.0.ffn_up_exps.weight", 45_097_156_608), ("output.weight", 1_605_636_096)]
    seen = foreseen(
        of,
        gguf("llama", MIXTRAL, experts),
        [28_446_000_000, 49_624_000_000],
        shards=3,
        fallbacks=factories.fallbacks(2),
    )
    return outlook(of, seen, "# Mixtral\n", None, exists=False)


def test_golden_page(gemma, mixtral, golden):
    golden("preview.md", page([gemma, mixtral], ["matrix.yml:9:5: `Q4_KM` is no quant type"]))


def test_what_changes(gemma, mixtral):
    assert [(q.quant, q.change) for q in gemma.quants] == [
        ("Q4_K_M", "unchanged"),
        ("Q5_K_M", "new"),
        ("Q8_0", "replaced"),
    ]
    assert gemma.deletes == ("gemma-2b-Q2_K.gguf",)
    assert gemma.upload == 1_844_000_000 + 2_669_000_000
    assert mixtral.upload == 28_446_000_000 + 49_624_000_000 + 2_068_563
    assert {q.change for q in mixtral.quants} == {"new"}


def test_the_disk_holds_a_file_in_shards_twice_and_each_tensor_once(mixtral):
    logits = disk.logits_bytes(32_000, disk.USUAL_CHUNKS)
    files, tensors = 28_446_000_000 + 49_624_000_000, 49_624_000_000
    assert mixtral.disk == 5_012_344_832 + 2 * 46_702_792_704 + 2_068_563 + logits + tensors + 2 * files


def test_the_head_is_the_one_that_the_card_gets():
    release = factories.release()
    subject = card.Subject.of(release, ["LICENSE"])
    whole = card.render(release, GEMMA_CARD, None, ["LICENSE"])
    before, after = card.head(subject, SourceCard.parse(GEMMA_CARD), "VERDICT").split("VERDICT")
    assert whole.startswith(before)
    assert after in whole


def test_the_head_of_the_other_style(gemma):
    of = steps(0, {}, gated="no")
    of = replace(of, model=replace(of.model, card="footer"))
    seen = foreseen(of, gguf("gemma", GEMMA, [("a", 10)]), [1, 2, 3])
    assert outlook(of, seen, GEMMA_CARD, None, exists=True).card == GEMMA_CARD.partition("\n# ")[0]
    assert "base_model: google/gemma-2b" in outlook(of, seen, None, None, exists=True).card


def test_licence_and_gating_are_said(gemma, mixtral):
    text = page([gemma])
    assert "**Licence:** `gemma`" in text
    assert "let in the account of `HF_READ_TOKEN`" in text
    assert "wants beside every copy" in text
    assert "card names none" in page([mixtral])
    assert "anybody may download" in page([mixtral])


def test_verdicts(gemma):
    assert page([]) == "**This changes no model.**\n"
    assert page([], ["matrix.yml:1:1: no"]).startswith("**1 problem.**\n\n```text\nmatrix.yml:1:1: no\n```")
    assert page([gemma]).startswith("**1 model, 3 files, 4.51\N{NO-BREAK SPACE}GB to upload, about ")


class TestMemory:
    def test_plain(self):
        # 18 layers, one head of 256 for keys and one for values, 16 bits.
        assert memory.cache_bytes(gguf("gemma", GEMMA), 4096) == 18 * 512 * 2 * 4096
        assert memory.contexts(gguf("gemma", GEMMA)) == (4096, 8192)
        assert memory.contexts(gguf("llama", MIXTRAL | {"context_length": 131_072})) == (4096, 32_768)
        assert memory.contexts(gguf("llama", MIXTRAL | {"context_length": 2048})) == (2048,)

    def test_heads_that_differ_by_layer(self):
        heads = tuple(range(32))
        held = memory.cache_bytes(gguf("llama", MIXTRAL | {"attention.head_count_kv": heads}), 256)
        assert held == sum(heads) * 256 * 2 * 256

    def test_sliding_windows(self):
        # One layer in six holds all of it, the others the window and a batch, padded to 256 tokens.
        sliding = GEMMA | {"attention.sliding_window": 1024}
        assert memory.cache_bytes(gguf("gemma3", sliding), 8192) == (3 * 8192 + 15 * 1536) * 512 * 2
        assert memory.cache_bytes(gguf("gemma3", sliding), 1024) == 18 * 1024 * 512 * 2
        pattern = sliding | {"attention.sliding_window_pattern": (True,) * 17 + (False,)}
        assert memory.cache_bytes(gguf("gemma3", pattern), 8192) == (8192 + 17 * 1536) * 512 * 2

    def test_latent_attention_keeps_keys_alone(self):
        latent = {"attention.head_count_kv": 1, "attention.key_length": 576, "attention.value_length": 512}
        latent |= {"attention.key_length_mla": 192, "attention.value_length_mla": 128, "attention.kv_lora_rank": 512}
        assert memory.cache_bytes(gguf("deepseek2", MIXTRAL | latent), 4096) == 32 * 576 * 2 * 4096

    @pytest.mark.parametrize(
        ("architecture", "more"),
        [
            ("mamba2", {"ssm.state_size": 128}),
            ("llama4", {}),
            ("someone-new", {"attention.sliding_window": 512}),
            ("glm-dsa", {"attention.indexer.top_k": 2048}),
            ("bert", {"attention.causal": False}),
            ("llama", {"attention.key_length": (1, 2)}),
            ("llama", {"block_count": 1 << 40}),
            ("llama", {"attention.head_count_kv": (1, 2)}),
            ("llama", {"attention.head_count": 0}),
            ("llama", {"attention.head_count_kv": 1 << 31, "attention.key_length": 1 << 31}),
        ],
    )
    def test_what_is_not_known_is_not_said(self, architecture, more):
        assert memory.cache_bytes(gguf(architecture, MIXTRAL | more), 4096) is None

    def test_the_page_without_it(self, gemma):
        quants = tuple(quant.model_copy(update={"memory": ()}) for quant in gemma.quants)
        assert "Memory at" not in page([gemma.model_copy(update={"quants": quants})])


class TestMinutes:
    def test_slow_types_take_longer(self):
        reference = gguf("llama", {}, [("blk.0.ffn_up.weight", 8_000_000_000)])
        of = steps(0, {}, gated="no")
        quick, slow = (
            replace(
                foreseen(of, reference, [4_000_000_000]).quants[0],
                tensors={"a": Tensor("a", (1,), kind, 8_000_000_000, 1)},
            )
            for kind in ("Q8_0", "IQ2_XS")
        )
        # 8e9 weights over 16 cores: 2 s at 250 million a second and core, 92.6 s at 5.4.
        assert minutes(reference, slow, 64, 512) - minutes(reference, quick, 64, 512) == pytest.approx(90.6 / 60, 0.01)

    def test_a_token_meets_those_experts_that_are_used(self):
        of = steps(0, {}, gated="no")
        dense, sparse = (
            gguf("llama", {"expert_count": 8, "expert_used_count": 2}, [(f"blk.0.ffn_up{end}.weight", 8_000_000_000)])
            for end in ("", "_exps")
        )
        quant = replace(
            foreseen(of, dense, [4_000_000_000]).quants[0], tensors={"a": Tensor("a", (1,), "Q8_0", 8_000_000_000, 1)}
        )
        assert minutes(dense, quant, 64, 512) > 3 * minutes(sparse, quant, 64, 512)


class TestForged:
    def forged(self, whole):
        """The record with every text in it replaced by a hostile one."""
        kept = {"change", "gated"}

        def spoilt(value, key=""):
            if isinstance(value, dict):
                return {k: spoilt(v, k) for k, v in value.items()}
            if isinstance(value, list):
                return [spoilt(v, key) for v in value]
            return HOSTILE[:300] if isinstance(value, str) and key not in kept else value

        return record.parse(json.dumps(spoilt(json.loads(record.dump(whole)))).encode())

    def test_nothing_of_it_is_more_than_text(self, gemma, mixtral):
        gemma = gemma.model_copy(update={"licence_files": ("LICENSE",)})
        seen = self.forged(record.Preview(outlooks=(gemma, mixtral), problems=("a", "b")))
        text = page(seen.outlooks, seen.problems)
        assert text.count("@everyone") > 10
        tokens = MarkdownIt("gfm-like", {"html": True, "linkify": False}).parse(text)
        said = [c for t in tokens for c in (t.children or [t])]
        html = [t.content.strip() for t in said if t.type in ("html_block", "html_inline")]
        assert set(html) <= {
            "<details>\n<summary>Sizes to the byte</summary>",
            "<details>\n<summary>How the card will begin</summary>",
            "</details>",
        }
        assert not [t.type for t in said if t.type in ("image", "link_open")]
        # What is neither a code span nor a code block is ours.
        prose = "".join(t.content for t in said if t.type == "text")
        assert not re.search(r"@|#\d|://|www\.|evil|everyone", prose)
        assert [t.tag for t in tokens if t.type == "heading_open"] == ["h3", "h3"]
        assert "\u202e" not in text
        assert "\x1b" not in text

    @pytest.mark.parametrize("count", [1, 30, 1000])
    @pytest.mark.parametrize("name", ["x" * 300, "`" * 300, "|" * 300])
    def test_no_comment_is_too_long(self, mixtral, count, name):
        quant = mixtral.quants[0].model_copy(update={"quant": name, "file": name})
        worst = mixtral.model_copy(
            update={
                "source": name,
                "repo": name,
                "quants": (quant,) * (1000 if count == 1 else 3),
                "deletes": (name,) * 1000,
                "card": "`" * (record.CARD_LENGTH if count < 1000 else 1),
            }
        )
        text = page([worst] * count, ["`" * record.PROBLEM_LENGTH] * count)
        assert 1000 < len(text) <= LIMIT
        assert "*Shortened, since a comment holds no more" in text
        assert text.startswith(f"**{count:,} model")
        if count == 1000:
            shown = text.count("\n| ") - 2
            assert f"And {1000 - shown} more." in text

    def test_a_record_comes_back_as_it_was(self, gemma, mixtral):
        seen = record.Preview(outlooks=(gemma, mixtral), problems=("no",))
        assert record.parse(record.dump(seen)) == seen

    def test_what_is_written_can_be_read(self, gemma):
        many = record.Preview(outlooks=(gemma.model_copy(update={"card": "x" * record.CARD_LENGTH}),) * 300)
        read = record.parse(record.dump(many))
        assert len(read.outlooks) == 300
        assert read.outlooks[0].card == ""

    @pytest.mark.parametrize(
        ("change", "value"),
        [
            ("size", -1),
            ("size", 1 << 61),
            ("size", 1.5),
            ("bits_per_weight", float("nan")),
            ("bits_per_weight", float("inf")),
            ("minutes", "NaN"),
            ("change", "deleted"),
            ("file", "x" * 301),
            ("more", 1),
            ("memory", [{"context": 1, "size": 1}] * 5),
        ],
    )
    def test_a_wrong_one_is_refused(self, gemma, change, value):
        whole = json.loads(record.dump(record.Preview(outlooks=(gemma,))))
        whole["outlooks"][0]["quants"][0][change] = value
        with pytest.raises(BadInputError, match="no preview of this version"):
            record.parse(json.dumps(whole).encode())

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\xff",
            b"[]",
            b"null",
            b'{"version": 2}',
            b"[" * 1_000_000,
            b'{"outlooks":' * 100_000,
            b'{"problems": ["\\ud800"]}',
            b'{"problems": [' + b'"",' * 1001 + b'""]}',
        ],
    )
    def test_what_is_none_is_refused(self, data):
        with pytest.raises(BadInputError, match="no preview of this version"):
            record.parse(data)

    def test_one_that_is_too_large_is_not_read(self):
        with pytest.raises(BadInputError, match="larger than"):
            record.parse(b'{"problems": ["' + b"x" * record.MAX_BYTES)


def test_visible_keeps_what_is_seen():
    assert visible("a\N{NO-BREAK SPACE}b\tc\n\u202e\x1b[1mé") == "a b\tc\n[1mé"


class TestCommand:
    """`plan --preview`, with a stand-in for looking."""

    def run(self, monkeypatch, tmp_path, seen, failures, *arguments):
        summary = tmp_path / "summary.md"
        monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
        monkeypatch.setattr(preview, "look", lambda *_: (seen, failures))
        path = tmp_path / "matrix.yml"
        path.write_text(MATRIX)
        places = ["--matrix", path, "--store", tmp_path / "store", "--publish-to", tmp_path / "out"]
        return *invoke("plan", "--preview", *places, *arguments), summary.read_text()

    def test_the_page_is_printed_and_put_into_the_summary(self, monkeypatch, tmp_path, gemma):
        code, out, _, summary = self.run(monkeypatch, tmp_path, record.Preview(outlooks=(gemma,)), [])
        assert code == 0
        assert out == summary + "\n" == page([gemma]) + "\n"

    def test_as_a_record(self, monkeypatch, tmp_path, gemma):
        seen = record.Preview(outlooks=(gemma,))
        code, out, _, summary = self.run(monkeypatch, tmp_path, seen, [], "--format", "json")
        assert code == 0
        assert record.parse(out.encode()) == seen
        assert summary == page([gemma])

    @pytest.mark.parametrize(
        ("failures", "code"),
        [([HubError("x")], 4), ([HubError("x"), BadInputError("x")], 2)],
    )
    def test_what_cannot_be_made_fails_after_the_page(self, monkeypatch, tmp_path, gemma, failures, code):
        seen = record.Preview(outlooks=(gemma,), problems=("matrix.yml:5:5: no such repo",))
        found, out, err, _ = self.run(monkeypatch, tmp_path, seen, failures)
        assert found == code
        assert "; 1 problem.**" in out
        assert err == "matrix.yml:5:5: no such repo\n"


def test_models_that_cannot_be_made_do_not_hide_the_others(monkeypatch, tmp_path, gemma):
    read = matrix.parse(MATRIX.encode(), "matrix.yml", Path("/nowhere"))
    path = Path("matrix.yml")

    def look(models, _toolchain, matrix_file):
        (model,) = models
        if "gemma" not in model.source:
            raise BadInputError(f"{matrix_file}:{model.line}:{model.column}: no such repo")
        return [model]

    monkeypatch.setattr(run, "look", look)
    monkeypatch.setattr(preview, "_outlook", lambda _shop, _steps: gemma)
    seen, failures = preview.look(None, read.models, None, path)
    assert seen == record.Preview(outlooks=(gemma,), problems=("matrix.yml:7:5: no such repo",))
    assert len(failures) == 1

    def fail(_shop, _steps):
        raise BadInputError("the converter says no")

    monkeypatch.setattr(preview, "_outlook", fail)
    seen, _ = preview.look(None, read.models[:1], None, path)
    assert seen.problems == ("matrix.yml:5:5: the converter says no",)
