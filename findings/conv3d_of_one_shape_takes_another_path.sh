#!/usr/bin/env bash
# torch 2.13.0 (CPU): conv3d of a batch of one, with kernels up to 3, is not given to oneDNN but to `slow_conv3d`, which
# unfolds the input first; a batch of two is. Kernels of 1 go that way up to a batch of 15 where there is one thread. So a
# single chain may take longer than two. The rule is by sizes, so the operation that runs can be asked of the profiler.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy
cd "$folder"
cat > look.py <<'PYTHON'
import torch
from torch.profiler import ProfilerActivity, profile

torch.set_num_threads(1)


def path(batch, kernel):
    x, w = torch.randn(batch, 16, 12, 12, 12), torch.randn(16, 16, *[kernel] * 3)
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU]) as seen:
        torch.nn.functional.conv3d(x, w)
    names = {event.key for event in seen.key_averages()}
    return "oneDNN" if "aten::mkldnn_convolution" in names else "slow" if "aten::slow_conv3d" in names else "?"


wanted = {(1, 3): "slow", (2, 3): "oneDNN", (1, 4): "oneDNN", (2, 1): "slow", (15, 1): "slow", (16, 1): "oneDNN"}
for (batch, kernel), expected in wanted.items():
    found = path(batch, kernel)
    print(f"batch {batch:2}, kernel {kernel}: {found}")
    assert found == expected, f"this has changed: {expected} before"
PYTHON
"$folder/venv/bin/python" look.py
