"""Figures: the right size, the right thing at the right place, and matplotlib left as it was."""

import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.cbook import get_sample_data
from PIL import Image

from minivitpose import plot
from minivitpose.pose import Pose, crop, read_image, skeleton_for

HOPPER = read_image(get_sample_data("grace_hopper.jpg", asfileobj=False))


def pixels(figure):
    """(H, W, 3) uint8 of the drawn figure."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def demo(heads=12, keypoints=17, token=100, image=HOPPER, box=(10, 20, 495, 580)):
    rng = np.random.default_rng(0)
    pattern = rng.dirichlet(np.ones(192), (heads, 192)).astype(np.float32)
    heatmaps = rng.normal(size=(keypoints, 64, 48)).astype(np.float32)
    pose = Pose(rng.uniform(0, 500, (keypoints, 2)).astype(np.float32), np.full(keypoints, 0.9, np.float32), box)
    return plot.demo_figure(
        image, crop(image, box), pattern, heatmaps, [pose], skeleton_for(keypoints), token, 3, "A note below."
    )


def test_save_keeps_the_size(tmp_path):
    figure = plot.new_figure(512, 600, dpi=72)
    plot.show_picture(figure.add_axes((0, 0, 1, 1)), HOPPER)
    with matplotlib.rc_context({"savefig.bbox": "tight", "savefig.dpi": 50, "savefig.transparent": True}):
        for name in ("a.png", "a.jpg", "a.webp"):
            plot.save(figure, tmp_path / name)
            assert read_image(tmp_path / name).shape == HOPPER.shape
    assert np.array_equal(read_image(tmp_path / "a.png"), HOPPER)
    with pytest.raises(ValueError, match="a.xyz: expected an ending of .png, .jpg, .webp, .pdf, .svg, .jpeg, found"):
        plot.save(figure, tmp_path / "a.xyz")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jpg", "a.png", "a.webp"]


def test_the_demo_shows_the_pose(monkeypatch):
    with_pose = pixels(demo()).astype(int)
    monkeypatch.setattr(plot, "draw_poses", lambda image, *_, **__: image)
    changed = np.abs(pixels(demo()) - with_pose).max(axis=-1) > 40
    assert 0.01 < changed[:, 1240:].mean() < 0.2 and not changed[:, :1240].any()


def test_the_demo_is_1600_wide_and_light(tmp_path):
    plot.save(demo(), tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as picture:
        assert picture.width == 1600 and 600 < picture.height < 900
    assert (tmp_path / "a.jpg").stat().st_size < 700_000


def test_the_demo_says_what_it_shows():
    figure = demo(heads=12, token=100)
    words = " ".join(t.get_text() for axes in figure.axes for t in axes.texts)
    for word in ("192 × 256", "16 × 12 tokens", "block 3, token 100, mean of 12 heads", "64 × 48", "nose", "head 11"):
        assert word in words
    assert [t.get_text() for t in figure.texts] == ["A note below."]


@pytest.mark.parametrize(("heads", "keypoints", "token"), [(1, 1, 0), (3, 5, 191), (16, 133, 11)])
def test_the_demo_for_other_models(heads, keypoints, token):
    landscape = np.random.default_rng(7).integers(0, 256, (120, 300, 3), dtype=np.uint8)
    drawn = pixels(demo(heads, keypoints, token, landscape, (100, 10, 60, 100)))
    assert drawn.shape[1] == 1600 and drawn.std() > 20


@pytest.mark.parametrize("heads", [1, 4, 6, 16])
def test_every_place_of_the_demo_is_taken_and_bare(heads):
    figure = demo(heads=heads)
    assert not any(axes.axison for axes in figure.axes)
    empty = [axes for axes in figure.axes if not axes.images]
    assert len(empty) == max(3 - heads, 0)  # one head alone needs room for the title


def test_nothing_sticks_out_of_the_demo():
    for image, box in (
        (HOPPER, (10, 20, 495, 580)),
        (HOPPER[:150], (10, 0, 60, 140)),
        (HOPPER[:, :90], (0, 20, 90, 500)),
    ):
        figure = demo(1, image=image, box=box)
        renderer = figure.canvas.get_renderer()
        figure.canvas.draw()
        width, height = figure.get_size_inches() * figure.dpi
        boxes = [t.get_window_extent(renderer) for axes in figure.axes for t in axes.texts]
        for b in boxes:
            assert b.x0 >= 0 and b.y0 >= 0 and b.x1 <= width and b.y1 <= height
        for i, a in enumerate(boxes):
            assert not any(a.shrunk(0.9, 0.7).overlaps(b.shrunk(0.9, 0.7)) for b in boxes[i + 1 :])


def test_patches_start_two_pixels_outside():
    c = crop(HOPPER, (10, 20, 495, 580))
    assert plot.patch_extent(c) == (-2.5, 189.5, 253.5, -2.5)
    left, right, bottom, top = plot.heatmap_extent(c, (64, 48))
    assert (left + right) / 2 == pytest.approx(95.5) and (top + bottom) / 2 == pytest.approx(127.5)
    assert left + 0.5 * 191 / 47 == pytest.approx(0) and bottom - 0.5 * 255 / 63 == pytest.approx(255)


def test_attention_lies_on_the_patch_it_belongs_to():
    """All attention of token 100 goes to token 37 = row 3, column 1: that patch alone is bright."""
    c = crop(np.zeros((300, 300, 3), np.uint8), (50, 50, 100, 150))
    pattern = np.zeros((2, 192, 192), np.float32)
    pattern[:, 100, 37] = 1
    figure = plot.new_figure(194 * 2, 258 * 2, 100)
    plot.show_attention(figure.add_axes((0, 0, 1, 1)), c, pattern, 100, 0)
    drawn = pixels(figure).astype(int)
    bright = (drawn[..., 1] > 120) & (drawn[..., 2] < 100)  # yellow
    rows, columns = np.nonzero(bright[:480])  # the band of colours lies below
    assert rows.min() == pytest.approx(3 * 32, abs=2) and rows.max() == pytest.approx(4 * 32, abs=2)
    assert columns.min() == pytest.approx(32, abs=2) and columns.max() == pytest.approx(64, abs=2)


def test_matplotlib_is_left_alone():
    before = dict(matplotlib.rcParams)
    pixels(demo())
    assert dict(matplotlib.rcParams) == before
    code = "import sys, minivitpose.plot; print('matplotlib.pyplot' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "False"


def test_settings_of_the_user_do_not_matter():
    settings = {"image.origin": "lower", "image.aspect": "auto", "figure.autolayout": True, "text.color": "red",
                "lines.markersize": 30, "figure.dpi": 33}  # fmt: skip
    plain = pixels(demo())
    with matplotlib.rc_context(settings):
        assert np.array_equal(pixels(demo()), plain)
