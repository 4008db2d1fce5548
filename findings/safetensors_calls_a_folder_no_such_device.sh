#!/usr/bin/env bash
# safetensors 0.8.0 on Linux: safe_open of a folder, as when the last part of a path was forgotten, says "No such device
# (os error 19)", without the path and without an errno: the file is mapped into memory before anybody asks what it is.
# In a script that also names a GPU this reads as if the accelerator were missing. `open()` says "Is a directory".
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check safetensors==0.8.0 numpy
cd "$folder"
mkdir models
venv/bin/python - <<'PYTHON'
from importlib.metadata import version

from safetensors import safe_open

try:
    safe_open("models", framework="np")
except OSError as error:
    print("safetensors", version("safetensors"), f"says: {error!s} (errno {error.errno}, filename {error.filename})")
    if "No such device" not in str(error) or error.filename is not None:
        raise SystemExit("behaviour has changed") from None
else:
    raise SystemExit("behaviour has changed: a folder opens")
PYTHON
