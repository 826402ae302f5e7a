#!/usr/bin/env bash
# A part of the miniatures once more: the miniature ViT with vanilla, SAM and GSAM, seeds 0 and 1, and the comparison with the
# records in results/: bit for bit on the same kind of processor with the same torch, else within 0.5 points.
# At most 20 minutes on two cores. Run again, it continues. Arguments go to every training: scripts/reproduce_mini.sh data.workers=2
case "${1-}" in -h | --help) exec sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" ;; esac
set -euo pipefail
set -m # a process group per seed, to end all of it when the other fails or the script is interrupted
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash scripts/setup.sh
PY="$PWD/.venv/bin/python"
RUNS="${RUNS:-runs/again}"
began=$SECONDS
export OMP_NUM_THREADS=1 # as the records: sums in another number of parts round otherwise

"$PY" -c 'from sys import argv; from gsam.data.fashion_mnist import fetch_fashion_mnist as f; f(argv[1])' \
  "${GSAM_DATA:-data}/fashion_mnist"

# one SEED: the three trainings and their evaluations, one after another
one() {
  local method
  for method in vanilla sam gsam; do
    "$PY" scripts/reproduce.py "mini/table1/vit_$method" --seeds "$1" --runs "$RUNS" --no-hours "${@:2}" || return
  done
}
one 0 "$@" &
groups="-$!"
one 1 "$@" &
groups="$groups -$!"
# shellcheck disable=SC2086 # two words
trap 'kill -- $groups 2> /dev/null || true; wait' EXIT # trainings save before they end
wait -n
wait -n

"$PY" scripts/results.py compare --runs "$RUNS"
echo "reproduce_mini: $((SECONDS - began)) s after set-up"
