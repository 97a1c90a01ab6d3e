#!/usr/bin/env bash
# The main job on the model that ships with the project: convert the checkpoint, quantize it by every method at 8, 4, 3 and 2 bits,
# check all files, compare them with the original, and show the result as one table and one HTML page. Installs what is missing and
# builds first. About two minutes on two quiet cores, building not counted.
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

bits=(8 4 3 2)
steps=$((3 + 3 * ${#bits[@]} + 2)) # the original, MIXED, SMALL; three methods; verify, compare
number=0
begun=$SECONDS

# Run a command, showing it (or `shown`) and which of all steps it is; `seconds` receives its wall time. On a terminal the tool
# shows its progress.
step() {
    local start
    start=$(date +%s.%N)
    number=$((number + 1))
    printf '[%2d/%d] %s\n' "$number" "$steps" "${shown:-$*}"
    if [ -t 2 ]; then "$@" >"$out/report.txt"; else "$@" --quiet >"$out/report.txt"; fi
    seconds=$(awk -v a="$start" -v b="$(date +%s.%N)" 'BEGIN { printf "%.2f", b - a }')
}

names=() files=() times=()
# make NAME COMMAND...: run it; it writes the file of that name in lower case. Remember its row.
make() {
    names+=("$1") files+=("$out/${1,,}.nbl")
    shift
    step "$@"
    times+=("$seconds")
}
quantize() { make "$1" nibble-quantize "$model" "$out/${1,,}.nbl" "${@:2}" --force; }
verify_all() { for file in "${files[@]}"; do nibble-check verify "$file" "$@"; done; }

echo "== the main job on $model"
calibrated=(--calibration "$model/calibration.txt" --restart)
make BF16 nibble-convert "$model" "$out/bf16.nbl" --force
for width in "${bits[@]}"; do
    quantize "RTN$width" --method rtn --bits "$width"
    quantize "AWQ$width" --method awq "${calibrated[@]}" --bits "$width"
    quantize "GPTQ$width" --method gptq "${calibrated[@]}" --bits "$width"
done
quantize MIXED "${calibrated[@]}" --target-bits 3.5
quantize SMALL "${calibrated[@]}" --target-bits 3.5 --embedding 4
list=$out/{$(IFS=,; echo "${names[*],,}")}.nbl # as a shell would take it
shown="nibble-check verify, each of $list" step verify_all
shown="nibble-check compare $model $list --text $text --csv --html $out/compare.html" \
    step nibble-check compare "$model" "${files[@]}" --text "$text" --csv --html "$out/compare.html" --force
mv "$out/report.txt" "$out/compare.csv"

# The value of a key in the JSON a tool printed: one `"key": value` a line.
value() { sed -nE "s/^ *\"$1\": ([^,]*),?\$/\1/p" <<<"$2" | head -n 1; }
# A number of a line of the comparison. Counted from the right, because a path on the left may hold a comma.
column() {
    awk -F, -v name="$1" -v line="$2" '
        NR == 1 { for (i = 1; i <= NF; i++) if ($i == name) from_right = NF - i }
        NR == line { print $(NF - from_right) }' "$out/compare.csv"
}

layout='%-8s %11s %9s %8s %10s %8s %20s %8s %7s\n'
echo
printf "$layout" file bits/weight quantized bytes perplexity change "KL divergence" "same top" seconds
printf "$layout" -------- ----------- --------- -------- ---------- -------- -------------------- -------- -------
row() { # NAME FILE LINE SECONDS
    local inspect quantized change=- divergence=- same=-
    inspect=$(nibble-check inspect "$2" --json)
    quantized=$(value bits_per_quantized_weight "$inspect")
    case $quantized in 0 | 0.*) quantized=- ;; *) quantized=$(printf '%.3f' "$quantized") ;; esac
    if [ "$3" -gt 2 ]; then
        change=$(awk -v a="$(column perplexity "$3")" -v b="$base" 'BEGIN { printf "%+.2f %%", 100 * (a / b - 1) }')
        divergence=$(awk -v a="$(column kld "$3")" -v b="$(column kld_error "$3")" 'BEGIN { printf "%.6f +- %.6f", a, b }')
        same=$(awk -v a="$(column same_top "$3")" 'BEGIN { printf "%.2f %%", 100 * a }')
    fi
    printf "$layout" "$1" "$(printf '%.3f' "$(value bits_per_weight "$inspect")")" "$quantized" \
        "$(value bytes "$inspect")" "$(printf '%.4f' "$(column perplexity "$3")")" "$change" "$divergence" "$same" "$4"
}
base=$(column perplexity 2)
row original "$model" 2 -
for i in "${!names[@]}"; do row "${names[i]}" "${files[i]}" $((i + 3)) "${times[i]}"; done
cat <<END

RTN: rounded to nearest. AWQ, GPTQ: calibrated on $model/calibration.txt. MIXED: GPTQ, bits chosen for 3.5 on
average. SMALL: the same, and the embedding at 4 bits. bits/weight is of the whole file, quantized of the quantized
weights alone. KL divergence to the original's predictions: nats per token, and its standard error.

The same as a page, with figures: $out/compare.html (open it in any browser).
The files are in $out. Try: build/release/nibble-check generate $out/gptq4.nbl --prompt 'It was a'
Done in $((SECONDS - begun)) s.
END
