"""What all tests share: one thread, fixed examples, the user's cache out of reach."""

import pytest
import torch
from hypothesis import settings

# The tensors here are tiny, so threads only cost time; and with one thread sums have one order, so that "bit-equal"
# does not depend on the machine.
torch.set_num_threads(1)

# The same examples on every run: a red test means a change in the code, never luck.
settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=40, database=None)
settings.load_profile("fixed")


@pytest.fixture(autouse=True)
def _same_everywhere(tmp_path_factory, monkeypatch):
    """The same random numbers for every test; the archives of the person who runs it are neither read nor written."""
    torch.manual_seed(0)
    monkeypatch.setenv("DNET_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(20260)
