#!/usr/bin/env bash
# safetensors 0.8.0: safetensors.numpy.save_file writes an array that is not C-contiguous (a transposed one, say) with
# its memory's order under its logical shape: what comes back has the right shape and the wrong order, without error or
# warning. safetensors.torch refuses the same tensor by name ("non contiguous"). Call numpy.ascontiguousarray first.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check safetensors==0.8.0 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PYTHON'
import numpy as np
import safetensors
from safetensors.numpy import load_file, save_file

array = np.arange(6.0).reshape(2, 3)
save_file({"transposed": array.T, "made contiguous": np.ascontiguousarray(array.T)}, "a.safetensors")
back = load_file("a.safetensors")
print("safetensors", safetensors.__version__, "wrote", array.T.tolist(), "and read", back["transposed"].tolist())
assert (back["made contiguous"] == array.T).all()
assert back["transposed"].shape == (3, 2) and not (back["transposed"] == array.T).all(), "behaviour has changed"
assert (back["transposed"].ravel() == array.ravel()).all(), "behaviour has changed"
PYTHON
