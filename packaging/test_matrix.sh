#!/usr/bin/env bash
# The test suite on several Pythons, with the newest or the lowest dependencies that setup.cfg allows.
#   PYTHONS="3.10 3.13" DEPS="lowest newest" TESTS="tests/io tests/bands" bash packaging/test_matrix.sh
# Interpreters are looked for as pythonX.Y; those that are absent are named and left out. Each takes
# its own torch: several gigabytes where the registry has GPU builds only.
set -u
cd "$(dirname "$0")/.."
PYTHONS=${PYTHONS:-"3.10 3.11 3.12 3.13"}
DEPS=${DEPS:-"newest"}
TESTS=${TESTS:-"tests"}
WHERE=${WHERE:-".matrix"}
failed=0
for version in $PYTHONS; do
  interpreter=$(command -v "python$version" || true)
  if [ -z "$interpreter" ] || ! "$interpreter" -c 'import sys' 2>/dev/null; then
    echo "== python$version: not installed here, left out"
    continue
  fi
  for deps in $DEPS; do
    venv="$WHERE/$version-$deps"
    "$interpreter" -m venv "$venv" || { failed=1; continue; }
    if [ "$deps" = lowest ]; then
      "$venv/bin/python" packaging/lowest.py > "$venv/lowest.txt"
      constraint=(--constraint "$venv/lowest.txt")
    else
      constraint=()
    fi
    if "$venv/bin/python" -m pip install --quiet "${constraint[@]}" '.[all,dev]' \
      && OMP_NUM_THREADS=1 "$venv/bin/python" -m pytest --numprocesses auto $TESTS; then
      echo "== python$version, $deps dependencies: passed"
    else
      echo "== python$version, $deps dependencies: FAILED"
      failed=1
    fi
  done
done
exit $failed
