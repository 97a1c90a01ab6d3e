#!/usr/bin/env bash
# Prune a model, quantize what is left on its own activations, and say what each step cost, in one report.
#
#   scripts/pipeline.sh MODEL CALIBRATION TEXT OUT
#
# Makes in the folder OUT
#   pruned.nbl       MODEL, pruned
#   quantized.nbl    pruned.nbl, quantized with a calibration of its own
#   direct.nbl       MODEL, quantized alike without being pruned: what the same codes cost without pruning
#   report.md        bytes, perplexity, KL divergence from MODEL, speed and memory of each
# What is there already and was made by the same options is used again, so that a run that was stopped goes on (both tools continue
# their own journals).
#
# In the environment:
#   PRUNE      options of nibble-prune     (--method flap --sparsity 20%)
#   QUANTIZE   options of nibble-quantize  (--bits 4 --group 32)
#   SAMPLES    options of both             (none; for instance --samples 64)
#   WINDOWS    judge on the first so many windows of TEXT only
#   CONTEXT    tokens per window           (the model's, at most 2048)
#   TOKENS     tokens generated to time    (64)
set -euo pipefail
usage="usage: scripts/pipeline.sh MODEL CALIBRATION TEXT OUT"
model=${1:?$usage} calibration=${2:?$usage} text=${3:?$usage} out=${4:?$usage}
read -ra prune <<<"${PRUNE:---method flap --sparsity 20%}"
read -ra quantize <<<"${QUANTIZE:---bits 4 --group 32}"
read -ra samples <<<"${SAMPLES:-}"
tools=$(dirname "${BASH_SOURCE[0]}")/../build/release
PATH=${TOOLS:-$tools}:$PATH
mkdir -p "$out"

# make FILE COMMAND...: run the command that writes FILE, unless the same one has written it.
make() {
    local file=$1
    shift
    if [ -e "$file" ] && [ "$(cat "$file.command" 2>/dev/null)" = "$*" ]; then
        echo "$file: there already"
        return
    fi
    echo "\$ $*"
    rm -f "$file" "$file.command"
    "$@"
    echo "$*" >"$file.command"
}

make "$out/pruned.nbl" nibble-prune "$model" "$out/pruned.nbl" "${prune[@]}" --calibration "$calibration" "${samples[@]}"
make "$out/quantized.nbl" nibble-quantize "$out/pruned.nbl" "$out/quantized.nbl" "${quantize[@]}" --calibration "$calibration" \
    "${samples[@]}"
make "$out/direct.nbl" nibble-quantize "$model" "$out/direct.nbl" "${quantize[@]}" --calibration "$calibration" "${samples[@]}"

made=("$out/pruned.nbl" "$out/quantized.nbl" "$out/direct.nbl")
{
    echo "# $(basename "$model"): pruned by ${prune[*]}, quantized by ${quantize[*]}"
    echo
    nibble-check compare "$model" "${made[@]}" --text "$text" ${CONTEXT:+--context "$CONTEXT"} \
        ${WINDOWS:+--windows "$WINDOWS"} --markdown --quiet
    echo
    echo '```'
    nibble-check bench "$model" "${made[@]}" --prompt-tokens 64 --tokens "${TOKENS:-64}" --repeats 3 --quiet
    echo '```'
} >"$out/report.tmp"
mv "$out/report.tmp" "$out/report.md"
cat "$out/report.md"
