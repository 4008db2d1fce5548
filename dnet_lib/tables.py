"""Tables 1 to 4 as text: ours, the paper's, and what the judges say of real test shapes."""

from pathlib import Path

from dnet_lib.checkpoints import RESULTS, load_results
from dnet_lib.errors import CheckpointError
from dnet_lib.paper import PAPER_TABLES

JUDGES = {"voxnet": "", "views": "_views"}  #: The judges, and what ends the names of their numbers in results
METRICS = {"table1": "inception_score", "table2": "class_probability", "table3": "class_error"}

Row = tuple[str | float, ...]


Table = tuple[tuple[str, ...], list[Row]]  #: Header and rows


def rows(table: str, experiment: str = "synthesis", *, results: Path = RESULTS) -> Table:
    """Header and rows of "table1", "table2" or "table3", from the results files.

    Beside ours, by each judge, stand its number for the real test shapes and the paper's own model.
    """
    metric, whole = METRICS[table], table == "table1"
    ours, paper = load_results(experiment, folder=results), PAPER_TABLES[metric]
    judges = load_results("judges") | (load_results("judges", folder=results) if (results / "judges").is_dir() else {})
    if whole and "all" not in ours:
        raise CheckpointError(f"no results of the model of all categories in {results}: train it with table1")
    lines: list[Row] = []
    for category in [c for c in (["all"] if whole else paper) if c in ours]:
        numbers = []
        for judge, ending in JUDGES.items():
            real = judges[judge]["metrics"] if whole else judges[judge]["real"][category]
            numbers += [ours[category]["metrics"][metric + ending], real[metric]]
        lines.append((category, *numbers, paper["ours"][0] if whole else paper[category]["ours"]))
    header = ("", *(f"{who}, {judge}" for judge in JUDGES for who in ("ours", "real test shapes")), "paper")
    return header, lines if whole else _with_mean(lines)


def _with_mean(lines: list[Row]) -> list[Row]:
    columns = zip(*(line[1:] for line in lines), strict=True)
    return [*lines, (f"mean of {len(lines)}", *(sum(map(float, column)) / len(lines) for column in columns))]


RECOVERIES = {
    "ours": "recovery_error",
    "ours, continuous": "recovery_error_continuous",
    "local mean": "recovery_error_local_mean",
    "training mean": "recovery_error_training_mean",
    "nearest shape": "recovery_error_nearest_shape",
    "auto-encoder": "recovery_error_denoiser",
}


def recovery(experiment: str = "recovery", *, results: Path = RESULTS) -> Table:
    """Header and rows of Table 4, from the results files of "recovery" or "recovery_box"."""
    ours, paper = load_results(experiment, folder=results), PAPER_TABLES["recovery_error"]
    known = {category: ours[category]["metrics"] for category in paper if category in ours}
    columns = {head: key for head, key in RECOVERIES.items() if all(key in metrics for metrics in known.values())}
    lines: list[Row] = [(c, *(m[key] for key in columns.values()), *paper[c].values()) for c, m in known.items()]
    return ("", *columns, *(f"paper, {method}" for method in paper["sofa"])), _with_mean(lines)


def text(header: tuple[str, ...], lines: list[Row]) -> str:
    """A table in Markdown."""
    cells = [header, ("---",) * len(header)]
    cells += [tuple(f"{x:.4f}" if isinstance(x, float) else str(x) for x in line) for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)
