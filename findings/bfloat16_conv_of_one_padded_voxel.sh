#!/usr/bin/env bash
# torch 2.13.0 (CPU, also 2.15.0), on a processor with AMX: a bfloat16 conv3d of a single voxel (spatial size 1) that the
# call itself pads is garbage, from run to run another: NaN, 1e+17 or just wrong. Typical of the last layer of a deep
# network, where little is left to convolve. Padding the input beforehand with F.pad gives the right numbers, as does
# ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16. On processors without AMX there is nothing to see: the script says so.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy
cd "$folder"
cat > look.py <<'PYTHON'
import sys

import torch
import torch.nn.functional as F

if not torch.cpu._is_amx_tile_supported():
    raise SystemExit("no AMX on this processor: nothing to see" if sys.argv[1] == "wrong" else 0)
torch.manual_seed(0)
wrong = 0
for channels in range(1, 33):
    x = torch.randn(2, channels, 1, 1, 1).bfloat16().contiguous(memory_format=torch.channels_last_3d)
    w = torch.randn(8, channels, 4, 4, 4).bfloat16().contiguous(memory_format=torch.channels_last_3d)
    right = F.conv3d(x.float(), w.float(), padding=2)
    before = F.conv3d(F.pad(x, (2,) * 6).contiguous(memory_format=torch.channels_last_3d), w)
    inside = F.conv3d(x, w, padding=2)
    if not (before.float() - right).norm() < 0.01 * right.norm():
        raise SystemExit("behaviour has changed: padded beforehand it is wrong, too")
    wrong += not (inside.float() - right).norm() < 0.01 * right.norm()
print(f"torch {torch.__version__}: wrong for {wrong} of 32 numbers of channels, padded beforehand for none")
if bool(wrong) != (sys.argv[1] == "wrong"):
    raise SystemExit("behaviour has changed")
PYTHON
venv/bin/python look.py wrong
ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 venv/bin/python look.py right
