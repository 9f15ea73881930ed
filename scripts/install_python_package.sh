#!/usr/bin/env bash
# Installs the Python package into .venv, building its extension in build/wheel. A stamp holds the
# hash of everything that goes into it, so that a repeat without changes builds nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

stamp=.venv/saccade.stamp
wanted=$(
  find CMakeLists.txt pyproject.toml README.md LICENSE cmake include python src tools \
    -name __pycache__ -prune -o -type f -print0 | sort --zero-terminated | xargs --null sha256sum
  cat .venv/requirements.stamp
)
[[ -f $stamp && $(<"$stamp") == "$wanted" ]] && exit 0

echo "Installing the Python package into .venv"
rm -f "$stamp"
# The compiler of build/cpu: Python would choose its own name for it, and ccache would miss.
CXX=${CXX:-c++} .venv/bin/python -m pip install --quiet --disable-pip-version-check \
  --no-build-isolation --no-deps .
echo "$wanted" >"$stamp"
