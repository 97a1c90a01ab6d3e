#!/usr/bin/env bash
# How long converting and quantizing takes, beside a peer and beside what the machine's memory and disk allow, in one run.
#
#   scripts/bench-quantize.sh WORK [RUNS]
#
# WORK is a folder with room for about 6 GB; the synthetic 1.1-billion-weight checkpoint is made there once
# (scripts/make-synthetic.py, needs python3-numpy). Runs of all contestants alternate, so that a drifting machine meets them all.
# Environment: THREADS (2); PEER and PEER_MODEL: a llama-quantize program and the same model as F16 GGUF, to run it beside.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
work=${1:?usage: scripts/bench-quantize.sh WORK [RUNS]}
runs=${2:-5}
threads=${THREADS:-2}
tools=build/release
command -v /usr/bin/time >/dev/null || { echo "needs GNU time (package: time)" >&2; exit 1; }
[ -x $tools/nibble-quantize ] || { echo "build first: scripts/test.sh" >&2; exit 1; }
model=$work/synthetic-1.1b
[ -d "$model" ] || python3 scripts/make-synthetic.py "$model"
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT

# measure NAME COMMAND...: append "wall-seconds peak-kilobytes" to results/NAME
measure() {
    local name=$1
    shift
    /usr/bin/time -f '%e %M' -o "$results/.last" "$@" >/dev/null 2>"$results/errors" || { cat "$results/errors" >&2; exit 1; }
    tail -n 1 "$results/.last" >>"$results/$name"
}

cat "$model"/*.safetensors >/dev/null # into the page cache, for everyone
for ((run = 0; run <= runs; run++)); do
    measure "nibble INT4" $tools/nibble-quantize "$model" "$work/int4.nbl" --method rtn --bits 4 --group 32 \
        --embedding 4 --head 6 --threads "$threads" --force --quiet
    measure "nibble convert" $tools/nibble-convert "$model" "$work/f16.nbl" --threads "$threads" --force --quiet
    measure "nibble INT4 of .nbl" $tools/nibble-quantize "$work/f16.nbl" "$work/int4.nbl" --method rtn --bits 4 --group 32 \
        --embedding 4 --head 6 --threads "$threads" --force --quiet
    if [ -n "${PEER:-}" ]; then
        measure "peer Q4_0" "$PEER" "$PEER_MODEL" "$work/peer.gguf" q4_0 "$threads"
    fi
    size=$(stat -c %s "$work/int4.nbl")
    measure "limit: read all" cat "$model"/*.safetensors
    measure "limit: write+fsync" dd if=/dev/zero of="$work/zero" bs=4M count=$((size >> 22)) conv=fsync
    if [ $run -eq 0 ]; then rm -f "$results"/[nlp]*; fi # the first round is a warm-up
done
rm -f "$work/zero"

echo "$threads threads, $runs runs, $(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2- | sed 's/^ //')"
printf '%-22s %9s %9s %9s %12s\n' command "median s" "min s" "max s" "peak MB"
for file in "$results"/[nlp]*; do
    sort -n "$file" | awk -v name="$(basename "$file")" '
        { wall[NR] = $1; if ($2 > peak) peak = $2 }
        END { printf "%-22s %9.2f %9.2f %9.2f %12.1f\n", name, wall[int((NR + 1) / 2)], wall[1], wall[NR], peak * 1024 / 1e6 }'
done
ls -l "$work"/int4.nbl ${PEER:+"$work"/peer.gguf} | awk '{ print $NF ": " $5 " bytes" }'
