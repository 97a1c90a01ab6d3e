#!/bin/sh
# Run one command-line case: run.sh CASE FOLDER...  (the folders that hold the programs)
#
# A case is a text file. First a comment that says what it shows, then a shell script (run with sh -e in a fresh empty
# folder, the programs in PATH, $SOURCE the source tree), then what must come out of it:
#
#   >>> exit 6        the script's exit code; 0 if left out
#   >>> stdout        all of standard output; nothing if left out
#   >>> stderr        all of standard error; nothing if left out
#
# What differs from run to run, from machine to machine or from version to version (times, memory, kernels, version, file
# sizes, process numbers, errors of calibrated runs) is shown as #. Every case also fails if a temporary file is left
# behind. After a change of texts, UPDATE=1 run.sh ... rewrites the expectations; read the diff before keeping it.
set -u

case_file=$1
shift
SOURCE=$(cd "$(dirname "$0")/../.." && pwd)
export SOURCE LC_ALL=C
for folder in "$@"; do PATH=$folder:$PATH; done
export PATH

temporary=$(mktemp -d)
trap 'chmod -R u+rwx "$temporary"; rm -rf "$temporary"' EXIT
mkdir "$temporary/work"

# Lines of the case from ">>> $1" to the next ">>>".
section() {
    awk -v want=">>> $1" '/^>>> / { on = ($0 == want); next } on' "$case_file"
}

normalize() {
    sed -E -e 's/^(time|peak memory|memory needed|phases|output error|kept as nearest) +.*/\1 #/' \
        -e 's/^(layer [0-9]+\/[0-9]+) .*left$/\1 #/' -e 's/about [0-9.]+ [kMG]?B of memory/about # of memory/' \
        -e 's/"(seconds|peak_memory_bytes|kernels|version|bytes_out)": .*[^,]/"\1": #/' \
        -e 's/^(nibble-[a-z]+) [0-9]+\.[0-9]+\.[0-9]+$/\1 #/' -e 's/\.tmp\.[0-9]+/.tmp.#/g' "$1"
}

sed '/^>>> /,$d' "$case_file" >"$temporary/script"
(cd "$temporary/work" && exec sh -e "$temporary/script") >"$temporary/out" 2>"$temporary/err" </dev/null
code=$?
normalize "$temporary/out" >"$temporary/stdout"
normalize "$temporary/err" >"$temporary/stderr"

if [ "${UPDATE:-}" ]; then
    {
        cat "$temporary/script"
        [ $code -ne 0 ] && echo ">>> exit $code"
        [ -s "$temporary/stdout" ] && echo ">>> stdout" && cat "$temporary/stdout"
        [ -s "$temporary/stderr" ] && echo ">>> stderr" && cat "$temporary/stderr"
        true
    } >"$temporary/case" && cat "$temporary/case" >"$case_file"
fi

failed=0
expected=$(sed -n 's/^>>> exit //p' "$case_file")
if [ "$code" -ne "${expected:-0}" ]; then
    echo "exit code: expected ${expected:-0}, found $code"
    failed=1
fi
for stream in stdout stderr; do
    section $stream >"$temporary/expected"
    diff -u --label "expected $stream" --label "found $stream" "$temporary/expected" "$temporary/$stream" || failed=1
done
left=$(find "$temporary/work" -name '.*.tmp.*')
if [ "$left" ]; then
    echo "temporary files left behind: $left"
    failed=1
fi
exit $failed
