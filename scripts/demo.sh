#!/usr/bin/env bash
# The main job on the model that ships with the project: convert the checkpoint, quantize it to INT8 and INT4, check all
# against the original, and print one table. Installs what is missing and builds first.
#   scripts/demo.sh [FOLDER]     where the files go (default: build/demo)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/setup.sh
echo "== building"
cmake --preset release >/dev/null
cmake --build --preset release -j "$(nproc)" --target nibble-convert nibble-quantize nibble-check | tail -n 1
PATH=$PWD/build/release:$PATH
model=models/folio-4M
text=$model/eval.txt
out=${1:-build/demo}
mkdir -p "$out"

# Run a command, showing it; `seconds` receives its wall time.
step() {
    echo "+ $*"
    local start
    start=$(date +%s.%N)
    "$@" --quiet >/dev/null
    seconds=$(awk -v a="$start" -v b="$(date +%s.%N)" 'BEGIN { printf "%.2f", b - a }')
}
# The value of a key in the JSON a tool printed: one `"key": value` a line.
value() { sed -nE "s/^ *\"$1\": ([^,]*),?\$/\1/p" <<<"$2" | head -n 1; }

rows=()
# Check a file and remember its row: name, path, seconds it took to make.
check() {
    local name=$1 path=$2 made=$3 perplexity inspect
    echo "+ nibble-check perplexity $path --text $text"
    perplexity=$(nibble-check perplexity "$path" --text "$text" --quiet --json)
    inspect=$(nibble-check inspect "$path" --json)
    rows+=("$name $(value bits_per_weight "$inspect") $(value bits_per_quantized_weight "$inspect") \
$(value bytes "$inspect") $(value perplexity "$perplexity") $made")
}

echo "== the main job on $model"
check original "$model" -
step nibble-convert "$model" "$out/original.nbl" --force
check BF16 "$out/original.nbl" "$seconds"
step nibble-quantize "$model" "$out/int8.nbl" --method rtn --bits 8 --group 32 --force
check INT8 "$out/int8.nbl" "$seconds"
step nibble-quantize "$model" "$out/int4.nbl" --method rtn --bits 4 --group 32 --force
check INT4 "$out/int4.nbl" "$seconds"
step nibble-quantize "$model" "$out/int4-small.nbl" --method rtn --bits 4 --group 32 --range mse --embedding 8 --force
check INT4+E8 "$out/int4-small.nbl" "$seconds"
for file in original int8 int4 int4-small; do step nibble-check verify "$out/$file.nbl"; done

echo
printf '%s\n' "${rows[@]}" | awk '
    BEGIN {
        printf "%-9s %11s %15s %10s %11s %9s %8s\n", "file", "bits/weight", "bits/quantized", "bytes", "perplexity", "change", "seconds"
        printf "%-9s %11s %15s %10s %11s %9s %8s\n", "---------", "-----------", "--------------", "---------", "----------", "-------", "-------"
    }
    NR == 1 { base = $5 }
    {
        change = NR == 1 ? "-" : sprintf("%+.2f %%", 100 * ($5 / base - 1))
        quantized = $3 > 0 ? sprintf("%.3f", $3) : "-"
        printf "%-9s %11.3f %15s %10d %11.4f %9s %8s\n", $1, $2, quantized, $4, $5, change, $6
    }'
echo
echo "INT4+E8: ranges searched for the least squared error, and the embedding at 8 bits."
echo "The files are in $out. Try: build/release/nibble-check generate $out/int4.nbl --prompt 'It was a'"
