#!/usr/bin/env bash
# From nothing to a result: set-up, then vanilla, SAM and GSAM on Fashion-MNIST, evaluated on clean and corrupted test images,
# a table and a picture. Run again, it reuses what is there and continues what was interrupted.
#
#   bash scripts/quickstart.sh                          minutes on two CPU cores
#   bash scripts/quickstart.sh train.seed=0,1,2         more seeds: the table then gives mean ± standard deviation
#   bash scripts/quickstart.sh train.epochs=100st       anything else that train.py takes
#   DOCS=docs/quickstart.md bash scripts/quickstart.sh  also writes that page
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash scripts/setup.sh
PY="$PWD/.venv/bin/python"

began=$SECONDS
backend=ffcv
"$PY" -c 'import ffcv' 2>/dev/null || { backend=folder; echo "FFCV is not installed: reading the images with the folder backend"; }

"$PY" train.py -m experiment=quickstart optimizer=vanilla,sam,gsam data.backend="$backend" "$@"
for run in runs/quickstart/*/DONE; do
  "$PY" evaluate.py weights="$(dirname "$run")" "evalset=[fashion_mnist,fashion_mnist_c]"
done
"$PY" scripts/report.py quickstart ${DOCS:+--docs "$DOCS" --command "bash scripts/quickstart.sh"}
echo "quickstart: $((SECONDS - began)) s after set-up"
