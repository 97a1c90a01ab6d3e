#!/usr/bin/env bash
# Install what is missing, build, and run every test.
#   scripts/test.sh              the release build, as CI runs it
#   scripts/test.sh asan         the same suite under the address and undefined-behaviour sanitizers
#   scripts/test.sh PRESET ARGS  any preset of CMakePresets.json; ARGS go to ctest (-R name, -L label, -V ...)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

preset=${1:-release}
[ $# -gt 0 ] && shift
cores=$(nproc)

scripts/setup.sh
echo "== building (preset $preset)"
cmake --preset "$preset" >build-configure.log 2>&1 || { cat build-configure.log >&2; rm -f build-configure.log; exit 1; }
rm -f build-configure.log
cmake --build --preset "$preset" -j "$cores"
echo "== testing"
ctest --preset "$preset" -j "$cores" "$@"
