#!/usr/bin/env bash
# Installs the clients, pinned, into node_modules; what is there already is left as it is.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

if ! cmp -s package-lock.json node_modules/.clients-stamp; then
  npm ci --no-audit --no-fund --silent
  cp package-lock.json node_modules/.clients-stamp
fi
