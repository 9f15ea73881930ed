#!/usr/bin/env bash
# Makes sure that the Debian packages the build needs, and those given as arguments, are installed:
# installs what is missing as root or with passwordless sudo, else says what is missing and how to
# get it.
set -euo pipefail

packages=(
  ccache
  cmake
  g++
  git
  libcli11-dev
  libfmt-dev
  libgtest-dev
  libhwy-dev
  ninja-build
  nlohmann-json3-dev
  python3-venv
  "$@"
)

if ! command -v dpkg-query >/dev/null; then
  echo "Not a Debian system: expecting the equivalents of ${packages[*]} to be installed."
  exit 0
fi

# A package may be there for several architectures; one without a name of its own is meant for this
# machine.
is_installed() {
  local architecture=${1#*:}
  [[ $1 == *:* ]] || architecture=$(dpkg --print-architecture)
  dpkg-query --show --showformat='${Architecture} ${db:Status-Status}\n' "$1" 2>/dev/null |
    grep --quiet --line-regexp --extended-regexp "($architecture|all) installed"
}

missing=()
for package in "${packages[@]}"; do
  is_installed "$package" || missing+=("$package")
done
((${#missing[@]} > 0)) || exit 0

as_root=()
if ((EUID != 0)); then
  if ! sudo --non-interactive true 2>/dev/null; then
    {
      echo "These system packages are missing: ${missing[*]}"
      echo "Install them with"
      [[ " ${missing[*]} " != *:arm64\ * ]] || echo "  sudo dpkg --add-architecture arm64"
      echo "  sudo apt-get update && sudo apt-get install --no-install-recommends ${missing[*]}"
      echo "and run make again."
    } >&2
    exit 1
  fi
  as_root=(sudo --non-interactive)
fi

echo "Installing system packages: ${missing[*]}"
if [[ " ${missing[*]} " == *:arm64\ * ]]; then
  "${as_root[@]}" dpkg --add-architecture arm64
fi
apt_get=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive
  apt-get --quiet --option DPkg::Lock::Timeout=300)
"${apt_get[@]}" update
"${apt_get[@]}" install --yes --no-install-recommends "${missing[@]}"
