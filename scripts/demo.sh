#!/usr/bin/env bash
# The main job on the model that ships with the project: convert the checkpoint, quantize it with and without calibration, check
# all against the original, and print one table. Installs what is missing and builds first.
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

names=() files=() times=()
# make NAME FILE COMMAND...: run it and remember its row.
make() {
    names+=("$1") files+=("$out/$2")
    shift 2
    step "$@"
    times+=("$seconds")
}
quantize() { local name=$1 file=$2; shift 2; make "$name" "$file" nibble-quantize "$model" "$out/$file" "$@" --force; }

echo "== the main job on $model"
calibrated=(--calibration "$model/calibration.txt" --restart)
make BF16 original.nbl nibble-convert "$model" "$out/original.nbl" --force
quantize INT8 int8.nbl --method rtn --bits 8
quantize INT4 int4.nbl --method rtn --bits 4
quantize GPTQ4 gptq4.nbl "${calibrated[@]}" --bits 4
quantize INT3 int3.nbl --method rtn --bits 3
quantize GPTQ3 gptq3.nbl "${calibrated[@]}" --bits 3
quantize MIXED mixed.nbl "${calibrated[@]}" --target-bits 3.5
quantize SMALL small.nbl "${calibrated[@]}" --target-bits 3.5 --embedding 4
for file in "${files[@]}"; do step nibble-check verify "$file"; done
echo "+ nibble-check compare $model ${files[*]} --text $text"
nibble-check compare "$model" "${files[@]}" --text "$text" --csv --quiet >"$out/compare.csv"

echo
printf '%-9s %11s %15s %9s %11s %9s %14s %8s\n' file bits/weight bits/quantized bytes perplexity change "KL divergence" seconds
printf '%-9s %11s %15s %9s %11s %9s %14s %8s\n' --------- ----------- -------------- -------- ---------- ------- ------------- -------
# A number of a line of the comparison.
column() {
    awk -F, -v name="$1" -v line="$2" '
        NR == 1 { for (i = 1; i <= NF; i++) if ($i == name) at = i }
        NR == line { print $at }' "$out/compare.csv"
}
base=$(column perplexity 2)
row() { # NAME FILE LINE SECONDS
    local inspect quantized change=- divergence=-
    inspect=$(nibble-check inspect "$2" --json)
    quantized=$(value bits_per_quantized_weight "$inspect")
    [ "${quantized%%.*}" = 0 ] && quantized=-
    if [ "$3" -gt 2 ]; then
        change=$(awk -v a="$(column perplexity "$3")" -v b="$base" 'BEGIN { printf "%+.2f %%", 100 * (a / b - 1) }')
        divergence=$(printf '%.5f' "$(column kld "$3")")
    fi
    [ "$quantized" = - ] || quantized=$(printf '%.3f' "$quantized")
    printf '%-9s %11.3f %15s %9d %11.4f %9s %14s %8s\n' "$1" "$(value bits_per_weight "$inspect")" \
        "$quantized" "$(value bytes "$inspect")" "$(column perplexity "$3")" \
        "$change" "$divergence" "$4"
}
row original "$model" 2 -
for i in "${!names[@]}"; do row "${names[i]}" "${files[i]}" $((i + 3)) "${times[i]}"; done
echo
echo "INT: rounded to nearest; GPTQ: calibrated on $model/calibration.txt. MIXED: bits chosen for 3.5 on average."
echo "SMALL: the same, and the embedding at 4 bits. KL divergence to the original's predictions, nats per token."
echo "The files are in $out. Try: build/release/nibble-check generate $out/gptq4.nbl --prompt 'It was a'"
