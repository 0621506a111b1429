"""What the course stands on: its example, figures, timings, sliders, and the comparison of a learner's own array."""

import re
import sys

import numpy as np
import pytest
from PIL import Image

import minivitpose as mvp
from minivitpose import teach
from minivitpose.pose import network_input
from minivitpose.pose.crop import STD
from minivitpose.teach import figures, notebook
from minivitpose.teach.example import recorded, scene_and_crop, token_at
from minivitpose.teach.race import duration


@pytest.fixture(scope="module")
def example():
    return teach.example()


def test_the_scene_is_the_recorded_one():
    """At most a grey level apart, for another CPU's roundings; else the wrong scene or person was recorded."""
    scene, person = scene_and_crop((256, 192))
    off = np.abs(network_input(person) - recorded().images) * STD.max() * 255
    assert scene.image.shape == (480, 640, 3) and len(scene.people) == 5 and np.quantile(off, 0.999) < 2


def test_tokens_are_found_by_their_place(example):
    config = mvp.load("mini", "numpy").config
    assert token_at((0, 0), config) == 0 and token_at((13.9, 14), config) == 12
    assert token_at((191, 255), config) == 191 == token_at((500, 500), config) and token_at((-50, -9), config) == 0
    x, y = example.crop.from_picture(example.people[example.person].keypoints[9, :2])
    token = example.token_of("left_wrist")
    assert token == (int(y + 2) // 16) * 12 + int(x + 2) // 16


def test_the_example_is_the_models_own_and_made_once(example):
    assert example is teach.example()
    assert list(example.cache)[-1] == "keypoint_head.final_layer" and len(example.cache) == 147
    assert np.array_equal(example.heatmaps, example.model(example.images))
    assert len(example.poses) == len(example.boxes) == 5
    assert example.block["norm1"]["weight"].shape == (96,)


def test_a_learners_array_beside_the_reference(example):
    name = "backbone.blocks.1.attn.z"
    right = example.cache[name]
    assert teach.against_reference(name, right).ok
    assert not teach.against_reference(name, right.astype(np.float64)).ok
    exact = mvp.load("mini", "numpy", dtype="float64").run_with_cache(example.images.astype(np.float64))[1][name]
    assert teach.against_reference(name, exact).ok
    for wrong in (np.zeros_like(right), right + 1e-3 * np.abs(right).max(), right[:, ::-1], right[0], right * 1.001):
        report = teach.against_reference(name, wrong)
        assert not report.ok and report.first_divergence.name == name
    other = "backbone.blocks.0.norm1"
    both = teach.against_reference({other: example.cache[other], name: right * 1.01})
    assert [row.ok for row in both.rows] == [True, False] and not both.ok and both.total == 2
    with pytest.raises(ValueError, match=r"no activation 'attn.z': its names are backbone.blocks.0.attn.z, backbone"):
        teach.against_reference("attn.z", right)


def test_a_race_keeps_the_fastest_calls():
    calls = []
    result = teach.race({"a": lambda x: calls.append(x), "b & c": lambda x: sum(range(4000))}, 7, seconds=0.002)
    assert set(calls) == {7} and list(result.seconds) == ["a", "b & c"]
    assert result.times("b & c", "a") > 1 and "b &amp; c" in result._repr_html_()
    assert re.search(r"^b & c +\d.* [mµn]?s +\S+ x$", str(result), re.MULTILINE)
    assert [duration(s) for s in (2.0, 0.0123, 4.56e-5, 7e-9)] == ["2 s", "12.3 ms", "45.6 µs", "7 ns"]


def every_figure(example):
    maps = [example.cache["backbone.blocks.0.attn.pattern"][0, 1, 5], example.heatmaps[0, 3]]
    yield figures.over_crop(example.crop, maps, ["attention", "heatmap"], token=[5, None])
    yield figures.tiles([np.eye(4), np.zeros((3, 3, 3), np.uint8)], ["a", "b"], limits="signed", title="t")
    yield figures.numbers(np.arange(6.0).reshape(2, 3), rows="ab", columns="xyz")
    yield figures.lines(np.arange(1, 4), {"one": [1, 2, 3], "two": [3, 2, 1]}, ("x", "y"), log=True, marker="o")
    yield figures.lines(range(3), {f"block {i}": [i, i + 1, 3] for i in range(12)}, ordered=True)
    yield figures.bars({"numpy": 2.0, "numba": 1.0}, "ms", "times")
    yield figures.histograms({"before": np.arange(5), "after": np.arange(5) / 2})
    yield figures.errors(np.eye(3), np.ones((3, 3)))
    yield figures.people(example.image, example.poses, example.skeleton)


def test_curves_in_order_run_from_dark_to_light():
    figure = figures.lines(range(3), {f"block {i}": [i, i + 1, 3] for i in range(12)}, ordered=True)
    light = [np.mean(line.get_color()[:3]) for line in figure.axes[0].get_lines()]
    assert len(light) == 12 and light == sorted(light) and light[-1] > light[0] + 0.1


def test_a_top_keeps_one_large_number_from_leaving_all_others_dark():
    matrix = np.array([[0.0, 1.0, 2.0], [3.0, 10.0, 500.0]])
    shades = [figures.numbers(matrix, top=top).axes[0].get_images()[0].norm(matrix) for top in (None, 10)]
    assert shades[0][1, 1] < 0.03 and shades[1][1, 1] == 1 and shades[1][0, 2] == 0.2


def test_figures_show_and_save_themselves(example, tmp_path):
    figures.drawn.clear()
    shown = list(every_figure(example))
    for figure in shown:
        png = figure._repr_mimebundle_()["image/png"]
        assert png[:4] == b"\x89PNG" and len(png) < 300_000
        (tmp_path / "x.png").write_bytes(png)
        with Image.open(tmp_path / "x.png") as picture:
            assert picture.width <= figures.WIDTH and len(picture.convert("RGB").getcolors(256)) > 5
    paths = teach.save_figures(tmp_path / "figures")
    assert len(paths) == len(shown) and paths[0].name == "01-over-crop.svg"
    assert all(path.read_text().rstrip().endswith("</svg>") for path in paths)


def test_maps_lie_over_the_crop_where_their_tokens_are(example):
    """A map with one bright token: the marked square is the bright one."""
    values = np.zeros(192)
    values[5 * 12 + 7] = 1
    axes = figures.over_crop(example.crop, [values], ["one"], token=5 * 12 + 7).axes[0]
    shown = axes.images[-1]
    left, right, low, top = shown.get_extent()
    assert (left, right, low, top) == (-2.5, 189.5, 253.5, -2.5)
    square = axes.patches[-1]
    assert square.get_xy() == (7 * 16 - 2.5, 5 * 16 - 2.5) and shown.get_array()[5, 7] == 1


def test_sliders_where_there_are_some_and_a_still_picture_elsewhere(monkeypatch):
    pytest.importorskip("IPython")
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    monkeypatch.setenv(notebook.STATIC, "1")
    teach.explore(lambda token, head: (token, head), token=range(3, 6), head=("a", "b"))
    teach.explore(lambda token: token, still=lambda: "still", token=range(3))
    teach.explore(lambda token, head: (token, head), start={"head": "b"}, token=range(3, 6), head=("a", "b"))
    assert shown == [(3, "a"), "still", (3, "b")]
    monkeypatch.delenv(notebook.STATIC)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)  # as where it is not installed
    teach.explore(lambda token: token, token=range(7, 9))
    assert shown[-1] == 7


def test_sliders_redraw(monkeypatch):
    widgets = pytest.importorskip("ipywidgets")
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    monkeypatch.delenv(notebook.STATIC, raising=False)
    teach.explore(lambda token, name: f"{token} {name}", start={"token": 1}, token=range(3), name=("x", "y"))
    row, _ = shown[-1].children
    slider, menu = row.children
    assert isinstance(slider, widgets.SelectionSlider) and isinstance(menu, widgets.Dropdown)
    slider.value, menu.value = 2, "y"
    assert shown[0] == "1 x" and shown[-1] == "2 y"


def test_sliders_leave_one_figure_to_be_saved(monkeypatch):
    pytest.importorskip("ipywidgets")
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *what: shown.extend(what))
    monkeypatch.delenv(notebook.STATIC, raising=False)
    figures.drawn.clear()
    first = figures.canvas()
    teach.explore(lambda token: figures.canvas(name=f"token-{token}"), token=range(5))
    later = figures.canvas()
    (slider,) = shown[-1].children[0].children
    slider.value = 3
    slider.value = 4
    assert [name for name, _ in figures.drawn] == ["figure", "figure", "token-4"]
    assert figures.drawn[0][1] is first and figures.drawn[1][1] is later


def test_say_shows_markdown(monkeypatch):
    pytest.importorskip("IPython")
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    teach.say("**3** times")
    assert shown[0].data == "**3** times"
