"""Two machines with a store each, and one S3: the second has no llama.cpp, and needs none."""

from __future__ import annotations

from conftest import leftovers, weights
from s3 import BUCKET, LoopbackS3

from pipeline.store import Store


def test_the_second_machine_computes_nothing_that_the_first_has_made(command, store, matrix_file, tmp_path, start):
    path = matrix_file("llama", "Q8_0, Q4_K_M")
    other = Store(tmp_path / "other-store", store.display)
    (other.root / "llama.cpp").symlink_to(store.root / "llama.cpp")  # its list of architectures is read
    with LoopbackS3() as s3:
        remote = {
            "LLM_QUANTIZER_REMOTE_STORE": f"s3://{BUCKET}/tier",
            "AWS_ENDPOINT_URL": s3.endpoint,
            "AWS_ACCESS_KEY_ID": "the-key-of-this-test",
            "AWS_SECRET_ACCESS_KEY": "the-secret-of-this-test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        }
        for root, out in ((store.root, "out"), (other.root, "other")):
            places = ("--publish-to", tmp_path / out, "--results", tmp_path / f"{out}-results")
            process = start("run", "--matrix", path, "--store", root, *places, env=remote)
            _, said = process.communicate()
            assert process.returncode == 0, said
            assert "warning" not in said
            assert "the-secret-of-this-test" not in said
        kinds = {kind for kind, _, _ in (name.split("/")[1:] for name in s3.listed()) if kind != "files"}
    assert not (other.root / "toolchain").exists()
    assert leftovers(other) == []
    assert weights(tmp_path / "other" / "llama-GGUF") == weights(tmp_path / "out" / "llama-GGUF")
    assert kinds == {
        "reference",
        "vetting",
        "imatrix",
        "logits",
        "parity",
        "quant",
        "tensor",
        "checks",
        "answer",
        "quality",
        "speed",
    }
    made_there = {artifact.kind for artifact in other.artifacts()} - {"llama.cpp"}
    assert made_there - kinds == {"papers", "plot"}
    for artifact in other.artifacts():
        if artifact.kind in kinds:
            assert artifact.seconds == store._read(artifact.kind, artifact.digest).seconds
