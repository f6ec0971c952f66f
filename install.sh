#!/bin/sh
# Builds $VENV with all that SumZero needs on a machine without a GPU. Called by `make install`.
# pip, not uv: uv does not read pip's configuration, where a CPU build of torch may be named.
set -eu

TORCH=2.13.0
fail() { echo "install: $*" >&2; exit 2; }

"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    fail "Python 3.11 or newer is needed, and $PYTHON is not; name one: make install PYTHON=python3.12"
"$PYTHON" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$PYTHON cannot make virtual environments; install your system's python3-venv"

[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
pip() { "$VENV/bin/python" -m pip --disable-pip-version-check "$@"; }

# "+cpu" keeps the several gigabytes of the CUDA build away.
case "$(uname -s)" in Linux) TORCH=$TORCH+cpu ;; esac
torch="torch==$TORCH"
if ! "$VENV/bin/python" -c "import torch; assert torch.__version__ == '$TORCH'" 2>/dev/null; then
    echo "installing $torch"
    if ! pip install -qq "$torch"; then
        [ -n "$TORCH_INDEX_URL" ] || fail "pip could not install $torch, see above. If it found none: \
Copy the address of PyTorch's CPU index from its 'Get Started' page and run: \
make install TORCH_INDEX_URL=ADDRESS"
        pip install -qq --index-url "$TORCH_INDEX_URL" "$torch"
    fi
fi

echo "installing $(grep -c == requirements-cpu.txt) pinned packages"
# DeepSpeed and rouge-score come as source: built here, by the pinned setuptools, without their ops.
pip install -qq $(grep -E '^(setuptools|wheel)==' requirements-cpu.txt)
DS_BUILD_OPS=0 pip install -qq --no-deps --no-build-isolation -r requirements-cpu.txt
pip install -qq --no-deps --no-build-isolation -e .
echo "installed into $VENV"
