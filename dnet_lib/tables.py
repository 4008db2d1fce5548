"""Tables 1 to 4 as text: ours, the paper's, and what the judges say of real test shapes."""

from pathlib import Path

from dnet_lib.checkpoints import RESULTS, load_results
from dnet_lib.errors import CheckpointError
from dnet_lib.paper import PAPER_TABLES

JUDGES = {"voxnet": "", "views": "_views"}  #: The judges, and what ends the names of their numbers in results
METRICS = {"table1": "inception_score", "table2": "class_probability", "table3": "class_error"}

Row = tuple[str | float, ...]


def rows(table: str, *, results: Path = RESULTS) -> tuple[tuple[str, ...], list[Row]]:
    """Header and rows of "table1", "table2" or "table3", from the results files.

    Beside ours, by each judge, stand its number for the real test shapes and the paper's own model.
    """
    metric = METRICS[table]
    ours, paper = load_results("synthesis", folder=results), PAPER_TABLES[metric]
    judges = load_results("judges") | (load_results("judges", folder=results) if (results / "judges").is_dir() else {})
    header = ("", *(f"{who}, {judge}" for judge in JUDGES for who in ("ours", "real test shapes")), "paper")
    if table == "table1":
        if "all" not in ours:
            raise CheckpointError(f"no results of the model of all categories in {results}: train it with table1")
        whole = ours["all"]["metrics"]
        numbers = [x for j, end in JUDGES.items() for x in (whole[metric + end], judges[j]["metrics"][metric])]
        return header, [("all", *numbers, paper["ours"][0])]
    lines: list[Row] = []
    for category in paper:
        if category in ours:
            here = ours[category]["metrics"]
            numbers = [
                x for j, end in JUDGES.items() for x in (here[metric + end], judges[j]["real"][category][metric])
            ]
            lines.append((category, *numbers, paper[category]["ours"]))
    columns = zip(*(line[1:] for line in lines), strict=True)
    return header, [*lines, (f"mean of {len(lines)}", *(sum(map(float, c)) / len(lines) for c in columns))]


RECOVERIES = {
    "ours": "recovery_error",
    "ours, continuous": "recovery_error_continuous",
    "local mean": "recovery_error_local_mean",
    "training mean": "recovery_error_training_mean",
    "nearest shape": "recovery_error_nearest_shape",
    "auto-encoder": "recovery_error_denoiser",
}


def recovery(experiment: str = "recovery", *, results: Path = RESULTS) -> tuple[tuple[str, ...], list[Row]]:
    """Header and rows of Table 4, from the results files of "recovery" or "recovery_box"."""
    ours, paper = load_results(experiment, folder=results), PAPER_TABLES["recovery_error"]
    columns = {k: key for k, key in RECOVERIES.items() if all(key in ours[c]["metrics"] for c in paper if c in ours)}
    header = ("", *columns, *(f"paper, {method}" for method in paper["sofa"]))
    lines: list[Row] = [
        (c, *(ours[c]["metrics"][key] for key in columns.values()), *paper[c].values()) for c in paper if c in ours
    ]
    means = (sum(map(float, column)) / len(lines) for column in zip(*(line[1:] for line in lines), strict=True))
    return header, [*lines, (f"mean of {len(lines)}", *means)]


def text(header: tuple[str, ...], lines: list[Row]) -> str:
    """A table in Markdown."""
    cells = [header, ("---",) * len(header)]
    cells += [tuple(f"{x:.4f}" if isinstance(x, float) else str(x) for x in line) for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)
