#!/usr/bin/env bash
# torch 2.13.0 (CPU): torch.optim.swa_utils.AveragedModel with get_ema_multi_avg_fn, the recipe of PyTorch's own
# documentation for an exponential moving average, can be deep-copied but neither pickled nor saved whole by torch.save:
# the averaging function is a local one and is kept as an attribute. A training object that holds one cannot cross a
# process boundary. Without averaging function (plain SWA) the same model pickles. Only its state_dict is portable.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy
cd "$folder"
venv/bin/python - <<'PYTHON'
import copy
import io
import pickle

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

net = torch.nn.Linear(2, 2)
plain, ema = AveragedModel(net), AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.99))
pickle.loads(pickle.dumps(plain))
copy.deepcopy(ema)
for what, attempt in (("pickle", lambda: pickle.dumps(ema)), ("torch.save", lambda: torch.save(ema, io.BytesIO()))):
    try:
        attempt()
    except (AttributeError, pickle.PicklingError) as error:
        print("torch", torch.__version__, what, "refuses:", error)
    else:
        raise SystemExit(f"behaviour has changed: {what} works")
PYTHON
