#!/usr/bin/env bash
# The tests of the sdist against the installed wheel, on several Pythons, with the newest, the
# pinned (constraints.txt) or the lowest dependencies that setup.cfg allows.
#   PYTHONS="3.10 3.13" DEPS="lowest newest" TESTS="tests/io tests/bands" bash packaging/test_matrix.sh
# Interpreters are looked for as pythonX.Y; those that are absent are named and left out. Each takes
# its own torch: several gigabytes where the registry has GPU builds only. TORCH="torch==2.13.0"
# names one, PIP="--find-links DIR" is given to pip, WORKERS is what pytest starts.
set -u
cd "$(dirname "$0")/.."
PYTHONS=${PYTHONS:-"3.10 3.11 3.12 3.13"}
DEPS=${DEPS:-"newest"}
TESTS=${TESTS:-"tests"}
TORCH=${TORCH:-"torch"}
PIP=${PIP:-}
WORKERS=${WORKERS:-auto}
mkdir -p "${WHERE:=.matrix}"
WHERE=$(realpath "$WHERE")
failed=0

# constraints of one column of the matrix
constraints() {
  case $1 in
    lowest) "$2" packaging/lowest.py ;;
    pinned) cat constraints.txt ;;
    *) true ;;
  esac
}

one() { # Python X.Y, interpreter, column
  local place="$WHERE/$1-$3"
  local python="$place/venv/bin/python" wheel
  rm -rf "$place" && mkdir -p "$place" && "$2" -m venv "$place/venv" || return 1
  constraints "$3" "$2" > "$place/constraints.txt"
  local pip=("$python" -m pip install --quiet --constraint "$place/constraints.txt")
  # shellcheck disable=SC2086
  "${pip[@]}" $PIP build "$TORCH" || return 1
  "$python" -m build --outdir "$place/dist" . > "$place/build.log" || return 1
  wheel=$(echo "$place"/dist/*.whl)
  # shellcheck disable=SC2086
  "${pip[@]}" $PIP "deeph-gformer[all,dev] @ file://$wheel" || return 1
  mkdir "$place/tree" && tar xzf "$place"/dist/*.tar.gz -C "$place/tree" --strip-components=1
  # what is tested is what was installed
  rm -rf "$place/tree/deeph_gformer"
  ln -s "$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/deeph_gformer" \
    "$place/tree/deeph_gformer"
  [ ! -d ../shared ] || ln -sfn "$(realpath ../shared)" "$place/shared"
  # shellcheck disable=SC2086
  (cd "$place/tree" && OMP_NUM_THREADS=1 "$python" -m pytest --numprocesses "$WORKERS" $TESTS)
}

for version in $PYTHONS; do
  interpreter=$(command -v "python$version" || true)
  if [ -z "$interpreter" ] || ! "$interpreter" -c 'import sys' 2>/dev/null; then
    echo "== python$version: not installed here, left out"
    continue
  fi
  for deps in $DEPS; do
    if one "$version" "$interpreter" "$deps"; then
      echo "== python$version, $deps dependencies: passed"
    else
      echo "== python$version, $deps dependencies: FAILED"
      failed=1
    fi
  done
done
exit $failed
