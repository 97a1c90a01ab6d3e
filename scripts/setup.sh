#!/usr/bin/env bash
# Install what building and testing needs, if it is missing. Debian 12 (and its relatives); needs root only when something
# is missing. Quiet when there is nothing to do.
set -euo pipefail

packages=(gcc g++ cmake ninja-build pkg-config zlib1g-dev libopenblas-dev liblapacke-dev libpcre2-dev libutf8proc-dev
    libcunit1-dev python3)

missing=()
for package in "${packages[@]}"; do
    # a tool counts as present wherever it comes from; a library must be the package
    case $package in
        gcc | g++ | cmake | pkg-config | python3) command -v "$package" >/dev/null && continue ;;
        ninja-build) command -v ninja >/dev/null && continue ;;
    esac
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

echo "== installing: ${missing[*]}"
if ! command -v apt-get >/dev/null; then
    echo "setup.sh: this system has no apt-get; install the equivalents of: ${missing[*]}" >&2
    exit 1
fi
sudo=
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { echo "setup.sh: run as root, or install: ${missing[*]}" >&2; exit 1; }
    sudo=sudo
fi
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for attempt in 1 2 3; do
    if $sudo apt-get -qq update >"$log" 2>&1 &&
        $sudo apt-get -qq -y install --no-install-recommends "${missing[@]}" >>"$log" 2>&1; then
        exit 0
    fi
    echo "== apt-get failed (attempt $attempt of 3)"
    sleep 5
done
tail -n 20 "$log" >&2
exit 1
