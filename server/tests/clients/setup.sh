#!/usr/bin/env bash
# Installs the pinned clients: those of npm into node_modules, those of PyPI into a virtual environment, and a
# browser, below target/. Installed ones are left as they are. Nothing is committed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

if ! cmp -s package-lock.json node_modules/.clients-stamp; then
  npm ci --no-audit --no-fund --silent
  cp package-lock.json node_modules/.clients-stamp
fi

venv=../../../target/clients
if ! cmp -s requirements.txt "$venv/.clients-stamp"; then
  python3 -m venv --clear "$venv" || { echo "no virtual environment: Python 3.11.5 or newer with venv is needed" >&2; exit 1; }
  "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --requirement requirements.txt
  cp requirements.txt "$venv/.clients-stamp"
fi

bash browser.sh
