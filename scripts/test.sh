#!/usr/bin/env bash
# Install what is missing, build, and run every test.
#   scripts/test.sh              the release build, then the same suite under the address and undefined-behaviour
#                                sanitizers, as CI runs it
#   scripts/test.sh PRESET ARGS  one preset of CMakePresets.json (release, debug, asan, tsan); ARGS go to ctest (-R name,
#                                -L label, -V ...)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
cores=$(nproc)

run_suite() {
    local preset=$1 log
    shift
    log=$(mktemp)
    echo "== building (preset $preset)"
    cmake --preset "$preset" >"$log" 2>&1 || { cat "$log" >&2; rm -f "$log"; exit 1; }
    rm -f "$log"
    cmake --build --preset "$preset" -j "$cores"
    echo "== testing (preset $preset)"
    ctest --preset "$preset" -j "$cores" "$@"
}

# Some containers forbid what the sanitizers need (ptrace for leaks, a large address space).
sanitizers_run() {
    local folder result=0
    folder=$(mktemp -d)
    echo 'int main(void) { return 0; }' >"$folder/probe.c"
    cc -fsanitize=address,undefined "$folder/probe.c" -o "$folder/probe" && "$folder/probe" || result=1
    rm -rf "$folder"
    return $result
}

scripts/setup.sh
if [ $# -gt 0 ]; then
    run_suite "$@"
else
    run_suite release
    if sanitizers_run; then
        run_suite asan
    else
        echo "== LEFT OUT: the suite under sanitizers, which do not run on this machine"
    fi
fi
