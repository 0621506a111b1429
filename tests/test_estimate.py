"""The whole way with a stand-in for the network: picture and boxes in, poses out. And the skeletons."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.cbook import get_sample_data
from PIL import Image

from minivitpose.pose import COCO, BoxError, ImageError, Pose, crop, estimate, network_input, skeleton_for

PICTURE = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
BOXES = [(100, 50, 60, 160), (220.5, 30, 90, 200), (-20, -30, 120, 140)]


class StandIn:
    """A network that marks the brightest red pixel: heatmap k is the red channel, sampled coarsely, plus k."""

    def __init__(self, num_keypoints=17, spoil=False):
        self.config = SimpleNamespace(image_size=(256, 192), num_keypoints=num_keypoints)
        self.seen, self.spoil = [], spoil

    def __call__(self, images):
        self.seen.append(images)
        red = images[:, :1].reshape(-1, 1, 64, 4, 48, 4).max(axis=(3, 5))
        heatmaps = red + np.arange(self.config.num_keypoints, dtype=np.float32)[:, None, None]
        if self.spoil:
            heatmaps[0, 0, 5, 5] = np.nan
        return heatmaps


def test_all_crops_go_through_the_network_at_once():
    model = StandIn()
    poses = estimate(model, PICTURE, BOXES)
    (images,) = model.seen
    assert images.shape == (3, 3, 256, 192) and images.dtype == np.float32
    for x, box in zip(images, BOXES, strict=True):
        assert np.array_equal(x, network_input(crop(PICTURE, box))[0])
    assert [p.box for p in poses] == [tuple(map(float, box)) for box in BOXES]
    for pose in poses:
        assert pose.keypoints.shape == (17, 2) and pose.keypoints.dtype == np.float32
        assert pose.scores.shape == (17,) and pose.scores.dtype == np.float32


def test_a_bright_spot_is_found_where_it_is():
    """A red disc in a dark picture: the keypoint lies on it to within one heatmap cell, about 4 of 192 pixels."""
    yy, xx = np.mgrid[:300, :400]
    for spot in ((130, 120), (160, 180), (101, 60)):
        picture = np.zeros((300, 400, 3), np.uint8)
        picture[..., 0] = 255 * np.exp(-((xx - spot[0]) ** 2 + (yy - spot[1]) ** 2) / 50)
        (pose,) = estimate(StandIn(), picture, [(80, 40, 100, 160)])
        cell = 200 / 63
        assert np.abs(pose.keypoints - spot).max() < cell
        assert np.ptp(pose.keypoints, axis=0).max() == 0


def test_the_way_back_is_the_udp_map():
    class Corner(StandIn):
        def __call__(self, images):
            heatmaps = np.zeros((len(images), 2, 64, 48), np.float32)
            heatmaps[:, 0, 0, 0] = heatmaps[:, 1, 63, 47] = 0.5
            return heatmaps

    (pose,) = estimate(Corner(2), PICTURE, [(100, 50, 60, 160)])
    assert np.allclose(pose.keypoints, [(130 - 75, 130 - 100), (130 + 75, 130 + 100)], atol=1e-4)
    assert pose.scores.tolist() == [0.5, 0.5]


def test_no_boxes():
    model = StandIn()
    assert estimate(model, PICTURE, []) == [] and model.seen == []
    (pose,) = estimate(model, PICTURE)
    assert pose.box == (0.0, 0.0, 400.0, 300.0)


def test_a_path_and_an_array_are_the_same(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    a, b = estimate(StandIn(), PICTURE, BOXES), estimate(StandIn(), tmp_path / "a.png", np.array(BOXES))
    assert all(np.array_equal(p.keypoints, q.keypoints) for p, q in zip(a, b, strict=True))
    photograph = get_sample_data("grace_hopper.jpg", asfileobj=False)
    assert estimate(StandIn(), str(photograph))[0].box == (0.0, 0.0, 512.0, 600.0)


def test_to_json_is_plain_and_complete():
    pose = estimate(StandIn(), PICTURE, BOXES)[1]
    again = json.loads(json.dumps(pose.to_json()))
    assert set(again) == {"keypoints", "scores", "box"}
    assert np.array_equal(np.float32(again["keypoints"]), pose.keypoints)
    assert np.array_equal(np.float32(again["scores"]), pose.scores) and again["box"] == list(pose.box)


@pytest.mark.parametrize(
    ("boxes", "says"),
    [
        ([(1, 2, 3, 4), (1, 2, 0, 4)], "box 1"),
        ((10, 20, 30, 40), r"give \[\(10, 20, 30, 40\)\]"),
        (np.array([10, 20, 30, 40]), "for one box"),
        (5, "expected a list"),
        (["box"], "box 0 box: expected four numbers"),
    ],
)
def test_bad_boxes_are_named(boxes, says):
    model = StandIn()
    with pytest.raises(BoxError, match=says) as caught:
        estimate(model, PICTURE, boxes)
    assert "\n" not in str(caught.value) and not model.seen


def test_bad_images_and_heatmaps(tmp_path):
    with pytest.raises(ImageError, match="no such file"):
        estimate(StandIn(), tmp_path / "a.jpg")
    with pytest.raises(ImageError, match="found list"):
        estimate(StandIn(), PICTURE.tolist())
    with pytest.raises(ImageError, match="transpose"):
        estimate(StandIn(), PICTURE.transpose(2, 0, 1))
    with pytest.raises(ValueError, match="NaN"):
        estimate(StandIn(spoil=True), PICTURE)


def test_a_pose_cannot_be_changed():
    with pytest.raises(AttributeError):
        Pose(np.zeros((1, 2)), np.zeros(1), (0, 0, 1, 1)).box = None


def test_coco():
    names = COCO.keypoints
    assert len(names) == len(set(names)) == len(COCO.sigmas) == len(COCO.colours) == 17
    assert skeleton_for(17) is COCO and len(COCO.links) == len(set(COCO.links)) == 19
    for a, b in COCO.flip_pairs:
        assert names[a].replace("left", "right") == names[b] != names[a]
        assert COCO.sigmas[a] == COCO.sigmas[b]
    mirror = {a: b for pair in COCO.flip_pairs for a, b in (pair, pair[::-1])} | {0: 0}
    links = {frozenset(link) for link in COCO.links}
    assert len(mirror) == 17 and {frozenset(mirror[i] for i in link) for link in links} == links
    assert COCO.sides.count("left") == COCO.sides.count("right") == 8 and COCO.sides[0] == "middle"
    assert COCO.sigmas[0] == 0.026 and COCO.sigmas[11] == 0.107 and sum(COCO.sigmas) == pytest.approx(1.138)


def test_links_have_the_colour_of_their_side():
    colour = {frozenset(link): rgb for link, rgb in zip(COCO.links, COCO.link_colours, strict=True)}
    left, right, middle = COCO.colours[5], COCO.colours[6], COCO.colours[0]
    assert len({left, right, middle}) == 3
    assert colour[frozenset((5, 7))] == left and colour[frozenset((6, 8))] == right
    assert colour[frozenset((5, 6))] == middle and colour[frozenset((0, 1))] == left


def test_unknown_skeleton():
    plain = skeleton_for(5)
    assert plain.keypoints[4] == "keypoint 4" and len(plain.keypoints) == 5
    assert plain.links == plain.flip_pairs == plain.sigmas == plain.link_colours == ()
    assert len(plain.colours) == 5
