#!/usr/bin/env bash
# Tries the install cell as Colab would run it: Python 3.13 with the versions that Colab's TPU runtime holds, an uploaded
# zip of this repository, and no TPU.  The first run has to install and restart; after that nothing may be installed, and
# the rest of the notebook runs.
#
#     PYTHON=python3.13 notebooks/try_colab.sh [NAME]
set -euo pipefail
PYTHON=${PYTHON:-python3.13}
NAME=${1:-text_to_video}
ROOT=$(cd "$(dirname "$0")/.." && pwd)
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT

# googlecolab/backend-info, pip-freeze.tpu.txt of 2026-08-19: what matters to us.
"$PYTHON" -m venv "$WORK/env"
"$WORK/env/bin/pip" install --quiet jax==0.7.2 jaxlib==0.7.2 flax==0.11.2 optax==0.2.8 orbax-checkpoint==0.12.4 \
    numpy==2.1.3 transformers==5.15.0 tokenizers==0.22.2 sentencepiece==0.2.2 safetensors==0.8.0 ipywidgets==7.7.1 \
    chex einops grain matplotlib nbclient ipykernel
mkdir "$WORK/content"
(cd "$ROOT" && git archive --format zip --prefix wan_jax-main/ -o "$WORK/content/wan_jax-main.zip" HEAD)
cd "$WORK/content"
COLAB_RELEASE_TAG=tried "$WORK/env/bin/python" - "$ROOT/notebooks/$NAME.ipynb" <<'PYTHON_END'
import subprocess
import sys
import time

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError


def installed():
    return subprocess.run([sys.executable, "-m", "pip", "freeze"], capture_output=True, text=True).stdout.split("\n")


def run(cells):
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=1800, kernel_name="python3").execute()
    return notebook.cells


cells = [cell for cell in nbformat.read(sys.argv[1], 4).cells if cell.cell_type == "code"]
before = installed()
try:
    run(cells[:1])
    sys.exit("the first run restarted nothing")
except (CellExecutionError, DeadKernelError) as stopped:
    print("first run: the kernel ended,", type(stopped).__name__)
after = installed()
ours = ("jax==", "jaxlib==", "flax==", "orbax-checkpoint==", "numpy==")
for name in ours:
    print("  ", *(line for freeze in (before, after) for line in freeze if line.startswith(name)))
started = time.monotonic()
print("second run:", run(cells)[0].outputs[0].text.strip())
print(f"the whole notebook ran in {time.monotonic() - started:.0f} s")
print("packages changed by it:", len(set(installed()) ^ set(after)))
PYTHON_END
