#!/bin/sh
# What the pipeline does with a model, as people do it by hand: the same calls of llama.cpp, one after the other.
# For tests/bench/whole.py, which sets the variables. Every "@ step" line is a time stamp for it.
set -eu
exec 2>"$ROOM/log"

echo "@ download"
"$BIN/hf" download "$MODEL" --local-dir "$ROOM/source" >&2

echo "@ convert"
"$BIN/python" "$LLAMA/convert_hf_to_gguf.py" "$ROOM/source" --outfile "$ROOM/reference.gguf" --outtype auto >&2

echo "@ imatrix"
"$TOOLS/llama-imatrix" -m "$ROOM/reference.gguf" -f "$CALIBRATION" -o "$ROOM/imatrix.gguf" \
    -c 512 --chunks "$CHUNKS" --threads "$THREADS" >&2

answer() { # the prompts, one after the other
    while IFS= read -r prompt; do
        "$TOOLS/llama-completion" -m "$1" --jinja -cnv --single-turn -p "$prompt" -n "$LENGTH" --temp 0 --seed 1 \
            -c 2048 --threads "$THREADS" </dev/null >>"$ROOM/answers.txt"
        LENGTH=48 # the first answer is the long one
    done <"$PROMPTS"
}

compare() {
    "$TOOLS/llama-perplexity" -m "$1" -c 512 --kl-divergence-base "$ROOM/reference.kld" --kl-divergence \
        --threads "$THREADS" >"$1.txt"
}

echo "@ reference logits"
"$TOOLS/llama-perplexity" -m "$ROOM/reference.gguf" -f "$EVALUATION" -c 512 --chunks "$CHUNKS" \
    --kl-divergence-base "$ROOM/reference.kld" --threads "$THREADS" >&2
LENGTH=128 && answer "$ROOM/reference.gguf"
compare "$ROOM/reference.gguf"

mkdir "$ROOM/release"
for type in $TYPES; do
    quant="$ROOM/release/$NAME-$type.gguf"
    echo "@ quantize"
    "$TOOLS/llama-quantize" --imatrix "$ROOM/imatrix.gguf" "$ROOM/reference.gguf" "$quant" "$type" "$THREADS" >&2
    echo "@ answer"
    LENGTH=128 && answer "$quant"
    echo "@ measure"
    compare "$quant"
    echo "@ time"
    "$TOOLS/llama-bench" -m "$quant" -p 128 -n 32 -r 3 -t "$THREADS" >>"$ROOM/speed.txt"
done

echo "@ release"
"$BIN/python" -c 'import os, huggingface_hub as hub
api = hub.HfApi()
api.create_repo(os.environ["REPO"], exist_ok=True)
api.upload_folder(repo_id=os.environ["REPO"], folder_path=os.environ["ROOM"] + "/release")' >&2
