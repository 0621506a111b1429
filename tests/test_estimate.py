"""The whole way with a stand-in for the network: pictures and boxes in, poses out. And the skeletons."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.cbook import get_sample_data
from PIL import Image

from minivitpose.pose import COCO, BoxError, ImageError, Pose, crop, estimate, network_input, skeleton_for
from minivitpose.pose.estimate import PoseError, estimate_each, estimate_pictures, make_plan, prepare
from minivitpose.pose.pipelines import PIPELINES
from models import small_config, small_model

PICTURE = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
BOXES = [(100, 50, 60, 160), (220.5, 30, 90, 200), (-20, -30, 120, 140)]


class StandIn:
    """A network that marks the brightest red pixel: heatmap k is the red channel, sampled coarsely, plus k."""

    def __init__(self, num_keypoints=17, spoil=None, **more):
        self.config = SimpleNamespace(image_size=(256, 192), num_keypoints=num_keypoints, **more)
        self.seen, self.spoil = [], spoil

    def __call__(self, images):
        self.seen.append(images)
        red = images[:, :1].reshape(-1, 1, 64, 4, 48, 4).max(axis=(3, 5))
        heatmaps = red + np.arange(self.config.num_keypoints, dtype=np.float32)[:, None, None]
        if self.spoil is not None:
            heatmaps[self.spoil] = np.nan
        return heatmaps


class Blobs(StandIn):
    """A network that sees a Gaussian of sigma 2 cells at the given points (x, y in cells), whatever the image."""

    def __init__(self, points, height=0.5, **more):
        super().__init__(len(points), **more)
        yy, xx = np.mgrid[:64, :48]
        maps = [height * np.exp(-((xx - x) ** 2 + (yy - y) ** 2) / 8) for x, y in points]
        self.maps = np.array(maps, np.float32)

    def __call__(self, images):
        self.seen.append(images)
        return np.repeat(self.maps[None], len(images), axis=0)


def picture(seed, height=120, width=90):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def same(a, b):
    """Whether two lists of Pose are equal to the last bit."""
    pairs = list(zip(a, b, strict=True))
    return all(np.array_equal(p.keypoints, q.keypoints) and np.array_equal(p.scores, q.scores) for p, q in pairs) and [
        (p.box, p.score) for p in a
    ] == [(q.box, q.score) for q in b]


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
        assert np.abs(pose.keypoints - spot).max() < 200 / 63


def test_the_way_back_is_the_udp_map():
    """The crop of this box reaches from (55, 30) to (205, 230): 150 x 200 pixels over 47 x 63 cells."""
    cells = np.array([(10, 12), (30.25, 40.5)])
    (pose,) = estimate(Blobs(cells, 0.5, pipeline="udp"), PICTURE, [(100, 50, 60, 160)])
    assert np.allclose(pose.keypoints, (55, 30) + cells * (150 / 47, 200 / 63), atol=0.01)
    assert pose.scores[0] == 0.5 and 0.45 < pose.scores[1] < 0.5


def test_the_score_is_the_mean_maximum_times_that_of_the_box():
    model = Blobs([(10, 12), (30, 40)], 0.5)
    model.maps[1] *= 0.5
    assert [p.score for p in estimate(model, PICTURE, BOXES)] == [0.375] * 3
    poses = estimate(model, PICTURE, BOXES, box_scores=[1, 0.5, 0.1])
    assert [p.score for p in poses] == pytest.approx([0.375, 0.1875, 0.0375], abs=1e-9)
    assert all(p.scores.tolist() == [0.5, 0.25] for p in poses)
    with pytest.raises(BoxError, match="one for each of 3 boxes, found 2"):
        estimate(model, PICTURE, BOXES, box_scores=[1, 0.5])


def test_no_boxes():
    model = StandIn()
    assert estimate(model, PICTURE, []) == [] and model.seen == []
    assert estimate(model, [PICTURE, PICTURE], [[], []]) == [[], []] and estimate(model, []) == [] and model.seen == []
    (pose,) = estimate(model, PICTURE)
    assert pose.box == (0.0, 0.0, 400.0, 300.0)


def test_a_path_an_array_and_a_pillow_image_are_the_same(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    poses = estimate(StandIn(), PICTURE, BOXES)
    assert same(poses, estimate(StandIn(), tmp_path / "a.png", np.array(BOXES)))
    assert same(poses, estimate(StandIn(), Image.fromarray(PICTURE), BOXES))
    assert same(poses, estimate(StandIn(), Image.open(tmp_path / "a.png"), BOXES))
    photograph = get_sample_data("grace_hopper.jpg", asfileobj=False)
    assert estimate(StandIn(), str(photograph))[0].box == (0.0, 0.0, 512.0, 600.0)


# ------------------------------------------------------------------------------------------------------ many pictures


COUNTS = [2, 0, 5, 1, 1, 0, 3]


def crowd():
    """Pictures with as many people each as COUNTS says."""
    images = [picture(i) for i in range(len(COUNTS))]
    boxes = [[(5 + 3 * i, 4 + 2 * i, 40 + i, 70) for i in range(n)] for n in COUNTS]
    return images, boxes


@pytest.mark.parametrize("batch", [1, 3, 4, 100])
def test_people_of_many_pictures_share_batches_and_come_back_to_their_own(batch):
    images, boxes = crowd()
    model = StandIn()
    found = estimate(model, images, boxes, batch=batch)
    total = sum(COUNTS)
    assert [len(x) for x in model.seen] == [batch] * (total // batch) + [total % batch] * (total % batch > 0)
    assert [len(poses) for poses in found] == COUNTS
    for image, own, poses in zip(images, boxes, found, strict=True):
        assert same(poses, estimate(StandIn(), image, own))


def test_pictures_are_read_one_at_a_time_and_given_as_soon_as_they_are_complete():
    images, boxes = crowd()
    read = []

    def reader():
        for i, image in enumerate(images):
            read.append(i)
            yield image

    given = []
    for i, poses in enumerate(estimate_each(StandIn(), reader(), iter(boxes), batch=3)):
        given.append((i, len(poses), max(read)))
    assert given == [(0, 2, 2), (1, 0, 2), (2, 5, 4), (3, 1, 4), (4, 1, 4), (5, 0, 5), (6, 3, 6)]


def test_pictures_without_people_do_not_pile_up():
    """One picture with one person, then thousands without: the person does not wait for company for ever."""
    images = (picture(0) for _ in range(50))
    plan, most = make_plan(StandIn(), batch=4), 0
    pictures = (prepare(image, None if i % 25 == 0 else []) for i, image in enumerate(images))
    alive = []

    def counted():
        for one in pictures:
            alive.append(one)
            yield one

    done = 0
    for _ in estimate_pictures(plan, counted()):
        done += 1
        most = max(most, len(alive) - done)
    assert done == 50 and most <= 5


def test_a_list_needs_as_many_lists_of_boxes():
    images, boxes = crowd()
    with pytest.raises(BoxError, match="boxes: found 6, but more images"):
        estimate(StandIn(), images, boxes[:-1])
    with pytest.raises(BoxError, match="images: found 6, but more boxes"):
        estimate(StandIn(), images[:-1], boxes)
    with pytest.raises(BoxError, match="box_scores: found 0, but more images"):
        estimate(StandIn(), images, boxes, box_scores=[])
    with pytest.raises(BoxError, match="found four numbers"):
        estimate(StandIn(), images[:1], [(5, 5, 20, 20)])


def test_progress_is_shown_on_standard_error(capsys):
    images, boxes = crowd()
    assert same(estimate(StandIn(), images, boxes, progress=True)[2], estimate(StandIn(), images[2], boxes[2]))
    out, err = capsys.readouterr()
    assert out == "" and "7/7" in err and "picture" in err


# ------------------------------------------------------------------------------------------- formats, pipelines, flip


def test_boxes_may_be_given_by_two_corners():
    corners = [(x, y, x + w, y + h) for x, y, w, h in BOXES]
    assert same(estimate(StandIn(), PICTURE, corners, box_format="xyxy"), estimate(StandIn(), PICTURE, BOXES))
    with pytest.raises(BoxError, match=r"box 1 .*right > left.*box_format='xywh'"):
        estimate(StandIn(), PICTURE, [(1, 2, 3, 4), (100, 50, 60, 160)], box_format="xyxy")
    with pytest.raises(BoxError, match="expected one of xywh, xyxy, found 'cxcywh'"):
        estimate(StandIn(), PICTURE, BOXES, box_format="cxcywh")


def test_corners_given_as_a_box_are_noticed_where_that_can_be_seen():
    with pytest.raises(BoxError, match=r"box 1 .*fits: give box_format='xyxy'"):
        estimate(StandIn(), PICTURE, [(10, 10, 100, 200), (300, 100, 390, 290)])
    for fine in (
        [(300, 100, 99, 290)],
        [(-10, 100, 390, 290)],
        [(300, 20, 390, 290)] + BOXES[:1],
        [(150, 0, 400, 300)],
    ):
        assert len(estimate(StandIn(), PICTURE, fine)) == len(fine)


@pytest.mark.parametrize("name", list(PIPELINES))
def test_each_pipeline_crops_and_decodes_its_own_way(name):
    from minivitpose.pose.decode import decode

    p, model = PIPELINES[name], StandIn()
    (pose,) = estimate(model, PICTURE, BOXES[:1], pipeline=name)
    person = crop(PICTURE, BOXES[0], (256, 192), p.crop)
    assert np.array_equal(model.seen[0], network_input(person))
    xy, scores = decode(StandIn()(model.seen[0])[0], person.centre, person.scale, p.decode)
    assert np.array_equal(pose.keypoints, xy) and np.array_equal(pose.scores, scores)
    assert same([pose], estimate(StandIn(pipeline=name), PICTURE, BOXES[:1]))


def test_the_pipelines_differ():
    """On a blob near the border, where even the two that blur alike part ways."""
    model = Blobs([(1.3, 20.4)])
    rows = [estimate(model, PICTURE, BOXES[:1], pipeline=name)[0].keypoints for name in PIPELINES]
    assert all(not np.array_equal(a, b) for i, a in enumerate(rows) for b in rows[:i])


@pytest.mark.parametrize(("name", "shift"), [("udp", 0), ("plain", 1)])
def test_the_flip_test_means_the_mirror_image_with_left_and_right_exchanged(name, shift):
    """The network sees left_eye at column 20 and right_eye at 27, in the mirrored crop too: there 27 means 47 - 27."""
    points = [(24, 30)] + [(20, 20), (27, 20)] + [(24, 30)] * 14
    model = Blobs(points)
    (pose,) = estimate(model, PICTURE, BOXES[:1], flip=True, pipeline=name)
    assert len(model.seen) == 2
    straight, mirrored = sorted(
        model.seen,
        key=lambda x: not np.array_equal(x, network_input(crop(PICTURE, BOXES[0], mode=PIPELINES[name].crop))),
    )
    assert np.array_equal(straight[..., ::-1], mirrored)
    beside = np.exp(-1 / 8) if shift else 1  # the Gaussian's value one column from its top
    assert pose.scores[1] == pytest.approx(0.5 * (1 + beside) / 2, rel=1e-6)


def test_a_set_without_mirror_pairs_has_no_flip_test():
    with pytest.raises(PoseError, match="'interhand2d' has no mirror pairs"):
        estimate(StandIn(21, dataset="interhand2d"), PICTURE, BOXES, flip=True)
    with pytest.raises(PoseError, match="'5 keypoints' has no mirror pairs"):
        estimate(StandIn(5), PICTURE, BOXES, flip=True)
    assert len(estimate(StandIn(5), PICTURE, BOXES)) == 3


def test_bad_options_are_named():
    with pytest.raises(PoseError, match="expected one of udp, .*found 'best'"):
        estimate(StandIn(), PICTURE, BOXES, pipeline="best")
    for batch in (0, 2.5, "8", None, True):
        with pytest.raises(PoseError, match="batch: expected a whole number of people at a time, from 1, found"):
            estimate_each(StandIn(), [PICTURE], batch=batch)
    with pytest.raises(PoseError, match="pipeline: expected one of udp"):
        estimate(StandIn(), PICTURE, BOXES, pipeline=["udp"])
    for one in ("photo.jpg", PICTURE, Image.fromarray(PICTURE)):
        with pytest.raises(ImageError, match="expected an iterable of pictures, found one: use estimate, or give"):
            estimate_each(StandIn(), one)
    for scores, says in ((0.9, "a list of numbers, found 0.9"), ([None], "a list"), ([np.nan], "found nan at place 0")):
        with pytest.raises(BoxError, match=says):
            estimate(StandIn(), PICTURE, BOXES[:1], box_scores=scores)
    with pytest.raises(TypeError, match="boxformat"):
        estimate(StandIn(), PICTURE, BOXES, boxformat="xyxy")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_real_model_of_either_dtype(dtype):
    model = small_model("numpy", dtype)
    poses = estimate(model, [PICTURE, PICTURE[:100]], [BOXES, None], batch=3)
    assert [len(row) for row in poses] == [3, 1]
    assert poses[0][0].scores.dtype == dtype and poses[0][0].keypoints.dtype == np.float32
    assert model.config.image_size == small_config().image_size == (64, 48)


def test_to_json_is_plain_and_complete():
    pose = estimate(StandIn(), PICTURE, BOXES)[1]
    again = json.loads(json.dumps(pose.to_json()))
    assert set(again) == {"keypoints", "scores", "box", "score"}
    assert np.array_equal(np.float32(again["keypoints"]), pose.keypoints)
    assert np.array_equal(np.float32(again["scores"]), pose.scores) and again["box"] == list(pose.box)
    assert again["score"] == pytest.approx(pose.scores.mean(), abs=1e-6)
    assert Pose(np.zeros((1, 2)), np.float32([0.1]), (0, 0, 1, 1)).to_json()["scores"] == [0.1]


@pytest.mark.parametrize(
    ("boxes", "says"),
    [
        ([(1, 2, 3, 4), (1, 2, 0, 4)], "box 1"),
        ([(1, 2, 3, 4), (1, 2, 3, 4, 0.9)], "box 1 .*leave out the score"),
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
    with pytest.raises(ImageError, match="picture 1|found list"):
        estimate(StandIn(), [PICTURE, PICTURE.tolist()])
    Image.fromarray(PICTURE).save(tmp_path / "cut.png")
    with open(tmp_path / "cut.png", "r+b") as file:
        file.truncate(5000)
    with Image.open(tmp_path / "cut.png") as cut, pytest.raises(ImageError, match="image: "):
        estimate(StandIn(), cut)


def test_nan_names_the_picture_the_person_and_the_keypoint(tmp_path):
    for name in "ab":
        Image.fromarray(PICTURE).save(tmp_path / f"{name}.png")
    model = StandIn(spoil=(3, 7, 5, 5))
    with pytest.raises(PoseError, match=r"person 2 of the picture: .*keypoint 7 \(left_elbow\) has a NaN"):
        estimate(StandIn(spoil=(2, 7, 5, 5)), PICTURE, BOXES)
    with pytest.raises(PoseError, match=r"person 1 of picture '.*b.png': .*keypoint 7 ") as caught:
        estimate(model, [tmp_path / "a.png", tmp_path / "b.png"], [BOXES[:2], BOXES])
    assert "\n" not in str(caught.value)

    class SecondBatch(StandIn):
        def __call__(self, images):
            heatmaps = super().__call__(images)
            heatmaps[0, 0] *= np.nan if len(self.seen) == 2 else 1
            return heatmaps

    with pytest.raises(PoseError, match=r"person 1 of the picture: .*keypoint 0 \(nose\)"):
        estimate(SecondBatch(), PICTURE, BOXES, batch=1)


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
