#!/usr/bin/env bash
# How long the steps of GPTQ take for one layer, beside what BLAS and LAPACK take for the same arithmetic in the same run.
#
#   scripts/bench-gptq.sh [OPTIONS]
#
# Without options: 4096 x 4096 and then 4096 x 11008 weights, 32 x 512 tokens (about 2 and 10 minutes on two cores; 3 GB).
# Options go to build/release/tests/bench-layer, which runs once then: --rows N, --cols N, --tokens N, --repeats N (3),
# --bits N (4), --group N (128), --type T (blocks of GGUF instead: q4_k ...), --threads N (all), --no-extras (only what has a
# floor).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
log=$(mktemp)
trap 'rm -f "$log"' EXIT
{ cmake --preset release && cmake --build --preset release --target bench-layer; } >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
bench=build/release/tests/bench-layer
if [ $# -gt 0 ]; then
    exec "$bench" "$@"
fi
grep -m1 'model name' /proc/cpuinfo | cut -d: -f2- | sed 's/^ //'
"$bench"
echo
"$bench" --cols 11008
