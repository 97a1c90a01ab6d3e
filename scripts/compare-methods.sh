#!/usr/bin/env bash
# Perplexity and size of one model under many ways of quantizing it, as a Markdown table.
#
#   scripts/compare-methods.sh MODEL TEXT [CONTEXT]
#
# The decoder's linear layers are quantized; embedding, head and norms are kept. Rows that a group does not divide get one
# scale per row. BITS, GROUPS_TRIED and RANGES in the environment choose what is tried.
set -euo pipefail
model=${1:?usage: scripts/compare-methods.sh MODEL TEXT [CONTEXT]}
text=${2:?usage: scripts/compare-methods.sh MODEL TEXT [CONTEXT]}
context=${3:-256}
tools=$(dirname "${BASH_SOURCE[0]}")/../build/release
PATH=$tools:$PATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The value of a key in the JSON a tool printed: one `"key": value` a line.
value() { sed -nE "s/^ *\"$1\": ([^,]*),?\$/\1/p" <<<"$2" | head -n 1; }
perplexity() { value perplexity "$(nibble-check perplexity "$1" --text "$text" --context "$context" --quiet --json)"; }

base=$(perplexity "$model")
echo "| bits | group | grid | range | bits per quantized weight | bytes | perplexity | change |"
echo "| --- | --- | --- | --- | --- | --- | --- | --- |"
printf '| original | | | | | | %.4f | |\n' "$base"
for bits in ${BITS:-8 6 5 4 3 2}; do
    for group in ${GROUPS_TRIED:-32}; do
        for grid in symmetric asymmetric; do
            for range in ${RANGES:-minmax mse}; do
                asymmetric=()
                [ $grid = asymmetric ] && asymmetric=(--asymmetric)
                made=$(nibble-quantize "$model" "$work/q.nbl" --method rtn --bits "$bits" --group "$group" --range "$range" \
                    "${asymmetric[@]}" --indivisible row --force --quiet --json)
                found=$(perplexity "$work/q.nbl")
                printf '| %d | %s | %s | %s | %.3f | %d | %.4f | %+.2f %% |\n' "$bits" "$group" $grid "$range" \
                    "$(value bits_per_quantized_weight "$made")" "$(value bytes_out "$made")" "$found" \
                    "$(awk -v a="$found" -v b="$base" 'BEGIN { print 100 * (a / b - 1) }')"
            done
        done
    done
done
