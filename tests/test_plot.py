"""Figures: the right size, the right thing at the right place, and matplotlib left as it was."""

import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.cbook import get_sample_data
from PIL import Image

from minivitpose import plot
from minivitpose.pose import COCO, Pose, Skeleton, crop, read_image, skeleton_for

HOPPER = read_image(get_sample_data("grace_hopper.jpg", asfileobj=False))


def pixels(figure):
    """(H, W, 3) uint8 of the drawn figure."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def pose_at(xy, box=(20, 20, 100, 100), scores=None):
    xy = np.float32(xy)
    return Pose(xy, np.full(len(xy), 0.9, np.float32) if scores is None else np.float32(scores), box)


def spread_pose(rng, width, height):
    return pose_at(rng.uniform((20, 20), (width - 20, height - 20), (17, 2)), (10, 10, width - 20, height - 20))


def demo(heads=12, keypoints=17, token=100, image=HOPPER, box=(10, 20, 495, 580)):
    rng = np.random.default_rng(0)
    pattern = rng.dirichlet(np.ones(192), (heads, 192)).astype(np.float32)
    heatmaps = rng.normal(size=(keypoints, 64, 48)).astype(np.float32)
    pose = pose_at(rng.uniform(0, 500, (keypoints, 2)), box)
    return plot.demo_figure(
        image, crop(image, box), pattern, heatmaps, pose, skeleton_for(keypoints), token, 3, "A note below."
    )


@pytest.mark.parametrize("size", [(200, 300), (97, 61), (40, 500)])
def test_a_picture_without_people_stays_as_it_is(size):
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    drawn = pixels(plot.draw_poses(picture, [], COCO))
    assert drawn.shape == picture.shape and np.array_equal(drawn, picture)


def test_joints_are_drawn_where_they_are():
    black = np.zeros((200, 300, 3), np.uint8)
    pose = spread_pose(np.random.default_rng(3), 300, 200)
    plain = Skeleton("no limbs", tuple("abcdefghijklmnopq"))  # no links, so that no limb hides a joint
    drawn = pixels(plot.draw_poses(black, [pose], plain))
    for x, y in np.rint(pose.keypoints).astype(int):
        assert drawn[y, x].min() > 200
    left = pixels(plot.draw_poses(black, [pose_at([(50, 60)] * 17)], COCO))
    assert not np.array_equal(left, black)


def test_left_is_blue_and_right_orange():
    black = np.zeros((200, 300, 3), np.uint8)
    xy = np.full((17, 2), (30, 30))
    xy[5:11:2], xy[6:11:2] = (220, 100), (80, 100)  # the left arm on the picture's right, as in a photograph
    drawn = pixels(plot.draw_poses(black, [pose_at(xy, (10, 10, 280, 180))], COCO)).astype(int)
    assert tuple(drawn[100, 220]) == COCO.colours[5] and tuple(drawn[100, 80]) == COCO.colours[6]
    assert drawn[100, 220, 2] > drawn[100, 220, 0] and drawn[100, 80, 0] > drawn[100, 80, 2]


@pytest.mark.parametrize("ground", [0, 128, 255])
def test_limbs_show_on_any_ground(ground):
    picture = np.full((300, 300, 3), ground, np.uint8)
    pose = spread_pose(np.random.default_rng(4), 300, 300)
    difference = np.abs(pixels(plot.draw_poses(picture, [pose], COCO)).astype(int) - ground).max(axis=-1)
    assert (difference > 100).mean() > 0.02
    middles = np.rint([pose.keypoints[list(link)].mean(axis=0) for link in COCO.links]).astype(int)
    assert all(difference[y - 3 : y + 4, x - 3 : x + 4].max() > 80 for x, y in middles)


def test_threshold_hides_joints_and_their_limbs():
    black = np.zeros((200, 300, 3), np.uint8)
    pose = spread_pose(np.random.default_rng(5), 300, 200)
    scores = np.linspace(0, 1, 17)
    weak = pose_at(pose.keypoints, pose.box, scores)
    everything, nothing = (pixels(plot.draw_poses(black, [weak], COCO, t)) for t in (None, 2.0))
    box_only = pixels(plot.draw_poses(black, [pose_at(np.zeros((1, 2)), pose.box, [0])], skeleton_for(1), 1))
    assert np.array_equal(nothing, box_only) and nothing.any()
    half = pixels(plot.draw_poses(black, [weak], COCO, 0.5))
    assert nothing.astype(bool).sum() < half.astype(bool).sum() < everything.astype(bool).sum()
    assert np.array_equal(everything, pixels(plot.draw_poses(black, [weak], COCO, 0.0)))


def test_people_have_boxes_of_their_own_colour():
    black = np.zeros((200, 300, 3), np.uint8)
    people = [pose_at([(5, 5)], box, [0]) for box in ((20, 20, 100, 150), (160, 20, 100, 150))]
    drawn = pixels(plot.draw_poses(black, people, skeleton_for(1), 1))
    a, b = (drawn[60:100, x - 3 : x + 4].reshape(-1, 3).max(axis=0) for x in (20, 160))
    assert a.max() > 100 and b.max() > 100 and not np.array_equal(a, b)


def test_a_wrong_skeleton_is_refused():
    with pytest.raises(ValueError, match="found 5 keypoints, expected 17"):
        plot.draw_poses(HOPPER, [pose_at(np.zeros((5, 2)))], COCO)


def test_save_keeps_the_size(tmp_path):
    figure = plot.draw_poses(HOPPER, [spread_pose(np.random.default_rng(6), 512, 600)], COCO)
    with matplotlib.rc_context({"savefig.bbox": "tight", "savefig.dpi": 50, "savefig.transparent": True}):
        for name in ("a.png", "a.jpg", "a.webp"):
            plot.save(figure, tmp_path / name)
            assert read_image(tmp_path / name).shape == HOPPER.shape
    assert np.array_equal(read_image(tmp_path / "a.png"), pixels(figure))


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
    pose = spread_pose(np.random.default_rng(8), 512, 600)
    plain = pixels(plot.draw_poses(HOPPER, [pose], COCO)), pixels(demo())
    with matplotlib.rc_context(settings):
        assert np.array_equal(pixels(plot.draw_poses(HOPPER, [pose], COCO)), plain[0])
        assert np.array_equal(pixels(demo()), plain[1])
