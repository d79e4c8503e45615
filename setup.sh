#!/usr/bin/env bash
# One-time set-up into .venv, so that .venv/bin/tandem is the command. Running it again is quick and changes nothing.
#
#   ./setup.sh            finds a GPU and adds the `gpu` extra; without one, a CPU-only torch
#   PYTHON=python3.12 ./setup.sh
#   TANDEM_DEVICE=cpu ./setup.sh     leave the GPU out of it (or `gpu`, to insist)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

python="${PYTHON:-python3}"
fail() { echo "setup: $1 -> $2" >&2; exit 1; }

command -v "$python" >/dev/null || fail "no $python" "install Python 3.11 or 3.12, or set PYTHON"
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' \
  || fail "$("$python" --version) will not do" "install Python 3.11 or 3.12, or set PYTHON"

device="${TANDEM_DEVICE:-}"
if [ -z "$device" ]; then
  if nvidia-smi -L 2>/dev/null | grep -q '^GPU'; then device=gpu; else device=cpu; fi
fi
case "$PWD" in *" "*) fail "Ray cannot start from '$PWD', whose path has a space in it" "move the checkout" ;; esac
case "$device" in cpu | gpu) ;; *) fail "TANDEM_DEVICE is '$device'" "cpu or gpu" ;; esac

# What the set-up depends on; the same again means that there is nothing to do.
wanted="$device $(cat pyproject.toml constraints-cpu.txt setup.sh | sha256sum | cut -d' ' -f1) $PWD"
stamp=.venv/tandem-setup
if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && .venv/bin/python -c '' 2>/dev/null; then
  exit 0
fi

echo "setup: ${device^^} build into .venv; the first time takes minutes" >&2
[ -x .venv/bin/python ] || "$python" -m venv .venv || fail "no virtual environment" "install python3-venv"
pip=(.venv/bin/python -m pip --disable-pip-version-check)
export PIP_PROGRESS_BAR=off

if [ "$device" = gpu ]; then
  "${pip[@]}" install --quiet --editable '.[gpu,dev]'
else
  # PyPI's torch for Linux carries CUDA; its CPU builds are in PyTorch's own index, unless pip finds one already.
  source=()
  "${pip[@]}" index versions torch 2>/dev/null | grep -q '2\.13\.0+cpu' \
    || source=(--extra-index-url https://download.pytorch.org/whl/cpu)
  "${pip[@]}" install --quiet --constraint constraints-cpu.txt "${source[@]}" torch
  "${pip[@]}" install --quiet --constraint constraints-cpu.txt --editable '.[dev]'
fi
.venv/bin/tandem --version >&2
echo "$wanted" > "$stamp"
