#!/usr/bin/env bash
# torch 2.13.0 (CPU): with one seed, the numbers of a longer torch.randn do not begin with those of a shorter one. Below
# 16 numbers they do (15 and 14 agree in all 14); 16 and 15 agree in none; from there blocks of 16 are drawn, and where the
# length is no multiple of 16 the last 16 numbers are drawn anew (40 and 32 agree in 24, 24 and 20 in 12). torch.rand keeps
# the prefix. So a chain's noise depends on how many chains share the draw: give each chain a generator of its own where
# that matters. Likewise float32 and float64 draws of one seed agree below 16 numbers and are unrelated from 16 on.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy
cd "$folder"
venv/bin/python - <<'PYTHON'
import torch


def draw(count, kind=torch.randn, dtype=torch.float32):
    return kind(count, generator=torch.Generator().manual_seed(0), dtype=dtype)


print("torch", torch.__version__)
print("15 and 14 agree in", (draw(15)[:14] == draw(14)).sum().item(), "of 14")
print("16 and 15 agree in", (draw(16)[:15] == draw(15)).sum().item(), "of 15")
print("40 and 32 agree in", (draw(40)[:32] == draw(32)).sum().item(), "of 32")
print("24 and 20 agree in", (draw(24)[:20] == draw(20)).sum().item(), "of 20")
assert (draw(15)[:14] == draw(14)).all() and not (draw(16)[:15] == draw(15)).any(), "behaviour has changed"
assert 0 < (draw(24)[:20] == draw(20)).sum() < 20, "behaviour has changed"
assert (draw(24, torch.rand)[:20] == draw(20, torch.rand)).all(), "behaviour has changed"
short, long = ((draw(n, dtype=torch.float64).float() - draw(n)).abs().max().item() for n in (15, 16))
print(f"float64 against float32: {short:.0e} for 15 numbers, {long:.1f} for 16")
assert short < 1e-5 and long > 0.1, "behaviour has changed"
PYTHON
