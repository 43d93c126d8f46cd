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
for name in torch transformers peft accelerate; do
  python3 -c "import $name" 2>/dev/null || {
    echo "gpu.sh: python3 has no $name. Measured is what python3 finds: install ktokit into it first, with a CUDA build" \
      "of torch (pip install -e '.[bench]'), or activate the environment that has them" >&2
    exit 2
  }
done
exec python3 -m benchmarks.suite --device cuda "$@"
