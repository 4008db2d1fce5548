#!/usr/bin/env bash
# torch 2.13.0 (CPU, also 2.15.0), on a processor with AMX: bfloat16 convolutions return wrong numbers, with no warning,
# where the input has an even number of channels below 16 and channels x kernel width is a multiple of 32 above 32: 8
# channels under a kernel 8 wide, 4 under 16, 12 under 8. conv1d, conv2d and conv3d alike; depth, height and the number of
# outputs do not matter. The result is uncorrelated with the right one (relative error about 1.1). With one channel more
# or less, a kernel one wider or narrower, or ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 (the same bfloat16 without AMX), it is
# right. On processors without AMX there is nothing to see: the script says so.
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


def error(channels: int, width: int, dimensions: int) -> float:
    """Relative error of a bfloat16 convolution against float32's of the same rounded numbers."""
    torch.manual_seed(0)
    conv = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[dimensions]
    x = torch.randn(2, channels, *[3] * (dimensions - 1), 20).bfloat16()
    w = torch.randn(8, channels, *[2] * (dimensions - 1), width).bfloat16()
    layouts = {2: torch.channels_last, 3: torch.channels_last_3d}
    if dimensions in layouts:
        x, w = (t.contiguous(memory_format=layouts[dimensions]) for t in (x, w))
    right = conv(x.float(), w.float())
    return float((conv(x, w).float() - right).norm() / right.norm())


for channels, width in ((8, 8), (4, 16), (12, 8), (7, 8), (9, 8), (8, 7), (8, 9), (8, 4), (16, 8)):
    found = [error(channels, width, dimensions) for dimensions in (2, 3)]
    print(f"torch {torch.__version__}: {channels} channels, width {width}: relative error", *(f"{e:.4f}" for e in found))
    wrong = sys.argv[1] == "wrong" and (channels, width) in {(8, 8), (4, 16), (12, 8)}
    if any((e > 0.5) != wrong for e in found):
        raise SystemExit("behaviour has changed")
PYTHON
venv/bin/python look.py wrong
ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 venv/bin/python look.py right
