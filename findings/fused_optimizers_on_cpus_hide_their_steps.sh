#!/usr/bin/env bash
# torch 2.13.0 (CPU): `fused=True` optimizers move the weights and do not raise their version counters, which all other
# in-place operations do, and the same optimizers with foreach or plain loops, too. Whoever keeps something that was made
# of the weights and asks `_version` whether it is still good (as autograd does for saved tensors) is told yes.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy
cd "$folder"
cat > look.py <<'PYTHON'
import torch

seen = {}
for kind in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad):
    for way in ("plain", "foreach", "fused"):
        weight = torch.nn.Parameter(torch.ones(3))
        options = {"foreach": way == "foreach", "fused": way == "fused"}
        optimizer = kind([weight], lr=0.1, **options)
        weight.grad, before = torch.ones(3), weight._version
        optimizer.step()
        assert (weight < 1).all(), "it has moved"
        seen[kind.__name__, way] = weight._version - before
        print(f"{kind.__name__:8} {way:8} version raised by {weight._version - before}")
assert all((raised == 0) == (way == "fused") for (_, way), raised in seen.items()), "this has changed"
PYTHON
"$folder/venv/bin/python" look.py
