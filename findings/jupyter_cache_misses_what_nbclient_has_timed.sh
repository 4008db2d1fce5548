#!/usr/bin/env bash
# jupyter-cache 1.0.1 with nbclient 0.11.0: the cache matches notebooks by a hash of their code cells, metadata included.
# NotebookClient by default writes its timing into each cell's metadata ("execution"), so a notebook that was executed by
# nbclient and then put into the cache is stored under another hash than its own source: the source is never matched and
# would be executed again. With record_timing=False it is found. Two pages of equal code share one record in any case.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  jupyter-cache==1.0.1 nbclient==0.11.0 ipykernel==7.4.0 nbformat==5.10.4
cd "$folder"
JUPYTER_DATA_DIR="$folder/data" venv/bin/python - <<'PYTHON'
import copy
import sys

import nbformat
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

source = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1")])
for timed in (True, False):
    executed = copy.deepcopy(source)
    kernel = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    NotebookClient(executed, kernel, record_timing=timed).execute()
    cache = get_cache(f"cache-{timed}")
    cache.cache_notebook_bundle(CacheBundleIn(executed, "page.ipynb"), check_validity=False)
    try:
        cache.match_cache_notebook(source)
        found = True
    except KeyError:
        found = False
    print(f"record_timing={timed}: cell metadata {dict(executed.cells[0].metadata).keys()}, source found: {found}")
    assert found is not timed, "behaviour has changed"
    sys.stdout.flush()
PYTHON
