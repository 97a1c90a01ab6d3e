#!/usr/bin/env bash
# The architecture as a test: which folder may include which, which files alone may include an outside library (those
# whose path begins so), and no two files of the same name. The two tables here are the truth; ARCHITECTURE.md explains
# them.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

declare -A allowed=(
    [base]="base"
    [tensor]="base tensor"
    [formats]="base tensor formats"
    [model]="base tensor formats model"
    [convert]="base tensor formats model convert"
    [quantize]="base tensor formats model quantize"
    [prune]="base tensor formats model prune"
    [runtime-check]="base tensor formats model runtime-check"
    [distill]="base tensor formats model distill"
    [tests]="base tensor formats model convert quantize prune runtime-check distill tests"
)
declare -A outside=(
    [zlib.h]="base/file"
    [cblas.h]="tensor/linalg.c"
    [lapacke.h]="tensor/linalg.c"
    [pcre2.h]="model/tokenizer/pattern.c"
    [utf8proc.h]="model/tokenizer/unicode.c"
    [immintrin.h]="tensor/kernels/ base/file_crc.c"
    [CUnit/]="tests/support/"
)

failures=0
complain() { echo "$1"; failures=$((failures + 1)); }

sources=$(find "${!allowed[@]}" -name '*.[ch]' 2>/dev/null | sort)
while IFS=: read -r file line; do
    folder=${file%%/*}
    target=$(sed -E 's/.*"([^"]+)".*/\1/' <<<"$line")
    case " ${allowed[$folder]} " in
        *" ${target%%/*} "*) [ "${target#*/}" != "$target" ] || complain "$file: include \"$target\" from the root" ;;
        *) complain "$file: $folder may not include $target" ;;
    esac
done < <(grep -HE '^ *# *include "' $sources)

for header in "${!outside[@]}"; do
    for file in $(grep -lE "^ *# *include <$header" $sources); do
        may=
        for place in ${outside[$header]}; do
            [[ $file == $place* ]] && may=yes
        done
        [ "$may" ] || complain "$file: only ${outside[$header]} includes <$header>"
    done
done

for name in $(basename -a $sources | grep -v '^main\.c$' | sort | uniq -d); do
    complain "two files are called $name: $(grep "/$name\$" <<<"$sources" | tr '\n' ' ')"
done

[ $failures -eq 0 ] && echo "$(wc -w <<<"$sources") files keep the include rules" || exit 1
