#!/usr/bin/env bash
# A part of the miniatures once more: the miniature ViT with vanilla, SAM and GSAM, seeds 0 and 1, and the comparison with the
# records in results/: bit for bit on the same kind of processor with the same torch, else within 0.5 points.
# At most 20 minutes on two cores. Run again, it continues. Arguments go to every training: scripts/reproduce_mini.sh data.workers=2
set -euo pipefail
set -m # the background job is a process group of its own: when one seed fails or is interrupted, all of the other ends too
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
first=$!
trap 'kill -- "-$first" 2> /dev/null || true' EXIT
one 1 "$@"
wait $first

"$PY" scripts/results.py compare --runs "$RUNS"
echo "reproduce_mini: $((SECONDS - began)) s after set-up"
