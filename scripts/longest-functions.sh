#!/usr/bin/env bash
# The longest functions of the project, a place to look and not a limit: lines, file, line.
list=$(mktemp)
trap 'rm -f "$list"' EXIT
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
git ls-files '*.c' | grep -v '^tests/' | xargs awk '
    FNR == 1 { start = 0 }
    /^\{/ { start = FNR }
    /^\}/ { if (start) printf "%4d  %s:%d\n", FNR - start - 1, FILENAME, start; start = 0 }' | sort -rn >"$list"
head -n "${1:-10}" "$list"
awk '{ n++; if ($1 <= 15) small++; if ($1 <= 40) screen++ }
    END { printf "%d functions, %d %% at most 15 lines, %d %% at most 40\n", n, 100 * small / n, 100 * screen / n }' "$list"
