#!/usr/bin/env bash
# Debian's Prometheus, unpacked into .venv/debian for the tests: no service, no root. Where that cannot be done, it says
# so and the tests that need it are skipped. Called by `make test`; again is quick and changes nothing.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

folder=.venv/debian
[ -x "$folder/usr/bin/prometheus" ] && [ -x "$folder/usr/bin/promtool" ] && exit 0
command -v prometheus >/dev/null && command -v promtool >/dev/null && exit 0
without() { echo "prometheus: $1; the tests of what Prometheus reads are skipped" >&2; exit 0; }
command -v apt-get >/dev/null && command -v dpkg >/dev/null || without "no apt here; put prometheus and promtool on PATH"

work="$(mktemp -d)" && trap 'rm -rf "$work"' EXIT
download() { (cd "$work" && apt-get download --quiet "$@" prometheus >"$work/log" 2>&1); }
if ! download; then  # the package lists are missing or old: fetch them into a folder of our own, which needs no root
  mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
  lists=(-o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache" -o "APT::Sandbox::User=")
  apt-get update --quiet "${lists[@]}" >"$work/log" 2>&1 && download "${lists[@]}" \
    || without "apt-get download prometheus: $(tail -n 1 "$work/log")"
fi
mkdir -p "$folder"
dpkg -x "$work"/prometheus_*.deb "$folder" || without "dpkg could not unpack it"
"$folder/usr/bin/promtool" --version | head -n 1 >&2
