#!/usr/bin/env bash
# Perplexity and KL divergence of one model under many ways of quantizing it, as a Markdown table.
#
#   scripts/compare-methods.sh MODEL TEXT [CONTEXT]
#
# The decoder's linear layers are quantized; embedding, head and norms are kept. Rows that a group does not divide get one
# scale per row. In the environment:
#   METHODS       lines "label|options of nibble-quantize"; the default is below. An option that holds spaces is quoted as in a
#                 shell; $CALIBRATION and other variables are replaced
#   CALIBRATION   the text that lines of calibrated methods name; such lines are left out while it is not set
#   BITS          8 6 5 4 3 2
#   GROUPS_TRIED  32
#   WINDOWS       evaluate on the first so many windows only
#   SAMPLES       more options for lines that name CALIBRATION, such as "--samples 64 --sample-length 256"
# All methods of one width and group are compared with the original in one run. The last two columns say which part of the first
# line's loss a method avoids: of its increase in perplexity, and of its KL divergence.
set -euo pipefail
model=${1:?usage: scripts/compare-methods.sh MODEL TEXT [CONTEXT]}
text=${2:?usage: scripts/compare-methods.sh MODEL TEXT [CONTEXT]}
context=${3:-256}
if [ -z "${METHODS:-}" ]; then
    METHODS=$(cat <<'END'
RTN|--method rtn
RTN+search|--method rtn --range mse
RTN, zero-points|--method rtn --asymmetric
RTN+search, zero-points|--method rtn --asymmetric --range mse
RTN+weighted search|--method rtn --range hessian --calibration "$CALIBRATION"
AWQ|--method awq --calibration "$CALIBRATION"
GPTQ as published|--method gptq-plain --calibration "$CALIBRATION"
GPTQ+search|--method gptq-plain --range hessian --calibration "$CALIBRATION"
GPTQ+search+inputs|--method gptq-plain --range hessian --correction inputs --calibration "$CALIBRATION"
GPTQ+search+residual|--method gptq-plain --range hessian --correction residual --calibration "$CALIBRATION"
GPTQ|--method gptq --calibration "$CALIBRATION"
AWQ+GPTQ|--method awq+gptq --calibration "$CALIBRATION"
END
    )
fi
tools=$(dirname "${BASH_SOURCE[0]}")/../build/release
PATH=$tools:$PATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The value of a key in the JSON a tool printed: one `"key": value` a line.
value() { sed -nE "s/^ *\"$1\": ([^,]*),?\$/\1/p" <<<"$2" | head -n 1; }

# quantize FILE BITS GROUP OPTIONS: the options are a line of METHODS, words as a shell would take them. Prints the bits per
# quantized weight.
quantize() {
    local options made
    eval "options=($4)"
    made=$(nibble-quantize "$model" "$1" --bits "$2" --group "$3" --indivisible row --quiet --json "${options[@]}") || return
    value bits_per_quantized_weight "$made"
}

# One width and group: quantize by every method, then compare all files in one run. A file is named by its method's number, so
# the rows of the comparison are in the order of the lines.
compare() {
    local bits=$1 group=$2 labels=() sizes=() files=() label options i=0 size
    while IFS='|' read -r label options; do
        case $label in '' | '#'*) continue ;; esac
        case $options in *CALIBRATION*) [ -n "${CALIBRATION:-}" ] || continue ;; esac
        case $options in *CALIBRATION*) options+=" ${SAMPLES:-}" ;; esac
        size=$(quantize "$work/$i.nbl" "$bits" "$group" "$options")
        labels+=("$label") sizes+=("$size") files+=("$work/$i.nbl")
        i=$((i + 1))
    done <<<"$METHODS"
    [ $i -gt 0 ] || { echo "no method to try: every line of METHODS needs CALIBRATION" >&2; exit 2; }
    nibble-check compare "$model" "${files[@]}" --text "$text" --context "$context" \
        ${WINDOWS:+--windows "$WINDOWS"} --quiet --csv >"$work/csv"
    if [ -z "${headed:-}" ]; then
        headed=yes
        echo "| method | bits | group | bits per quantized weight | perplexity | KL divergence | perplexity recovered | KLD recovered |"
        echo "| --- | --- | --- | --- | --- | --- | --- | --- |"
        printf '| original | | | | %.4f | | | |\n' "$(column perplexity 2)"
    fi
    for i in "${!labels[@]}"; do
        printf '| %s | %d | %s | %.3f | %.4f | %.5f | %s | %s |\n' "${labels[i]}" "$bits" "$group" "${sizes[i]}" \
            "$(column perplexity $((i + 3)))" "$(column kld $((i + 3)))" \
            "$(recovered perplexity $((i + 3)) "$(column perplexity 2)")" "$(recovered kld $((i + 3)) 0)"
    done
    rm -f "${files[@]}"
}

# recovered NAME LINE BEST: how far a number has come from the first method's towards the best, in percent.
recovered() {
    awk -v first="$(column "$1" 3)" -v here="$(column "$1" "$2")" -v best="$3" \
        'BEGIN { if (first > best) printf "%.0f %%", 100 * (first - here) / (first - best) }'
}

# column NAME LINE: a number of the comparison. Counted from the right, because a path on the left may hold a comma.
column() {
    awk -F, -v name="$1" -v line="$2" '
        NR == 1 { for (i = 1; i <= NF; i++) if ($i == name) from_right = NF - i }
        NR == line { print $(NF - from_right) }' "$work/csv"
}

for bits in ${BITS:-8 6 5 4 3 2}; do
    for group in ${GROUPS_TRIED:-32}; do
        compare "$bits" "$group"
    done
done
