#!/usr/bin/env bash
# Set-up, lint, the fast tests in parallel, then the slow ones alone. Arguments go to pytest: scripts/test.sh -k philox
case "${1-}" in -h | --help) exec sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" ;; esac
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

bash scripts/setup.sh || exit 1
PY="$PWD/.venv/bin/python"
NO_TESTS=5 # pytest's exit status when nothing was selected
failed=()
idle=0

# stage NAME COMMAND...: goes on after a failure, so that one run shows everything that is wrong.
stage() {
  local name=$1 began=$SECONDS status=0 outcome=passed
  shift
  echo "== $name"
  "$@" || status=$?
  if [ "$name" != ruff ] && [ $status = $NO_TESTS ]; then idle=$((idle + 1)) outcome="no tests"
  elif [ $status != 0 ]; then failed+=("$name") outcome="FAILED ($status)"; fi
  echo "   $name: $((SECONDS - began)) s, $outcome"
}

cores="$(nproc)"
stage ruff "$PY" -m ruff check --output-format concise .
# One thread per worker: several workers with several threads each would fight over the cores. loadfile keeps a file's
# expensive module fixtures in one worker.
stage fast env OMP_NUM_THREADS=1 "$PY" -m pytest -m "not slow" -n "$((cores < 8 ? cores : 8))" --dist loadfile --durations=15 "$@"
stage slow "$PY" -m pytest -m slow --durations=15 "$@"

[ $idle -lt 2 ] || failed+=("no test was selected")
[ ${#failed[@]} = 0 ] || { echo "failed: ${failed[*]}"; exit 1; }
echo "all passed in $SECONDS s"
