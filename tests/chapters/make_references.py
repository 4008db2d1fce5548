"""Execute the chapters at smoke scale and store what the tests compare with: nbval's references and the key numbers.

Run it (`make references`) after a change that is meant to change results, and read the difference before committing.
"""

import argparse
import json
from pathlib import Path

import nbformat
import papermill
from tqdm.auto import tqdm

HERE = Path(__file__).parent
BOOK = HERE.parent.parent / "book"
EXPECTED = HERE / "expected.json"


def key_numbers(notebook: nbformat.NotebookNode) -> dict[str, float]:
    """What the cell tagged `key-numbers` printed."""
    (cell,) = (c for c in notebook.cells if "key-numbers" in c.metadata.get("tags", []))
    return json.loads("".join(output.text for output in cell.outputs if output.output_type == "stream"))


def main() -> None:
    """Execute and store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="chapters whose name contains this")
    arguments = parser.parse_args()
    expected = json.loads(EXPECTED.read_text()) if EXPECTED.exists() else {}
    chapters = [c for c in sorted(BOOK.glob("*.ipynb")) if arguments.only in c.name]
    for chapter in tqdm(chapters, unit="chapter"):
        target = HERE / "reference" / chapter.name
        run = papermill.execute_notebook(chapter, target, {"scale": "smoke"}, cwd=HERE, progress_bar=False)
        tolerances = {name: t for name, (_, t) in expected.get(chapter.stem, {}).items()}
        expected[chapter.stem] = {n: [value, tolerances.get(n, 0.05)] for n, value in key_numbers(run).items()}
        strip(target)
    EXPECTED.write_text(json.dumps(expected, indent=1, sort_keys=True) + "\n")


def strip(path: Path) -> None:
    """Keep only the outputs that nbval compares, and nothing of the machine that made them."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata = {k: v for k, v in notebook.metadata.items() if k in ("kernelspec", "language_info")}
    for cell in notebook.cells:
        cell.metadata = {"tags": cell.metadata.get("tags", [])}
        if cell.cell_type == "code":
            compared = "nbval-check-output" in cell.metadata["tags"]
            cell.execution_count = 1 if compared else None  # nbval asks for one
            cell.outputs = [o for o in cell.outputs if o.output_type != "display_data"] if compared else []
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = None
    nbformat.write(notebook, path)


if __name__ == "__main__":
    main()
