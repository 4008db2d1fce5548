"""Tables 1 to 3, from results files."""

import json

import pytest

from dnet_lib import tables
from dnet_lib.errors import CheckpointError
from dnet_lib.paper import PAPER_TABLES


def write(folder, name, **metrics):
    path = folder / "synthesis" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"metrics": metrics}))


def test_a_table_averages_the_categories_there_are(tmp_path):
    write(tmp_path, "bed", class_error=0.1, class_error_views=0.2)
    write(tmp_path, "sofa", class_error=0.3, class_error_views=0.0)
    header, lines = tables.rows("table3", results=tmp_path)
    assert [line[0] for line in lines] == ["bed", "sofa", "mean of 2"]
    assert len(header) == len(lines[0]) == 6
    bed, _, mean = lines
    assert (bed[1], bed[3], bed[5]) == (0.1, 0.2, PAPER_TABLES["class_error"]["bed"]["ours"])
    assert (mean[1], mean[3]) == pytest.approx((0.2, 0.1))
    assert mean[5] == pytest.approx((0.0583 + 0.0397) / 2)


def test_table_1_sets_the_score_of_real_shapes_beside_ours(tmp_path):
    write(tmp_path, "all", inception_score=6.0, inception_score_views=6.5)
    _, [line] = tables.rows("table1", results=tmp_path)
    assert (line[1], line[3], line[5]) == (6.0, 6.5, 11.772)
    assert 7 < line[2] < 10 and 7 < line[4] < 10


def test_a_table_without_its_model_says_what_to_do(tmp_path):
    write(tmp_path, "bed", class_error=0.1)
    with pytest.raises(CheckpointError, match="train it with table1"):
        tables.rows("table1", results=tmp_path)


def test_a_table_as_text_is_markdown():
    assert tables.text(("", "a"), [("x", 0.5)]) == "|  | a |\n| --- | --- |\n| x | 0.5000 |"
