#!/usr/bin/env bash
# torch 2.13.0 (CPU): torch.nn.utils.skip_init asks for no device and yet does not follow the default one. Inside
# `with torch.device("meta")` (or "cuda") a plain module lies on that device, one made by skip_init on the CPU: its own
# default is the text "cpu". A network that skips one layer's initialisation is split over two devices without a word.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy
cd "$folder"
venv/bin/python - <<'PYTHON'
import torch
from torch import nn

with torch.device("meta"):
    net = nn.Sequential(nn.Linear(2, 2), nn.utils.skip_init(nn.Linear, 2, 2))
devices = [layer.weight.device.type for layer in net]
print("torch", torch.__version__, "plain and skipped layer lie on", devices)
if devices != ["meta", "cpu"]:
    raise SystemExit("behaviour has changed")
PYTHON
