"""The paper's published numbers: what it reports in Tables 1 to 5, "ours" being its own model."""

import json
from pathlib import Path
from typing import Any

PAPER_TABLES: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "paper.json").read_text())
"""Table 1 (mean, standard deviation), Tables 2 to 5 by metric, then category or method.

The averages are the printed ones: that of Table 3's first column, 0.0968, is not the mean of its rows, 0.0671.
"""
