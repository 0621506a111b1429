"""Poses drawn on a picture: the right thing at the right place, smooth, legible, and nothing else touched."""

import numpy as np
import pytest

from minivitpose.draw import draw_line, draw_poses, save_picture, stroke_width
from minivitpose.pose import COCO, ImageError, Pose, Skeleton, read_image, skeleton_for
from minivitpose.pose.skeletons import LEFT, RIGHT, SKELETONS

BLACK = np.zeros((200, 300, 3), np.uint8)


def pose_at(xy, box=(20, 20, 100, 100), scores=None):
    xy = np.float32(xy)
    return Pose(xy, np.full(len(xy), 0.9, np.float32) if scores is None else np.float32(scores), box)


def spread_pose(seed, width, height, count=17):
    xy = np.random.default_rng(seed).uniform((20, 20), (width - 20, height - 20), (count, 2))
    return pose_at(xy, (10, 10, width - 20, height - 20))


@pytest.mark.parametrize("size", [(200, 300), (97, 61), (1, 1)])
def test_a_picture_without_people_stays_as_it_is(size):
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    drawn = draw_poses(picture, [], COCO)
    assert drawn.dtype == np.uint8 and np.array_equal(drawn, picture) and not np.shares_memory(drawn, picture)


def test_the_picture_itself_is_not_drawn_on():
    picture = np.full((200, 300, 3), 99, np.uint8)
    assert not np.array_equal(draw_poses(picture, [spread_pose(0, 300, 200)], COCO), picture)
    assert (picture == 99).all()


def test_joints_are_drawn_where_they_are():
    plain = Skeleton("no limbs", tuple("abcdefghijklmnopq"))  # no links, so that no limb hides a joint
    pose = spread_pose(3, 300, 200)
    drawn = draw_poses(BLACK, [pose], plain)
    for x, y in np.rint(pose.keypoints).astype(int):
        assert drawn[y, x].min() > 200
    assert (drawn.max(axis=-1) > 60).mean() < 0.03


def test_left_is_blue_and_right_orange():
    xy = np.full((17, 2), (30, 30))
    xy[5:11:2], xy[6:11:2] = (220, 100), (80, 100)  # the left arm on the picture's right, as in a photograph
    drawn = draw_poses(BLACK, [pose_at(xy, (10, 10, 280, 180))], COCO)
    assert tuple(drawn[100, 220]) == LEFT and tuple(drawn[100, 80]) == RIGHT


def test_left_is_round_and_right_square():
    xy = np.full((17, 2), (-500, -500))
    xy[9], xy[10] = (220, 100), (80, 100)
    drawn = draw_poses(BLACK, [pose_at(xy, (10, 10, 280, 180))], COCO, stroke=10).astype(int)
    corner = [drawn[100 - 7, x - 7].max() for x in (220, 80)]
    assert corner[0] < 60 < 100 < corner[1]


def test_a_line_is_as_wide_and_as_long_as_it_should_be():
    """The sum of what it covers is its area: width x length, and the round ends."""
    for a, b in (((50, 60), (150, 60)), ((50.3, 60.7), (151.2, 133.3)), ((100, 20), (99.5, 180)), ((80, 80), (80, 80))):
        for width in (1, 2.5, 12):
            canvas = BLACK.copy()
            draw_line(canvas, a, b, width, (255, 255, 255))
            area = width * np.hypot(b[0] - a[0], b[1] - a[1]) + np.pi / 4 * width**2
            assert canvas[..., 0].sum() / 255 == pytest.approx(area, rel=0.03, abs=0.5)


@pytest.mark.parametrize("width", [3, 40])
@pytest.mark.parametrize(("a", "b"), [((10, 5), (680, 890)), ((690, 300), (5, 600)), ((350, 890), (345, 4))])
def test_long_lines_have_no_gaps_between_their_strips(a, b, width):
    a, b = np.add(a, 50), np.add(b, 50)
    canvas = np.zeros((1000, 800, 3), np.uint8)
    draw_line(canvas, tuple(a), tuple(b), width, (255, 255, 255))
    along = np.linspace(0, 1, 2000)[:, None]
    points = np.rint(a * (1 - along) + b * along).astype(int)
    assert canvas[points[:, 1], points[:, 0], 0].min() > 200
    area = width * np.hypot(*(b - a)) + np.pi / 4 * width**2
    assert canvas[..., 0].sum() / 255 == pytest.approx(area, rel=0.01 if width == 3 else 0.0005)


@pytest.mark.parametrize("ground", [0, 128, 255])
def test_limbs_show_on_any_ground(ground):
    picture, pose = np.full((300, 300, 3), ground, np.uint8), spread_pose(4, 300, 300)
    difference = np.abs(draw_poses(picture, [pose], COCO).astype(int) - ground).max(axis=-1)
    assert (difference > 100).mean() > 0.02
    middles = np.rint([pose.keypoints[list(link)].mean(axis=0) for link in COCO.links]).astype(int)
    assert all(difference[y - 3 : y + 4, x - 3 : x + 4].max() > 80 for x, y in middles)


@pytest.mark.parametrize("name", list(SKELETONS))
def test_every_keypoint_set_is_drawn_with_every_joint_in_its_colour(name):
    skeleton = SKELETONS[name]
    count = len(skeleton.keypoints)
    columns = np.arange(count) % 17
    xy = np.stack([20 + 30 * columns, 20 + 30 * (np.arange(count) // 17)], axis=1)  # far apart: no joint on another
    drawn = draw_poses(np.full((300, 540, 3), 90, np.uint8), [pose_at(xy, (0, 0, 540, 300))], skeleton)
    for (x, y), colour in zip(xy, skeleton.colours, strict=True):
        assert np.abs(drawn[y, x].astype(int) - colour).max() <= 2


def test_hand_and_face_of_a_whole_body_are_thinner():
    skeleton = SKELETONS["coco_wholebody"]
    names = list(skeleton.keypoints)

    def area(name):
        xy = np.full((133, 2), np.nan)
        xy[names.index(name)] = (150, 100)
        return (draw_poses(BLACK, [pose_at(xy, (0, 0, 300, 200))], skeleton, stroke=8).max(axis=-1) > 60).sum()

    assert area("left_wrist") > 4 * area("left_thumb4") and area("nose") > 4 * area("face-3")
    hand = SKELETONS["coco_wholebody_hand"]
    one = pose_at([(150, 100)] + [(np.nan, np.nan)] * 20, (0, 0, 300, 200))
    assert (draw_poses(BLACK, [one], hand, stroke=8).max(axis=-1) > 60).sum() == area("left_wrist")


def test_threshold_hides_joints_and_their_limbs():
    pose = spread_pose(5, 300, 200)
    weak = pose_at(pose.keypoints, pose.box, np.linspace(0, 1, 17))
    everything, nothing = (draw_poses(BLACK, [weak], COCO, t) for t in (None, 2.0))
    box_only = draw_poses(BLACK, [pose_at(np.zeros((1, 2)), pose.box, [0])], skeleton_for(1), 1)
    assert np.array_equal(nothing, box_only) and nothing.any()
    half = draw_poses(BLACK, [weak], COCO, 0.5)
    assert nothing.astype(bool).sum() < half.astype(bool).sum() < everything.astype(bool).sum()
    assert np.array_equal(everything, draw_poses(BLACK, [weak], COCO, 0.0))


@pytest.mark.parametrize("far", [(1e7, -1e7), (-5000, 100), (np.nan, 3), (np.inf, 3), (150, 1e6)])
def test_a_person_out_of_the_picture_does_not_spoil_it(far):
    good, lost = spread_pose(6, 300, 200), pose_at([far] * 17, (5000, 5000, 80, 90))
    alone, both = draw_poses(BLACK, [good], COCO), draw_poses(BLACK, [good, lost], COCO)
    assert np.array_equal(alone, both)


def test_a_joint_out_of_the_picture_leaves_the_others():
    pose = spread_pose(7, 300, 200)
    out = pose.keypoints.copy()
    out[9] = (-1e6, 3e6)
    drawn = draw_poses(BLACK, [pose_at(out, pose.box)], COCO)
    seen = [i for i in range(17) if i != 9]
    assert all(drawn[y, x].max() > 60 for x, y in np.rint(out[seen]).astype(int))


def test_people_have_boxes_of_their_own_colour_but_no_box_around_the_picture():
    people = [pose_at([(-50, -50)], box, [0]) for box in ((20, 20, 100, 150), (160, 20, 100, 150))]
    drawn = draw_poses(BLACK, people, skeleton_for(1))
    a, b = (drawn[60:100, x - 3 : x + 4].reshape(-1, 3).max(axis=0) for x in (20, 160))
    assert a.max() > 100 and b.max() > 100 and not np.array_equal(a, b)
    assert not draw_poses(BLACK, [pose_at([(-50, -50)], (0, 0, 300, 200))], skeleton_for(1)).any()


@pytest.mark.parametrize(("size", "least", "most"), [((80, 100), 1.2, 1.3), ((600, 512), 3, 7), ((3000, 4000), 20, 41)])
def test_strokes_go_with_the_size(size, least, most):
    picture = np.broadcast_to(np.uint8(0), (*size, 3))
    assert least <= stroke_width(picture, (0, 0, 0.5 * size[1], 0.9 * size[0])) <= most
    assert 1.2 <= stroke_width(picture, (0, 0, 2, 2)) <= 0.01 * np.hypot(*size) + 0.2


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="found 5 keypoints, expected 17"):
        draw_poses(BLACK, [pose_at(np.zeros((5, 2)))], COCO)
    with pytest.raises(ImageError):
        draw_poses(BLACK[..., 0], [], COCO)


def test_save_picture(tmp_path):
    picture = draw_poses(BLACK, [spread_pose(8, 300, 200)], COCO)
    for ending, error in ((".png", 0), (".PNG", 0), (".jpg", 12), (".jpeg", 12), (".webp", 12)):
        save_picture(picture, tmp_path / f"a{ending}")
        again = read_image(tmp_path / f"a{ending}").astype(int)
        assert again.shape == picture.shape and np.abs(again - picture).mean() <= error
    with pytest.raises(ValueError, match="expected an ending of .jpg"):
        save_picture(picture, tmp_path / "a.gif")
    with pytest.raises(OSError):
        save_picture(picture, tmp_path / "absent" / "a.png")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.PNG", "a.jpeg", "a.jpg", "a.png", "a.webp"]
