"""Pictures: shapes are drawn where they are, the page is small, safe and the same at every run, mistakes are named."""

import base64
import html.parser
import io
import json
import subprocess
import sys
import zlib
from types import SimpleNamespace

import msgpack
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from PIL import Image
from scipy.spatial.transform import Rotation

from dnet_lib import viz
from dnet_lib.viz import raster


def box(resolution: int = 8) -> np.ndarray:
    """A solid block in the middle of the grid."""
    shape = np.zeros((resolution,) * 3)
    quarter = resolution // 4
    shape[quarter:-quarter, quarter:-quarter, quarter:-quarter] = 1
    return shape


def marker(y: int, x: int, z: int, resolution: int = 8) -> np.ndarray:
    """One full voxel."""
    shape = np.zeros((resolution,) * 3)
    shape[y, x, z] = 1
    return shape


def objects(scene: viz.Scene) -> list[dict]:
    """The k3d objects of a scene's page, as scene.js will read them."""
    data = settings(scene)["data"]
    return msgpack.unpackb(zlib.decompress(base64.b64decode(data)), strict_map_key=False)["objects"]


class Reader(html.parser.HTMLParser):
    """Collects start tags with their attributes, and the text of <script type="application/json">."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.json = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.tags and self.tags[-1] == ("script", {"type": "application/json"} | self.tags[-1][1]):
            self.json += data

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


def settings(scene: viz.Scene) -> dict:
    document = Reader(scene.html()).all("iframe")[0]["srcdoc"]
    return json.loads(Reader(document).json)


def drawn(shape: np.ndarray, color: str = viz.SHAPE) -> np.ndarray:
    """The pixels of a shape, 200 x 160, 100 of them a side of its grid."""
    return raster.draw(shape.astype(bool), 200, 160, 100.0, color)


@pytest.mark.parametrize("place", [(0, 0, 0), (7, 0, 0), (0, 7, 0), (0, 0, 7), (3, 6, 5)])
def test_a_voxel_is_drawn_where_it_is(place):
    pixels = drawn(marker(*place))
    row, column = np.nonzero(pixels[..., 3] > 128)
    y, x, z = (np.array(place) + 0.5) / 8 - 0.5
    turn = Rotation.from_euler("zx", [raster.YAW, raster.PITCH], degrees=True)
    right, _, up = turn.apply([x, y, z])
    assert column.mean() == pytest.approx(100 + 100 * right, abs=1)
    assert row.mean() == pytest.approx(80 - 100 * up, abs=1)


def test_up_is_up_the_front_looks_at_the_reader_and_light_comes_from_above():
    def middle(*place):
        row, column = np.nonzero(drawn(marker(*place))[..., 3])
        return row.mean(), column.mean()

    assert middle(3, 3, 7)[0] < middle(3, 3, 0)[0]  # the last axis is up
    assert middle(3, 7, 3)[1] > middle(3, 0, 3)[1]  # the second axis is x, to the right
    assert middle(0, 3, 3)[0] > middle(7, 3, 3)[0]  # the first axis is y, away from the reader and so higher
    pixels = drawn(box(), "#808080")
    colours, counts = np.unique(pixels[pixels[..., 3] == 255][:, 0], return_counts=True)
    faces = sorted(colours[np.argsort(counts)[-3:]])  # the block shows three faces, each of one grey
    assert faces == sorted(round(128 * shade) for shade in face_shades())


def face_shades() -> list[float]:
    """Brightness of the faces -x, -y and +z under the lights of k3d's camera; the top is the brightest."""
    turn = Rotation.from_euler("zx", [raster.YAW, raster.PITCH], degrees=True)
    lights = {raster.KEY_LIGHT: 0.4, (0, 0, 1): 0.15, (-0.25, -1, 1): 0.15, (-2.5, 0.4, -1): 0.1}
    shades = []
    for x, y, z in turn.apply([[-1, 0, 0], [0, -1, 0], [0, 0, 1]]):
        cosines = {light: max(0, np.dot((x, z, -y), light) / np.linalg.norm(light)) for light in lights}
        shades.append(0.2 + raster.LIGHTING * sum(cosines[light] * lights[light] for light in lights))
    assert max(shades) == shades[2]
    return shades


def test_near_voxels_hide_far_ones():
    wall = np.zeros((8, 8, 8), bool)
    wall[0] = True  # the front
    behind = wall.copy()
    behind[4, 5, 3] = True
    assert np.array_equal(drawn(wall), drawn(behind))


def test_k3d_gets_the_grid_as_z_y_x():
    (item,) = objects(viz.show(marker(1, 6, 4)))
    data = np.frombuffer(zlib.decompress(item["voxels"]["compressed_data"]), np.uint8).reshape(item["voxels"]["shape"])
    assert np.argwhere(data).tolist() == [[4, 1, 6]]


def test_at_every_time_only_the_shapes_of_its_step_are_seen():
    scene = viz.show(np.stack([np.stack([box(4), box(4)])] * 5), chain=True)
    items = objects(scene)
    assert [item["id"] for item in items] == list(range(1, 11))

    def seen(item, time):
        keys = sorted((float(key), value) for key, value in item["visible"].items())
        return [value for key, value in keys if key <= time][-1]

    for time in range(5):
        assert [item["id"] for item in items if seen(item, time)] == [2 * time + 1, 2 * time + 2]


@pytest.mark.parametrize(
    ("shapes", "chain", "steps", "count"),
    [
        (np.ones((4, 4, 4)), False, 1, 1),
        (np.ones((1, 4, 4, 4)), False, 1, 1),
        (np.ones((3, 4, 4, 4)), False, 1, 3),
        (np.ones((3, 1, 1, 1)), False, 1, 3),
        (np.ones((3, 1, 4, 4, 4)), False, 1, 3),
        ([np.ones((4, 4, 4)), np.ones((2, 1, 8, 8, 8))], False, 1, 3),
        (np.ones((5, 4, 4, 4)), True, 5, 1),
        (np.ones((5, 2, 4, 4, 4)), True, 5, 2),
        (np.ones((5, 2, 1, 4, 4, 4)), True, 5, 2),
        ([np.ones((2, 1, 4, 4, 4))] * 5, True, 5, 2),
    ],
)
def test_every_form_of_shapes_is_understood(shapes, chain, steps, count):
    scene = viz.show(shapes, chain=chain)
    assert (len(scene.steps), len(scene.steps[0])) == (steps, count)
    assert bool(scene.labels) == chain


def test_tensors_are_shown_as_arrays_are():
    batch = torch.rand(3, 1, 6, 6, 6, requires_grad=True)
    assert viz.show(batch).html() == viz.show(batch.detach().numpy()).html()
    assert viz.show(batch > 0.5).png() == viz.show(batch, threshold=0.5).png()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"shapes": np.ones((4, 4))}, "not \\(4, 4\\)"),
        ({"shapes": np.ones((4, 5, 4))}, "\\(R, R, R\\)"),
        ({"shapes": np.ones((2, 3, 4, 4, 4))}, "\\(N, 1, R, R, R\\)"),
        ({"shapes": np.full((4, 4, 4), np.nan)}, "NaN"),
        ({"shapes": np.ones((0, 4, 4, 4))}, "empty"),
        ({"shapes": np.ones((0, 4, 4, 4)), "chain": True}, "empty"),
        ({"shapes": []}, "empty"),
        ({"shapes": np.ones((2, 4, 4, 4)), "labels": ["one"]}, "1 labels for 2 shapes"),
        ({"shapes": np.ones((2, 4, 4, 4)), "labels": ["one"], "chain": True}, "1 labels for 2 steps"),
        ({"shapes": [np.ones((4, 4, 4)), np.ones((8, 8, 8))], "chain": True}, "same number of shapes"),
    ],
)
def test_mistakes_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        viz.show(**arguments)


def test_every_front_end_finds_what_it_can_show():
    for scene in (viz.show(box(), alt="a block"), viz.show([box()] * 3, chain=True, alt="a block")):
        data, metadata = scene._repr_mimebundle_()
        assert {"application/vnd.jupyter.widget-view+json", "text/html", "image/png", "text/plain"} <= set(data)
        assert data["text/plain"] == repr(scene) == "a block"
        picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
        assert picture.mode in ("P", "RGB")  # opaque
        assert metadata["image/png"]["width"] == picture.width // 2


def test_the_page_has_alt_text_and_a_title_and_no_ids_that_clash():
    page = Reader(viz.show([box()] * 3, chain=True, alt='a "block" & more').html())
    assert page.all("img")[0]["alt"] == 'a "block" & more'
    assert 'a "block" & more' in page.all("iframe")[0]["title"]
    assert not any("id" in attributes for _, attributes in page.tags)


def test_labels_cannot_break_out_of_the_page():
    evil = "</script><script>alert(1)</script>"
    scene = viz.show([box(), box()], labels=[evil, "<b>"], alt=evil)
    assert settings(scene)["captions"] == [evil, "<b>"]
    assert len(Reader(Reader(scene.html()).all("iframe")[0]["srcdoc"]).all("script")) == 2


def test_the_html_is_the_same_at_every_run():
    code = (
        "import numpy as np; from dnet_lib import viz;"
        "print(viz.show(np.random.default_rng(0).random((3, 2, 8, 8, 8)), chain=True, captions=['a', 'b']).html())"
    )
    here = viz.show(np.random.default_rng(0).random((3, 2, 8, 8, 8)), chain=True, captions=["a", "b"]).html()
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, encoding="utf-8")
    assert there.stdout.rstrip("\n") == here


def test_pages_stay_small():
    rng = np.random.default_rng(0)
    noise = rng.random((32, 32, 32)) < 0.4
    assert len(viz.show(box(32)).html()) < 10_000
    assert len(viz.show(np.stack([box(32)] * 20), chain=True).html()) < 25_000
    assert len(viz.show([noise] * 3)._poster()) < 15_000
    assert len(viz.show(noise)._poster()) < 15_000


def test_an_empty_shape_and_one_voxel_can_be_shown():
    for scene in (viz.show(np.zeros((4, 4, 4))), viz.show(np.ones((1, 1, 1)))):
        assert scene.png() and scene.html()


def test_a_grid_keeps_the_authors_columns():
    assert settings(viz.show(np.ones((16, 4, 4, 4)), columns=8))["columns"] == 8
    wide, tall = (viz.show(np.ones((16, 4, 4, 4)), columns=columns).height for columns in (8, 2))
    assert wide < tall


def test_a_scene_is_saved_as_a_picture_or_as_one_whole_page(tmp_path):
    scene = viz.show([box()] * 2, chain=True)
    picture, page = scene.save(tmp_path / "a.png"), scene.save(tmp_path / "a.html")
    assert Image.open(picture).size[0] > 100
    assert "CreateK3DAndLoadBinarySnapshot" in page.read_text("utf-8")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.html", "a.png"]
    with pytest.raises(ValueError, match=r"\.png or \.html"):
        scene.save(tmp_path / "a.gif")


def curve(height: float = 1.0, dashed: bool = False, width: float = 3.0):
    fig, axes = plt.subplots(figsize=(width, 2))
    axes.plot([0, height], ls="--" if dashed else "-")
    axes.set_ylim(0, 4)
    return fig


def cloud(**arguments) -> viz.Points:
    """Six points in two groups."""
    xyz = [[0, 0, 0], [4, 0, 0], [0, 2, 0], [0, 0, 2], [1, 1, 1], [2, 2, 2]]
    return viz.points(torch.tensor(xyz), np.array([0, 0, 0, 1, 1, 1]), **arguments)


def test_points_keep_their_places_and_groups():
    scene = cloud(names=["chairs & stools", "tables"])
    assert [(item["type"], item["name"]) for item in objects(scene)] == [("Points", name) for name in scene.names]
    assert [len(part) for part in scene.clouds] == [3, 3]
    found = np.concatenate(scene.clouds)
    assert np.linalg.norm(found, axis=1).max() == pytest.approx(0.5)
    assert (found[1] - found[0]) / (found[2] - found[0])[1] == pytest.approx([2, 0, 0])


def test_points_have_a_legend_that_cannot_break_out_of_the_page():
    document = Reader(cloud(names=["<b>chairs", "tables"]).html()).all("iframe")[0]["srcdoc"]
    assert [button["data-group"] for button in Reader(document).all("button")] == ["0", "1"]
    assert not Reader(document).all("b")
    assert settings(cloud())["corner"] == 0
    assert settings(viz.show(box()))["corner"] == -0.5


def test_the_picture_of_points_shows_the_colours_of_its_groups():
    pixels = np.asarray(Image.open(io.BytesIO(cloud().png())).convert("RGB")).astype(int)
    for color in viz.GROUPS[:2]:
        paint = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
        assert (np.abs(pixels - paint).sum(-1) < 30).sum() > 200
    poster = np.asarray(Image.open(io.BytesIO(cloud()._poster())).convert("RGBA"))
    assert poster[0, 0, 3] == 0
    assert poster[..., 3].max() == 255


def test_one_point_and_an_empty_group_can_be_shown():
    scene = viz.points(np.zeros((1, 3)), np.array([1]), names=["none", "one"])
    assert [len(part) for part in scene.clouds] == [0, 1]
    assert scene.png()[:4] == b"\x89PNG"
    assert scene.html() == viz.points(np.zeros((1, 3)), np.array([1]), names=["none", "one"]).html()


@pytest.mark.parametrize(
    ("xyz", "groups", "words"),
    [
        (np.zeros((4, 2)), np.zeros(4, int), r"\(N, 3\)"),
        (np.zeros((0, 3)), np.zeros(0, int), "at least one"),
        (np.full((2, 3), np.nan), np.zeros(2, int), "NaN"),
        (np.zeros((2, 3)), np.zeros(3, int), "2 points"),
        (np.zeros((2, 3)), np.zeros(2), "whole numbers"),
        (np.zeros((2, 3)), np.array([0, -1]), "0 to 0"),
        (np.zeros((2, 3)), np.array([0, 10]), "at most"),
    ],
)
def test_mistakes_in_points_are_named(xyz, groups, words):
    with pytest.raises(ValueError, match=words):
        viz.points(xyz, groups)


def test_a_figure_is_closed_and_has_alt_text():
    before = len(plt.get_fignums())
    picture = viz.figure(curve(), 'a line & "more"')
    assert len(plt.get_fignums()) == before
    assert Reader(picture.html()).all("img")[0]["alt"] == 'a line & "more"'
    data, _ = picture._repr_mimebundle_()
    assert set(data) == {"text/html", "image/png", "text/plain"}
    with pytest.raises(ValueError, match="alt text"):
        viz.figure(curve(), " ")


def test_a_flipbook_shows_the_picture_of_its_controls():
    drawn = []

    def draw(height, dashed):
        drawn.append((height, dashed))
        return curve(height, dashed)

    book = viz.flipbook(draw, {"height": [1.0, 2.0, 3.0], "dashed": [False, True]}, "a line", play="height")
    assert drawn == [(1.0, False), (1.0, True), (2.0, False), (2.0, True), (3.0, False), (3.0, True)]
    page = Reader(book.html())
    pictures = [base64.b64decode(uri.split(",")[1]) for uri in json.loads(page.json)]
    assert pictures[3] == viz.figure(curve(2.0, True), "-").content  # the last control runs fastest
    (slider,), (menu,) = page.all("input"), page.all("select")
    assert (slider["data-control"], slider["max"], slider["data-texts"]) == ("height", "2", '["1", "2", "3"]')
    assert (menu["data-control"], menu["data-texts"]) == ("dashed", '["off", "on"]')
    assert len(page.all("button")) == 1
    assert not any("id" in attributes for _, attributes in page.tags)


def test_a_film_has_one_figure_for_each_label():
    film = viz.frames((curve(height) for height in (1, 2, 3)), [0, 10, 20], "a line")
    (slider,) = Reader(film.html()).all("input")
    assert (slider["data-control"], slider["data-texts"]) == ("step", '["0", "10", "20"]')
    assert len(json.loads(Reader(film.html()).json)) == 3
    with pytest.raises(ValueError, match="only 2 figures"):
        viz.frames((curve(height) for height in (1, 2)), [0, 10, 20], "a line")
    with pytest.raises(ValueError, match="more figures"):
        viz.frames((curve(height) for height in (1, 2)), [0], "a line")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"controls": {}}, "at least one control"),
        ({"controls": {"width": []}}, "at least one value"),
        ({"controls": {"width": [3.0, 4.0]}}, "one size"),
        ({"controls": {"width": [3.0]}, "play": "speed"}, "no control 'speed'"),
        ({"controls": {"width": [3.0]}, "alt": ""}, "alt text"),
    ],
)
def test_mistakes_in_a_flipbook_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        viz.flipbook(**{"draw": lambda width: curve(width=width), "alt": "a line", **arguments})
    plt.close("all")


def test_where_there_is_a_kernel_a_flipbook_gives_way_to_its_live_panel():
    from ipywidgets import IntSlider

    data, _ = viz.flipbook(curve, {"height": [1.0, 2.0]}, "a line", live=IntSlider())._repr_mimebundle_()
    assert {"application/vnd.jupyter.widget-view+json", "text/html"} <= set(data)


def test_a_widget_of_colabs_ipywidgets_7_is_shown_too():
    """These have no mime bundle of their own."""
    old = SimpleNamespace(model_id="9f")
    data, _ = viz.flipbook(curve, {"height": [1.0, 2.0]}, "a line", live=old)._repr_mimebundle_()
    assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == "9f"
    assert "text/html" in data


def test_the_style_is_opaque_and_its_colours_differ_in_lightness():
    with plt.rc_context():
        viz.plot_style()
        assert plt.rcParams["savefig.facecolor"] == viz.PAPER
    greys = [np.dot([0.3, 0.59, 0.11], [int(colour[i : i + 2], 16) for i in (1, 3, 5)]) for colour in viz.PALETTE[:4]]
    assert np.diff(sorted(greys)).min() > 2
