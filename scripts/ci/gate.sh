#!/usr/bin/env bash
# Run nibble-check gate with inputs from the environment, as scripts/ci/action.yml (a GitHub composite action) sets them; it serves
# any other CI as well. Inputs that are not set or empty are left out.
#
#   INPUT_MODEL        the compressed model
#   INPUT_BASE         one of these three: the original model,
#   INPUT_BASE_LOGITS  its stored predictions,
#   INPUT_BASELINE     or an earlier result (JSON)
#   INPUT_TEXT         the text to read
#   INPUT_LIMITS       options of nibble-check gate, separated by blanks: "--max-ppl-increase 2% --max-kld 0.02"
#   INPUT_CONFIDENCE, INPUT_CONTEXT, INPUT_WINDOWS, INPUT_PROTOCOL
#   INPUT_JUNIT        file for the JUnit report
#   INPUT_RESULT       file for the result as JSON, which may be a later run's baseline
#   INPUT_SOURCE       a checkout of nibble, built if nibble-check is not in PATH (needs what its scripts/setup.sh installs)
#
# The exit code is that of nibble-check gate: 0 every check holds, 7 one does not, anything else: it could not be measured.
set -euo pipefail

complain() { echo "gate.sh: $*" >&2; exit 2; }

find_program() {
    if command -v nibble-check >/dev/null; then return; fi
    [ -n "${INPUT_SOURCE:-}" ] || complain "nibble-check is not in PATH, and no source is given to build it from"
    [ -f "$INPUT_SOURCE/CMakeLists.txt" ] || complain "$INPUT_SOURCE: no CMakeLists.txt; the source must be a checkout of nibble"
    local build=$INPUT_SOURCE/build/gate
    cmake -S "$INPUT_SOURCE" -B "$build" -DCMAKE_BUILD_TYPE=Release -DBUILD_TESTING=OFF >&2
    cmake --build "$build" --target nibble-check --parallel >&2
    PATH=$build:$PATH
}

# Only limits may come from the one input that is split at blanks.
add_limits() {
    local words word
    read -r -a words <<<"$(tr '\n' ' ' <<<"${INPUT_LIMITS:-}")"
    for word in "${words[@]}"; do
        case $word in
            --max-ppl-increase | --max-ppl | --max-kld | --max-kld-p99 | --min-top1) ;;
            --max-ppl-increase=* | --max-ppl=* | --max-kld=* | --max-kld-p99=* | --min-top1=*) ;;
            [0-9.]*) ;;
            *) complain "limits: \"$word\" is neither a limit of nibble-check gate nor a number" ;;
        esac
        arguments+=("$word")
    done
}

add_option() { if [ -n "$2" ]; then arguments+=("--$1=$2"); fi; }

[ -n "${INPUT_MODEL:-}" ] || complain "no model is given"
arguments=()
add_limits
add_option base "${INPUT_BASE:-}"
add_option base-logits "${INPUT_BASE_LOGITS:-}"
add_option baseline "${INPUT_BASELINE:-}"
add_option text "${INPUT_TEXT:-}"
add_option confidence "${INPUT_CONFIDENCE:-}"
add_option context "${INPUT_CONTEXT:-}"
add_option windows "${INPUT_WINDOWS:-}"
add_option protocol "${INPUT_PROTOCOL:-}"
add_option junit "${INPUT_JUNIT:-}"
find_program

if [ -z "${INPUT_RESULT:-}" ]; then
    exec nibble-check gate "${arguments[@]}" -- "$INPUT_MODEL"
fi
# The result appears whole or not at all. A model that failed leaves one too: it says by how much.
part=$INPUT_RESULT.part
trap 'rm -f "$part"' EXIT
code=0
nibble-check gate "${arguments[@]}" --json -- "$INPUT_MODEL" >"$part" || code=$?
if [ $code -eq 0 ] || [ $code -eq 7 ]; then
    mv -f "$part" "$INPUT_RESULT"
    sed -nE 's/^ *"(check|limit|value|bound|passed)": (.*[^,]),?$/\1 \2/p' "$INPUT_RESULT"
fi
exit $code
