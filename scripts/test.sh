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

scripts/setup.sh
if [ $# -gt 0 ]; then
    run_suite "$@"
else
    run_suite release
    run_suite asan
fi
