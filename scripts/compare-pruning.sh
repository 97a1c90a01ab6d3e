#!/usr/bin/env bash
# Perplexity and KL divergence of one model under many ways of pruning single weights, as a Markdown table.
#
#   scripts/compare-pruning.sh MODEL TEXT CALIBRATION [CONTEXT]
#
# In the environment:
#   METHODS       lines "label|options of nibble-prune"; the default is below. An option that holds spaces is quoted as in a shell;
#                 $CALIBRATION and other variables are replaced
#   AMOUNTS       how much goes, each a share or a pattern: 30% 50% 60% 2:4 4:8. Lines with --ratios are left out for patterns, and
#                 below 60%, where they are for
#   WINDOWS       evaluate on the first so many windows only
#   SAMPLES       more options for lines that name CALIBRATION, such as "--samples 64 --sample-length 256"
#   OPTIONS       more options for every line, such as "--bits 4 --group 128"
# All methods of one amount are compared with the original in one run.
set -euo pipefail
usage="usage: scripts/compare-pruning.sh MODEL TEXT CALIBRATION [CONTEXT]"
model=${1:?$usage}
text=${2:?$usage}
CALIBRATION=${3:?$usage}
context=${4:-256}
if [ -z "${METHODS:-}" ]; then
    METHODS=$(cat <<'END'
magnitude|--method magnitude
Wanda|--method wanda --calibration "$CALIBRATION"
RIA|--method ria --calibration "$CALIBRATION"
SparseGPT as published|--method sparsegpt --correction none --polish 0 --calibration "$CALIBRATION"
SparseGPT+residual|--method sparsegpt --polish 0 --calibration "$CALIBRATION"
SparseGPT+polish|--method sparsegpt --correction none --calibration "$CALIBRATION"
SparseGPT|--method sparsegpt --calibration "$CALIBRATION"
Wanda+SparseGPT|--method wanda+sparsegpt --calibration "$CALIBRATION"
Wanda, OWL|--method wanda --ratios owl --calibration "$CALIBRATION"
SparseGPT, OWL|--method sparsegpt --ratios owl --calibration "$CALIBRATION"
END
    )
fi
tools=$(dirname "${BASH_SOURCE[0]}")/../build/release
PATH=${TOOLS:-$tools}:$PATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# prune FILE AMOUNT OPTIONS: the options are a line of METHODS, words as a shell would take them.
prune() {
    local options amount=(--sparsity "$2")
    case $2 in *:*) amount=(--pattern "$2") ;; esac
    eval "options=($3)"
    # shellcheck disable=SC2086
    nibble-prune "$model" "$1" "${amount[@]}" --quiet --json "${options[@]}" ${OPTIONS:-} >"$1.json"
}

# column NAME LINE: a number of the comparison. Counted from the right, because a path on the left may hold a comma.
column() {
    awk -F, -v name="$1" -v line="$2" '
        NR == 1 { for (i = 1; i <= NF; i++) if ($i == name) from_right = NF - i }
        NR == line { print $(NF - from_right) }' "$work/csv"
}

# error FILE: the relative error that nibble-prune reported.
error() { sed -nE 's/^  "relative_error": ([^,]*),?$/\1/p' "$1.json" | head -n 1; }

# One amount: prune by every method, then compare all files in one run. A file is named by its method's number, so the rows of the
# comparison are in the order of the lines.
compare() {
    local amount=$1 labels=() files=() label options i=0
    while IFS='|' read -r label options; do
        case $label in '' | '#'*) continue ;; esac
        case $options in *--ratios*) case $amount in *:* | [1-5]*) continue ;; esac ;; esac
        case $options in *CALIBRATION*) options+=" ${SAMPLES:-}" ;; esac
        prune "$work/$i.nbl" "$amount" "$options"
        labels+=("$label") files+=("$work/$i.nbl")
        i=$((i + 1))
    done <<<"$METHODS"
    nibble-check compare "$model" "${files[@]}" --text "$text" --context "$context" \
        ${WINDOWS:+--windows "$WINDOWS"} --quiet --csv >"$work/csv"
    if [ -z "${headed:-}" ]; then
        headed=yes
        echo "| method | amount | bytes | error | perplexity | KL divergence | its standard error |"
        echo "| --- | --- | --- | --- | --- | --- | --- |"
        printf '| original | | %d | | %.4f | | |\n' "$(column bytes 2)" "$(column perplexity 2)"
    fi
    for i in "${!labels[@]}"; do
        printf '| %s | %s | %d | %.4f | %.4f | %.5f | %.5f |\n' "${labels[i]}" "$amount" "$(column bytes $((i + 3)))" \
            "$(error "${files[i]}")" "$(column perplexity $((i + 3)))" "$(column kld $((i + 3)))" \
            "$(column kld_error $((i + 3)))"
    done
    rm -f "${files[@]}"
}

for amount in ${AMOUNTS:-30% 50% 60% 2:4 4:8}; do
    compare "$amount"
done
