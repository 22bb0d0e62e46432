#!/bin/sh
# Build, transfer and registry tests on the other supported Pythons that are here: pythons.sh
set -eu
say() { printf '\033[1m==>\033[0m %s\n' "$*"; }
for version in 3.10 3.12 3.13; do
  python=
  for candidate in "python$version" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$version".*/bin/python; do
    if "$candidate" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$version')" 2>/dev/null; then
      python=$candidate
      break
    fi
  done
  if [ -z "$python" ]; then
    echo "skipped: Python $version is not on this machine"
    continue
  fi
  say "Python $version: build, transfer and registry tests"
  venv=dist/venv-$version
  rm -rf "$venv"
  "$python" -m venv "$venv"
  grep -v -e '^torch==' -e '^transformers==' constraints.txt > "dist/constraints-$version.txt"
  "$venv/bin/python" -m pip install --quiet --upgrade "pip>=24"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c "dist/constraints-$version.txt" \
    -C "build-dir=build/python-$version" -C cmake.define.NANO_CUDA=off \
    '.[dlslime,nanoctrl]' pytest pytest-timeout pytest-benchmark hypothesis psutil
  # From a folder of its own: `nano` must be the installed one. The rootdir's configuration still holds.
  (cd "$venv" && bin/python -m pytest -q -p no:cacheprovider -c ../../pyproject.toml --rootdir ../.. \
    ../../tests/unit/test_transfer*.py ../../tests/unit/test_ctrl*.py)
  rm -rf "$venv"
done
