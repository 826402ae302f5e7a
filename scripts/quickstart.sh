#!/usr/bin/env bash
# From nothing to a result: set-up, then vanilla, SAM and GSAM on Fashion-MNIST, evaluated on clean and corrupted test images,
# a table and a picture. Run again, it reuses what is there and continues what was interrupted.
#
#   bash scripts/quickstart.sh                          minutes on two CPU cores
#   bash scripts/quickstart.sh train.seed=0,1,2         more seeds: the table then gives mean ± standard deviation
#   bash scripts/quickstart.sh train.epochs=100st       other settings of train.*, base.*, optimizer.* …: columns of their own
#   DOCS=docs/quickstart.md bash scripts/quickstart.sh  also writes that page
case "${1-}" in -h | --help) exec sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" ;; esac
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash scripts/setup.sh
PY="$PWD/.venv/bin/python"

began=$SECONDS
backend=ffcv
"$PY" -c 'import ffcv' 2>/dev/null || { backend=folder; echo "FFCV is not installed: reading the images with the folder backend"; }

"$PY" -c 'from sys import argv; from gsam.data.fashion_mnist import fetch_fashion_mnist as f; f(argv[1])' \
  "${GSAM_DATA:-data}/fashion_mnist" # linked from the system's package, else downloaded

"$PY" train.py -m experiment=quickstart optimizer=vanilla,sam,gsam data.backend="$backend" "$@"
shopt -s nullglob
for run in runs/quickstart/*/DONE; do
  "$PY" evaluate.py weights="$(dirname "$run")" "evalset=[fashion_mnist,fashion_mnist_c]"
done
"$PY" scripts/report.py quickstart ${DOCS:+--docs "$DOCS" --command "bash scripts/quickstart.sh   # $((SECONDS - began)) s after set-up"}
echo "quickstart: $((SECONDS - began)) s after set-up"
