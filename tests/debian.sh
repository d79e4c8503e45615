#!/usr/bin/env bash
# Debian's Chromium and Prometheus, unpacked into .venv/debian for the tests: no root, no service. What cannot be had is
# said, and the tests that need it are skipped. Called by `make test`; again is quick and changes nothing.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

folder="$PWD/.venv/debian"
declare -A programs=([chromium]=usr/lib/chromium/chromium [prometheus]=usr/bin/promtool)
missing=()
for package in "${!programs[@]}"; do
  [ -x "$folder/${programs[$package]}" ] || command -v "${programs[$package]##*/}" >/dev/null || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0
unpack() { dpkg --fsys-tarfile "$1" | tar -x -C "$folder" --exclude ./usr/share; }
without() { echo "tests: no $1: $2; the tests that need it are skipped" >&2; }
command -v apt-get >/dev/null && command -v dpkg >/dev/null || { without "${missing[*]}" "no apt here"; exit 0; }

# Package lists and downloads in folders of our own, which needs no root; what Debian has installed is not downloaded.
work="$(mktemp -d)" && trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$folder"
own=(-o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache" -o APT::Sandbox::User= -o Debug::NoLocking=1)
apt-get update --quiet "${own[@]}" >"$work/log" 2>&1
for package in "${missing[@]}"; do
  rm -f "$work"/cache/archives/*.deb
  if apt-get install --quiet --yes --no-install-recommends --download-only "${own[@]}" "$package" >"$work/log" 2>&1 &&
    for file in "$work"/cache/archives/*.deb; do unpack "$file" || break; done &&
    [ -x "$folder/${programs[$package]}" ]; then
    echo "tests: Debian's $package is in .venv/debian" >&2
  else
    without "$package" "$(tail -n 1 "$work/log")"
  fi
done
