#!/usr/bin/env bash
# torch 2.13.0 (CPU): a file of torch.save is a zip archive whose members carry CRC-32 sums, but torch.load does not
# check them. One flipped bit in a tensor's bytes is loaded without error or warning, and the weight is another one;
# Python's own zipfile refuses the same file. Who resumes a training from such a file trains on without a word: keep a
# checksum beside a checkpoint. Seen: value 1.0 came back as 1.5 (one mantissa bit), zipfile: bad CRC.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy
cd "$folder"
venv/bin/python - <<'PYTHON'
import zipfile
from pathlib import Path

import torch

path = Path("weights.pt")
torch.save({"weight": torch.ones(64)}, path)
content = bytearray(path.read_bytes())
place = content.index(torch.ones(64).numpy().tobytes())  # the tensor's bytes lie in the archive uncompressed
content[place + 2] ^= 0x40  # of the first float32: 0x3f800000 becomes 0x3fc00000
path.write_bytes(content)
loaded = torch.load(path, weights_only=True)["weight"]
print("torch", torch.__version__, "loads", loaded[:3].tolist())
assert loaded[0] == 1.5 and (loaded[1:] == 1).all(), "behaviour has changed"
with zipfile.ZipFile(path) as archive:
    bad = archive.testzip()
print("zipfile names the member whose CRC-32 is wrong:", bad)
assert bad is not None and bad.endswith("data/0"), "behaviour has changed"
PYTHON
