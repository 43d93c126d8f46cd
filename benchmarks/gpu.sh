#!/bin/sh
# All measurements on a GPU, in one command: benchmarks/gpu.sh [SOURCE] [--minutes 25] [--only NAME ...]
# Where nothing can be installed, WHEELS names a folder with what is missing there; beside torch, transformers, peft and
# accelerate that is usually trl==1.16.0, datasets, dill, multiprocess, nlpaug and tomlkit (pip download --no-deps).
set -e
cd "$(dirname "$0")/.."
if [ -n "$WHEELS" ]; then
  site=$(mktemp -d)
  python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" "$WHEELS"/*.whl
  export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi
exec python3 -m benchmarks.suite --device cuda "$@"
