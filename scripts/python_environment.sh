#!/usr/bin/env bash
# Makes the virtual environment .venv with exactly the packages of requirements-dev.txt. A stamp
# holds the hash of that file and the interpreter, so that a repeat costs nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=.venv
stamp=$venv/requirements.stamp

if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  echo "The development environment needs Python 3.11 or newer, but python3 is: $(python3 --version 2>&1)" >&2
  exit 1
fi
if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
  echo "$(command -v python3) cannot make virtual environments." \
    "Install its venv module (Debian: sudo apt-get install python3-venv) and run make again." >&2
  exit 1
fi

wanted=$(python3 -c 'import sys; print(sys.version, sys.base_prefix)'; sha256sum requirements-dev.txt)
[[ -f $stamp && $(<"$stamp") == "$wanted" ]] && exit 0

echo "Making the virtual environment $venv"
python3 -m venv --clear "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  --requirement requirements-dev.txt
echo "$wanted" >"$stamp"
