#!/usr/bin/env bash
# Runs all tests. Installs what they need from Debian's packages and PyPI where it can, and says what
# it could not. With CI=true a missing tool is a failure, never a skip.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()

# have TOOL PACKAGE…: finds the tool, or installs the first package that has it.
have() {
  local tool=$1; shift
  command -v "$tool" >/dev/null && return
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    [ -n "${updated:-}" ] || { apt-get update -qq || true; updated=1; }
    for package in "$@"; do
      DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$package" >/dev/null 2>&1 || true
      command -v "$tool" >/dev/null && return
    done
  fi
  missing+=("$tool (Debian package $*)")
}

have kubectl kubectl kubernetes-client
have python3 python3
have ss iproute2
have curl curl
# Containers of the kernel, and images for them.
have runc runc
have nft nftables
have ip iproute2
have busybox busybox-static
# One that is linked to libraries of this machine runs in no image.
if ldd "$(command -v busybox)" 2>/dev/null | grep -q '=>'; then
  apt-get install -y -qq busybox-static >/dev/null 2>&1 || missing+=("busybox (Debian package busybox-static)")
fi
have umoci umoci
have skopeo skopeo

# The official Python client runs in an environment of its own.
venv=target/python
if ! "$venv/bin/python" -c 'import kubernetes' 2>/dev/null; then
  python3 -m venv "$venv" 2>/dev/null || { have virtualenv python3-virtualenv && virtualenv -q "$venv"; } || true
  "$venv/bin/pip" install -q --disable-pip-version-check 'kubernetes>=32' || true
fi
"$venv/bin/python" -c 'import kubernetes' 2>/dev/null || missing+=("kubernetes (PyPI package)")

if [ ${#missing[@]} -gt 0 ]; then
  printf 'could not install: %s\n' "${missing[@]}" >&2
  if [ "${CI:-}" = true ]; then
    echo "with CI=true nothing may be missing" >&2
    exit 1
  fi
  echo "the tests that need them will fail" >&2
fi

if command -v cargo-nextest >/dev/null; then
  cargo nextest run --no-fail-fast "$@"
else
  cargo test --no-fail-fast "$@"
fi
