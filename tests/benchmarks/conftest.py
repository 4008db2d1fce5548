"""Timings run only when asked for: pytest tests/benchmarks --benchmark-only."""

from pathlib import Path

import pytest


def pytest_collection_modifyitems(config, items):
    if config.getoption("benchmark_only", default=False):
        return
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="a timing: run with --benchmark-only"))
