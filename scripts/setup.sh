#!/usr/bin/env bash
# Everything this project needs, into .venv in the checkout. Safe to repeat: what is there is kept.
#
#   scripts/setup.sh                 all steps
#   scripts/setup.sh torch python    only these (the Dockerfile calls the same ones)
#
# Steps: system   Debian/Ubuntu packages; without apt, root or sudo they are only named
#        venv     .venv, made with $PYTHON (default: python3, also inside conda or another venv)
#        torch    torch and torchvision; a torch >= 2.9 that is already in .venv is never replaced
#        python   what the extras `train` and `dev` of pyproject.toml list
#        ffcv     the FFCV backend; skipped, with the reason, where it cannot be compiled
#        project  this checkout, editable
#        check    imports everything, prints versions and the data backend that will be used
#
# pip's own configuration (index, proxy, find-links, constraints) is honoured. Details go to setup.log.
case "${1-}" in -h | --help) exec sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" ;; esac
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="$ROOT/.venv"
PY="$VENV/bin/python"
LOG="$ROOT/setup.log"
STAMPS="$VENV/.setup"
STEPS=(system venv torch python ffcv project check)
export PIP_DISABLE_PIP_VERSION_CHECK=1

say() { echo "$*" | tee -a "$LOG"; }
die() { say "setup: $*"; exit 1; }
die_with_log() { tail -n 25 "$LOG"; die "$* (all of it: $LOG)"; }
quiet() { echo "+ $*" >>"$LOG"; "$@" >>"$LOG" 2>&1; }
have() { command -v "$1" >/dev/null 2>&1; }

# A stamp holds the hash of all that decides a step's result, so that a changed list, torch or place redoes the step.
# `check` depends on everything that is installed.
key() {
  local installed=torch-
  [ "$1" = check ] && installed=
  { cat "$ROOT"/{pyproject.toml,constraints.txt,scripts/setup.sh}; echo "$ROOT"
    compgen -G "$VENV/lib/python3*/site-packages/$installed*.dist-info" || true; } | sha256sum | cut -d' ' -f1
}
done_before() { [ "$(cat "$STAMPS/$1" 2>/dev/null)" = "$(key "$1")" ]; }
stamp() { mkdir -p "$STAMPS" && key "$1" >"$STAMPS/$1"; }

# ---- system ---------------------------------------------------------------------------------------------------------
BASE="${PYTHON:-python3}"
python_ok() { "$BASE" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; }
venv_ok() { [ -x "$PY" ] || "$BASE" -c 'import venv, ensurepip' 2>/dev/null; }
headers_ok() {
  local python="$BASE"
  [ -x "$PY" ] && python="$PY"
  "$python" -c 'import os, sysconfig as s; assert os.path.exists(s.get_path("include") + "/Python.h")' 2>/dev/null
}
library_ok() { have pkg-config && pkg-config --exists "$1"; }

# Prints the Debian packages for what cannot be found, whichever way the rest was installed.
missing_packages() {
  python_ok || echo python3
  venv_ok || echo python3-venv
  headers_ok || echo python3-dev
  { have g++ && have make; } || echo build-essential
  have git || echo git
  have pkg-config || echo pkg-config
  library_ok opencv4 || echo libopencv-dev
  library_ok libturbojpeg || echo libturbojpeg0-dev
  [ -d /usr/share/datasets/fashion-mnist ] || echo dataset-fashion-mnist
}

apt_get() {
  if [ "$(id -u)" = 0 ]; then quiet env DEBIAN_FRONTEND=noninteractive apt-get "$@"
  else quiet sudo env DEBIAN_FRONTEND=noninteractive apt-get "$@"; fi
}

may_install() { have apt-get && { [ "$(id -u)" = 0 ] || { have sudo && { sudo -n true 2>/dev/null || [ -t 0 ]; }; }; }; }

step_system() {
  local missing package
  mapfile -t missing < <(missing_packages)
  [ ${#missing[@]} -eq 0 ] && return
  if may_install; then
    say "  apt-get install ${missing[*]}"
    apt_get update || say "  apt-get update failed (see setup.log); trying with the package lists at hand"
    # One by one after a failure: dataset-fashion-mnist is in Ubuntu's universe only, and must not cost the others.
    apt_get install -y --no-install-recommends "${missing[@]}" ||
      for package in "${missing[@]}"; do apt_get install -y --no-install-recommends "$package" || true; done
    mapfile -t missing < <(missing_packages)
    [ ${#missing[@]} -eq 0 ] && return
  fi
  say "  missing: ${missing[*]} (no apt with root or sudo, or apt failed: see setup.log); going on without"
  say "  as root: apt-get install --no-install-recommends ${missing[*]}"
  python_ok || die "Python >= 3.10 is needed; install it, or name one: PYTHON=/path/to/python3 scripts/setup.sh"
  venv_ok || die "$BASE cannot make virtual environments; install python3-venv, or name another: PYTHON=/path/to/python3"
}

# ---- python ---------------------------------------------------------------------------------------------------------
step_venv() {
  "$PY" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && "$PY" -c 'import pip' 2>/dev/null && return
  # --clear: a .venv whose interpreter is gone or too old cannot be mended.
  quiet "$BASE" -m venv --clear "$VENV" || die_with_log "$BASE -m venv failed"
}

need_venv() { [ -x "$PY" ] || die "no .venv yet; run: scripts/setup.sh venv"; }
version_of() { "$PY" -c 'import sys; from importlib.metadata import version; print(version(sys.argv[1]))' "$1" 2>/dev/null; }

# All further installs keep the torch (and torchvision) that is there: without this pip would replace it to satisfy a newer torchvision.
pip_install() {
  local keep="$STAMPS/keep.txt" name version
  mkdir -p "$STAMPS" && : >"$keep"
  for name in torch torchvision; do
    if version="$(version_of "$name")"; then echo "$name==$version" >>"$keep"; fi
  done
  quiet "$PY" -m pip install -c "$ROOT/constraints.txt" -c "$keep" "$@"
}

step_torch() {
  need_venv
  local torch
  if torch="$(version_of torch)"; then
    "$PY" - "$torch" <<<'import re, sys; sys.exit(tuple(map(int, re.findall(r"\d+", sys.argv[1])[:2])) < (2, 9))' ||
      die "torch $torch in .venv is older than 2.9; upgrade it, or remove .venv and run this again"
    version_of torchvision >/dev/null && return
  fi
  say "  torch and torchvision (several GB; to watch: tail -f setup.log)"
  pip_install 'torch>=2.9' torchvision || die_with_log "pip could not install torch and torchvision"
}

# The requirements of pyproject's extras, without building the project: the Dockerfile installs them before it copies the code.
extras() {
  "$PY" - "$ROOT/pyproject.toml" "$@" <<'PYTHON'
import sys
try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    from pip._vendor import tomli as tomllib
with open(sys.argv[1], "rb") as file:
    listed = tomllib.load(file)["project"]["optional-dependencies"]
print("\n".join(requirement for extra in sys.argv[2:] for requirement in listed[extra]))
PYTHON
}

step_python() {
  need_venv
  done_before python && return
  local packages
  mapfile -t packages < <(extras train dev)
  pip_install "${packages[@]}" || die_with_log "pip could not install the extras train and dev"
  stamp python
}

ffcv_obstacles() {
  headers_ok || echo "Python headers (python3-dev)"
  have g++ || echo "g++ (build-essential)"
  have pkg-config || echo pkg-config
  library_ok opencv4 || echo "OpenCV (libopencv-dev)"
  library_ok libturbojpeg || echo "libturbojpeg (libturbojpeg0-dev)"
}

step_ffcv() {
  need_venv
  done_before ffcv && return
  local packages obstacles rest=() package
  mapfile -t obstacles < <(ffcv_obstacles)
  if [ ${#obstacles[@]} -gt 0 ]; then
    say "  FFCV skipped, missing: $(printf '%s; ' "${obstacles[@]}")use data.backend=folder"
    return
  fi
  mapfile -t packages < <(extras ffcv)
  for package in "${packages[@]}"; do [[ $package == ffcv==* ]] || rest+=("$package"); done
  # --no-deps: ffcv's metadata asks for opencv-python, whose libGL a server or container does not have.
  if pip_install "${rest[@]}" && pip_install --no-deps "$(printf '%s\n' "${packages[@]}" | grep '^ffcv==')"; then stamp ffcv
  else say "  FFCV skipped, it did not install (see setup.log); use data.backend=folder"; fi
}

step_project() {
  need_venv
  done_before project && return
  pip_install --no-deps -e "$ROOT" || die_with_log "pip could not install the project"
  stamp project
}

# ---- check ----------------------------------------------------------------------------------------------------------
step_check() {
  need_venv
  if done_before check; then cat "$STAMPS/summary"; return; fi
  (cd "$ROOT" && "$PY" - 2>>"$LOG" <<'PYTHON') >"$STAMPS/summary" || die_with_log "check failed"
import importlib
import platform
from importlib.metadata import version

NAMES = "torch torchvision hydra omegaconf timm numpy scipy matplotlib PIL cv2 rich safetensors wandb pytest"
DISTRIBUTIONS = {"hydra": "hydra-core", "PIL": "pillow", "cv2": "opencv-python-headless"}
found = [f"python {platform.python_version()}"]
for name in NAMES.split():
    importlib.import_module(name)
    found.append(f"{name} {version(DISTRIBUTIONS.get(name, name))}")
try:
    import ffcv.loader  # noqa: F401
    backend = f"ffcv {version('ffcv')}"
except ImportError as error:
    backend = f"folder (no FFCV: {error}); pass data.backend=folder"
import gsam  # noqa: F401
import torch

devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] or ["CPU only"]
print("  " + ", ".join(found))
print("  devices: " + ", ".join(devices))
print("  data backend: " + backend)
PYTHON
  tee -a "$LOG" <"$STAMPS/summary"
  stamp check
}

# ---------------------------------------------------------------------------------------------------------------------
run_step() {
  local began=$SECONDS
  say "== $1"
  "step_$1"
  say "   $1: $((SECONDS - began)) s"
}

main() {
  local step
  for step in "$@"; do
    [[ " ${STEPS[*]} " == *" $step "* ]] || { echo "setup: no step '$step'; steps: ${STEPS[*]}" >&2; exit 2; }
  done
  [ $# -gt 0 ] || set -- "${STEPS[@]}"
  if have flock; then exec 9>"$ROOT/.setup.lock" && flock 9; fi # two set-ups at once would break each other's .venv
  echo "---- $(date -u +%FT%TZ) setup.sh $*" >>"$LOG"
  for step in "$@"; do run_step "$step"; done
}

main "$@"
