"""The mannequin world: bodies, cameras, what is hidden, boxes, and the same pictures everywhere."""

import argparse

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from minivitpose import synthetic
from minivitpose.cli import synthesize
from minivitpose.cli.options import UsageError
from minivitpose.pose.coco_json import read_coco
from minivitpose.pose.crop import crop
from minivitpose.pose.skeletons import COCO
from minivitpose.synthetic import dataset, scenes, stage, wardrobe
from minivitpose.synthetic import textures as tx
from minivitpose.synthetic.body import LIMITS, about_z, draw_build, joints, neutral, reach_with_leg
from minivitpose.synthetic.camera import extents, look
from minivitpose.synthetic.figure import figure
from minivitpose.synthetic.pose_library import POSES, draw_stance
from minivitpose.synthetic.render import draw, first_hits, hidden
from minivitpose.synthetic.solids import (
    BOX,
    FLAT,
    KIND,
    LENGTH,
    MAP,
    NEAR,
    ORIGIN,
    OWNER,
    R1,
    R2,
    box,
    cone,
    egg,
    hit_solid,
    surface,
    table,
)
from minivitpose.synthetic.wardrobe import draw_outfit


def rng(*seed):
    return np.random.default_rng(seed)


def laid_out(seed, world="seen", split="train", most=4):
    return scenes.lay_out(scenes.generator(seed, split, world, 0), world, most=most)


# --------------------------------------------------------------------------------------------------------------- bodies


@pytest.mark.parametrize("pose", POSES, ids=lambda pose: pose.__name__)
def test_every_angle_of_every_pose_is_within_its_joints_limits(pose):
    for i in range(60):
        generator = rng(1, i)
        stance = draw_stance(generator, draw_build(generator, i % 5 == 0), {pose: 1.0})
        assert stance.name == pose.__name__
        assert stance.angles.keys() == LIMITS.keys()
        for name, angle in stance.angles.items():
            low, high = LIMITS[name]
            assert low <= angle <= high, name


def test_bones_have_the_lengths_of_the_build_in_every_pose():
    for i in range(40):
        generator = rng(2, i)
        build = draw_build(generator, i % 3 == 0)
        stance = draw_stance(generator, build)
        p = {name: place for name, (place, _) in joints(build, stance.angles, stance.tilt).items()}
        for side in ("left", "right"):
            for a, b, length in (
                ("shoulder", "elbow", build.upper_arm),
                ("elbow", "wrist", build.forearm),
                ("hip", "knee", build.thigh),
                ("knee", "ankle", build.shank),
            ):
                assert_allclose(np.linalg.norm(p[f"{side}_{a}"] - p[f"{side}_{b}"]), length, rtol=1e-12)
        assert_allclose(np.linalg.norm(p["left_hip"] - p["right_hip"]), 2 * build.hip, rtol=1e-12)


def test_bends_go_the_natural_way():
    build = draw_build(rng(3), False)
    angles = neutral() | {
        "left_elbow_bend": 90.0,
        "right_knee_bend": 90.0,
        "right_shoulder_spread": 90.0,
        "neck_turn": 60.0,
    }
    found = joints(build, angles)
    assert_allclose(found["left_wrist"][0] - found["left_elbow"][0], [0, build.forearm, 0], atol=1e-12)  # forward
    assert_allclose(found["right_ankle"][0] - found["right_knee"][0], [0, -build.shank, 0], atol=1e-12)  # backward
    assert_allclose(found["right_elbow"][0] - found["right_shoulder"][0], [build.upper_arm, 0, 0], atol=1e-12)
    assert found["left_hip"][0][0] < 0 < found["right_hip"][0][0]
    assert found["head"][1][0, 1] < -0.8  # the face looks to the body's left, -x


@pytest.mark.parametrize("away", [-1, 1])
def test_inverse_kinematics_brings_the_ankle_to_its_place(away):
    build = draw_build(rng(4), False)
    side = "left" if away < 0 else "right"
    for target in rng(5).uniform([-0.2, -0.3, -0.85], [0.2, 0.4, -0.55], (30, 3)) * build.leg:
        bend, spread, knee = reach_with_leg(build, away, target)
        angles = neutral() | {f"{side}_hip_bend": bend, f"{side}_hip_spread": spread, f"{side}_knee_bend": knee}
        found = joints(build, angles)
        assert_allclose(found[f"{side}_ankle"][0] - found[f"{side}_hip"][0], target, atol=1e-9)


def test_a_mirrored_body_has_swapped_keypoints():
    for i in range(12):
        generator = rng(6, i)
        build, outfit = draw_build(generator, False), draw_outfit(generator)
        stance = draw_stance(generator, build)
        mirrored = {}
        for name, angle in stance.angles.items():
            swapped = name.replace("left_", "@").replace("right_", "left_").replace("@", "right_")
            mirrored[swapped] = -angle if name in ("spine_side", "spine_turn", "neck_side", "neck_turn") else angle
        flip = np.diag([-1.0, 1, 1])
        one = figure(build, joints(build, stance.angles, stance.tilt), outfit).keypoints
        other = figure(build, joints(build, mirrored, flip @ stance.tilt @ flip), outfit).keypoints
        assert_allclose(other[list(COCO.flip_index)], one * [-1, 1, 1], atol=1e-12)


def test_people_stand_on_the_ground_and_jump_above_it():
    lifted = 0
    for i in range(80):
        actor, _ = scenes.draw_actor(rng(7, i), "seen", 0)
        lowest = bottom(actor.solids)
        ankles = actor.keypoints[15:, 2]
        if actor.pose == "jumping":
            lifted += 1
            assert lowest > 0.03
        else:
            assert_allclose(lowest, 0, atol=1e-9)
        if actor.pose == "standing":
            assert ankles.max() < 0.13 * actor.height
    assert lifted > 0


def bottom(solids):
    """The lowest point, by a dense cloud of points on the two ends of each solid."""
    directions = rng(8).normal(size=(20000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    low = np.inf
    for s in solids[solids[:, KIND] != BOX]:
        own = np.linalg.inv(s[MAP : MAP + 9].reshape(3, 3))
        support = np.abs(own[2]) if s[KIND] == FLAT else own[2]
        reach = np.linalg.norm(support[:2] if s[KIND] == FLAT else support)
        for r, end in ((s[R1], 0.0), (s[R2], s[LENGTH])):
            low = min(low, s[ORIGIN + 2] + own[2, 2] * end - r * reach)
    return low


def test_the_left_is_on_the_right_of_the_picture_of_someone_who_faces_the_camera():
    build = draw_build(rng(9), False)
    points = figure(build, joints(build, neutral(), about_z(180), (0, 3, 1)), draw_outfit(rng(9))).keypoints
    xy, depth = look((0, 0, 1.2), 0, 0, 0, 500.0, (480, 640)).project(points)
    for left, right in COCO.flip_pairs:
        assert xy[left, 0] > xy[right, 0] + 5
        assert COCO.keypoints[left].startswith("left")
    assert depth[0] < depth[1] < depth[3]  # the nose is nearest, then the eyes, then the ears
    assert xy[0, 1] < xy[5, 1] < xy[11, 1] < xy[13, 1] < xy[15, 1]


# --------------------------------------------------------------------------------------------------------------- solids


def inside(s, points):
    """Whether points (n, 3) lie in a solid: slow, and by the definition alone."""
    p = (points - s[ORIGIN : ORIGIN + 3]) @ s[MAP : MAP + 9].reshape(3, 3).T
    if s[KIND] == BOX:
        return (np.abs(p) <= 1).all(1)
    across = np.hypot(p[:, 0], p[:, 1])
    h = s[LENGTH]
    if s[KIND] == FLAT:
        return (p[:, 2] >= 0) & (p[:, 2] <= h) & (across <= s[R1] + (s[R2] - s[R1]) * p[:, 2] / h)
    share = np.linspace(0, 1, 1 if h == 0 else 400)  # a ball runs from one end to the other
    centre, radius = share * h, s[R1] + share * (s[R2] - s[R1])
    return (across[:, None] ** 2 + (p[:, 2:] - centre) ** 2 <= radius**2).any(1)


def some_solids():
    turned = about_z(30) @ np.array([[1.0, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]])
    rows = [
        cone((0, 0, 0), (0.3, 0.5, 0.8), 0.3, 0.12, (1, 0, 0), (1, 0.6)),
        cone((0, 0, 0), (0.1, -0.2, 0.9), 0.1, 0.35, kind=FLAT),
        egg((0.1, 0.2, 0.3), turned, (0.5, 0.2, 0.35)),
        box((0.1, 0, 0.2), turned, (0.4, 0.3, 0.2)),
        cone((0, 0, 0), (0, 0, 0.05), 0.3, 0.1),
    ]
    return table(rows, 0)


def near_miss(s, x):
    """Whether a point is inside the solid made 1 % larger."""
    larger = s.copy()
    larger[MAP : MAP + 9] /= 1.01
    return inside(larger, x[None])[0]


@pytest.mark.parametrize("i", range(5))
def test_rays_enter_solids_where_their_inside_begins(i):
    s = some_solids()[i]
    generator, hits = rng(10, i), 0
    steps = np.linspace(0, 1, 4001)
    for _ in range(40):
        o = generator.normal(size=3)
        o *= 3 / np.linalg.norm(o)
        d = generator.uniform(-0.5, 0.7, 3) * 1.2 - o
        d *= 5 / np.linalg.norm(d)
        t = hit_solid(s[None], 0, tuple(o), tuple(d))
        within = inside(s, o + steps[:, None] * d)
        if within.sum() > 20:  # not a ray that only grazes
            hits += 1
            assert_allclose(t, steps[within.argmax()], atol=2e-3)
            x = o + t * d
            distance, normal = surface(s[None], 0, tuple(x))
            assert abs(distance) < 1e-6
            assert_allclose(np.linalg.norm(normal), 1, rtol=1e-9)
            assert not inside(s, (x + 2e-3 * np.array(normal))[None])[0]
            assert inside(s, (x - 4e-3 * np.array(normal))[None])[0]
            assert np.dot(normal, d) < 1e-6
        elif not within.any():
            assert not 0 < t < 1 or near_miss(s, o + t * d)
    assert hits > 4


def test_the_rectangle_of_a_solid_is_the_one_its_pixels_fill():
    camera = look((0.3, -4.0, 1.0), 8, 3, 5, 900.0, (480, 640))
    for i, s in enumerate(some_solids()):
        world = laid_out(0)[0]
        world = replaced(world, solids=s[None], camera=camera)
        _, seen = first_hits(world, camera.size)
        rows, columns = np.nonzero(seen == 0)
        left, top, right, low, nearest = extents(camera, s[None])[0]
        found = np.array([columns.min() - left, rows.min() - top, right - columns.max(), low - rows.max()])
        assert (found >= 0).all()
        if s[KIND] != BOX:
            assert (found < 1.2).all(), i
        assert 2 < nearest < 4


def replaced(world, **changes):
    import dataclasses

    return dataclasses.replace(world, **changes)


# -------------------------------------------------------------------------------------------------------------- cameras


def test_projection_is_the_pinhole_formula():
    pitch, yaw, roll, f = 17.0, -12.0, 6.0, 700.0
    place = np.array([0.4, -1.0, 1.7])
    camera = look(place, pitch, yaw, roll, f, (480, 640))
    a, b, c = np.radians([pitch, yaw, roll])
    forward = np.array([-np.sin(b) * np.cos(a), np.cos(b) * np.cos(a), -np.sin(a)])
    level = np.array([np.cos(b), np.sin(b), 0.0])
    up = np.cross(level, forward)
    right = np.cos(c) * level - np.sin(c) * up  # clockwise: the right side sinks
    points = rng(11).uniform([-2, 3, 0], [2, 8, 2], (20, 3))
    depth = (points - place) @ forward
    x = 319.5 + f * ((points - place) @ right) / depth
    y = 239.5 - f * ((points - place) @ np.cross(right, forward)) / depth
    xy, found = camera.project(points)
    assert_allclose(found, depth, rtol=1e-12)
    assert_allclose(xy, np.column_stack([x, y]), rtol=1e-10)


# ---------------------------------------------------------------------------------------------------------------- truth


def test_keypoints_are_hidden_where_a_slow_walk_along_the_ray_says_so():
    checked, covered_ones = 0, 0
    for seed in range(6):
        world, actors = laid_out(seed)
        place = world.camera.place
        found = scenes.visible_keypoints(world, actors[0], 0)
        for k, point in enumerate(actors[0].keypoints):
            away = np.linalg.norm(point - place)
            steps = np.arange(0.0, away, 0.004)
            walk = place + steps[:, None] / away * (point - place)
            tolerance = scenes.TOLERANCE[k] * actors[0].height / 1.7
            covered, close = False, False
            for s in world.solids:
                within = inside_near(s, walk)
                if within is None or not within.any() or within[0]:
                    continue
                gap = away - steps[within.argmax()] - (tolerance if s[OWNER] == 0 else 0.0)
                covered |= gap > 0
                close |= abs(gap) < 0.012
            if not close and found[k, 2]:
                checked += 1
                covered_ones += covered
                assert found[k, 2] == (1 if covered else 2), (seed, COCO.keypoints[k])
    assert checked > 60 and 5 < covered_ones < checked - 20


def test_only_the_persons_own_surface_may_lie_before_a_visible_joint():
    camera, joint = np.array([0.0, 0, 1]), np.array([[0.0, 3, 1]])
    for depth, owner, expected in (
        (2.9, 0, 0),  # flesh about the joint
        (2.5, 0, 1),  # another limb
        (2.9, 1, 1),  # somebody else, however near
        (2.9, -1, 1),  # a thing
        (3.2, 1, 0),  # behind
        (-1.0, 1, 0),  # behind the camera
    ):
        found = np.full(1, 7)
        ball = table([egg((0, depth, 1), np.eye(3), (0.05, 0.05, 0.05))], owner)
        hidden(ball, camera, joint, 0, np.array([0.2]), found)
        assert found[0] == expected, (depth, owner)


def inside_near(s, walk):
    """``inside``, for the part of the walk that is near the solid; None if none is."""
    own = np.linalg.inv(s[MAP : MAP + 9].reshape(3, 3))
    middle = s[ORIGIN : ORIGIN + 3] + own[:, 2] * s[LENGTH] / 2
    reach = np.linalg.norm(own, axis=0).max() * max(s[R1], s[R2]) * 1.75 + np.linalg.norm(own[:, 2]) * s[LENGTH] / 2
    near = np.linalg.norm(walk - middle, axis=1) < reach
    if not near.any():
        return None
    within = np.zeros(len(walk), bool)
    within[near] = inside(s, walk[near])
    return within


def test_boxes_and_areas_are_those_of_the_mask_of_the_whole_picture():
    for seed in range(5):
        world, actors = laid_out(20 + seed, most=6)
        _, seen = first_hits(world, world.camera.size)
        for i, actor in enumerate(actors):
            mask = (seen >= 0) & (world.solids[seen, OWNER] == i)
            found = scenes.person(world, actor, i)
            if not mask.any():
                assert found is None
                continue
            rows, columns = np.nonzero(mask)
            x, y = columns.min(), rows.min()
            assert found.box == (x, y, columns.max() + 1 - x, rows.max() + 1 - y)
            assert found.area == mask.sum()


def test_a_mirrored_scene_has_the_mirrored_picture_of_everybody():
    world, actors = laid_out(31)
    solids = world.solids.copy()
    solids[:, ORIGIN] *= -1
    solids[:, [MAP, MAP + 3, MAP + 6]] *= -1
    camera = world.camera
    axes = camera.axes * np.array([[-1], [1], [1]]) * np.array([-1, 1, 1])
    other = replaced(world, solids=solids, camera=replaced(camera, axes=axes))
    height, width = camera.size
    _, seen = first_hits(world, camera.size)
    _, turned = first_hits(other, camera.size)
    assert (seen != turned[:, ::-1]).mean() < 1e-4  # a ray that grazes may go either way
    flip = list(COCO.flip_index)
    swapped = replaced(actors[0], keypoints=(actors[0].keypoints * [-1, 1, 1])[flip])
    one, mirrored = scenes.visible_keypoints(world, actors[0], 0), scenes.visible_keypoints(other, swapped, 0)
    assert_allclose(mirrored[flip][:, 0], width - 1 - one[:, 0], atol=1e-6)
    assert_array_equal(mirrored[flip][:, 2], one[:, 2])


@pytest.mark.parametrize("world", ["seen", "unseen"])
def test_a_thousand_scenes_are_finite_and_show_their_person(world):
    visibility, shares = [], []
    for seed in range(500):
        view, actors = laid_out((seed, 1), world)
        for table_of in (view.solids, view.paints, view.surfaces, view.stage, view.light, view.balls):
            assert np.isfinite(table_of).all()
        found = scenes.visible_keypoints(view, actors[0], 0)
        assert np.isfinite(found).all()
        visibility.append(found[:, 2])
        if seed < 120:
            seen = scenes.person(view, actors[0], 0)
            assert seen is not None
            assert seen.box[2] * seen.box[3] > 1500 and seen.area > 500
            x, y, w, h = seen.box
            assert min(x, y) >= 0 and x + w <= 640 and y + h <= 480
        shares.append(len(actors))
    visibility = np.array(visibility)
    assert 0.55 < (visibility == 2).mean() < 0.85
    assert 0.12 < (visibility == 1).mean() < 0.40
    assert 0.01 < (visibility == 0).mean() < 0.15
    assert (visibility > 0).any(1).all()
    assert 1.3 < np.mean(shares) < 3


# ------------------------------------------------------------------------------------------------------------- pictures


def test_a_batch_has_its_shapes_and_dtypes():
    images, keypoints, boxes, areas = synthetic.batch(0, 3, threads=2)
    assert images.shape == (3, 256, 192, 3) and images.dtype == np.uint8
    assert keypoints.shape == (3, 17, 3) and keypoints.dtype == np.float32
    assert boxes.shape == (3, 4) and boxes.dtype == np.float32
    assert areas.shape == (3,) and areas.dtype == np.float32
    assert set(np.unique(keypoints[..., 2])) <= {0, 1, 2}
    assert_allclose(boxes[:, :2] + boxes[:, 2:] / 2, np.tile([95.5, 127.5], (3, 1)), atol=0.01)  # in the middle
    larger = np.maximum(boxes[:, 2] / 191, boxes[:, 3] / 255)
    assert_allclose(larger, 1 / 1.25, rtol=1e-5)
    assert (areas < boxes[:, 2] * boxes[:, 3]).all() and (areas > 0.1 * boxes[:, 2] * boxes[:, 3]).all()
    assert images.std(axis=(1, 2)).min() > 5


def test_a_batch_is_the_same_for_any_number_of_threads():
    one, many = synthetic.batch((5, 1), 5, threads=1), synthetic.batch((5, 1), 5, threads=3)
    for a, b in zip(one, many, strict=True):
        assert_array_equal(a, b)
    shorter = synthetic.batch((5, 1), 2, threads=1)
    assert_array_equal(shorter[0], one[0][:2])


def test_a_batch_holds_the_crops_of_whole_pictures():
    for index in range(3):
        view, actors = scenes.lay_out(scenes.generator(12, "train", "seen", index))
        seen = scenes.person(view, actors[0], 0)
        picture = crop(draw(view, scenes.SIZE), seen.box)
        exposed, keypoints, place, area = scenes.crop_of(12, "train", "seen", index, (256, 192))
        assert_allclose(picture.from_picture(seen.keypoints[:, :2]), keypoints[:, :2], atol=1e-6)
        assert_allclose(picture.from_picture(seen.box[:2]), place[:2], atol=1e-6)
        difference = np.abs(picture.pixels.astype(float) - exposed())
        assert difference.mean() < 6 and np.median(difference) <= 4  # the picture was enlarged, the crop was drawn


def test_jitter_moves_the_crop_with_its_keypoints():
    plain, moved = (scenes.crop_of(13, "train", "seen", 0, (256, 192), jitter) for jitter in (0.0, 0.2))
    a, b = plain[1][:, :2], moved[1][:, :2]
    scale = (b[0] - b[15]) / (a[0] - a[15])
    assert abs(scale - 1).max() < 0.26 and abs(scale - 1).min() > 1e-4
    assert_allclose(scale[0], scale[1], rtol=1e-6)
    assert_allclose(b, a * scale + (b[0] - a[0] * scale), atol=1e-6)


def test_splits_worlds_seeds_and_numbers_have_different_pictures():
    keys = [(0, "train", "seen", 0), (0, "val", "seen", 0), (0, "test", "seen", 0), (0, "train", "unseen", 0)]
    keys += [(1, "train", "seen", 0), (0, "train", "seen", 1), ((0, 1), "train", "seen", 0)]
    first = {tuple(scenes.generator(*key).random(4)) for key in keys}
    assert len(first) == len(keys)
    again = scenes.generator(*keys[0]).random(4)
    assert tuple(again) in first


# Of the first person in scene i of seed 2026: nose, left wrist, right ankle, in pixels. From an x86-64 with AVX-512.
KNOWN = [
    [392.319, 143.436, 2.0, 459.301, 182.677, 2.0, 366.857, 405.459, 2.0],
    [451.886, 125.937, 2.0, 514.26, 270.924, 2.0, 407.362, 346.234, 2.0],
    [374.363, 183.439, 2.0, 413.21, 246.971, 2.0, 367.256, 333.059, 2.0],
    [261.206, 181.195, 2.0, 349.695, 191.254, 2.0, 194.541, 378.899, 2.0],
    [11.282, 166.665, 2.0, -23.276, 211.061, 0.0, 36.961, 380.428, 2.0],
    [457.621, 175.429, 2.0, 432.512, 249.398, 2.0, 297.868, 324.669, 1.0],
]


def test_the_layout_is_the_one_that_was_written_down():
    found = []
    for i in range(6):
        view, actors = scenes.lay_out(scenes.generator(2026, "val", "seen", i))
        found.append(scenes.visible_keypoints(view, actors[0], 0)[[0, 9, 16]].ravel())
    assert_allclose(found, KNOWN, atol=0.01)


def test_the_pixels_are_about_those_that_were_written_down():
    images, *_ = synthetic.batch(2026, 3, split="val", threads=1)
    assert_allclose(images.mean(axis=(1, 2)), PIXELS, atol=1.0)


PIXELS = [[147.72, 134.12, 107.14], [124.66, 97.89, 73.75], [149.25, 106.49, 79.61]]  # mean red, green, blue


def test_a_scene_has_its_people_in_the_picture():
    for seed in range(3):
        scene = synthetic.scene(seed, size=(240, 320))
        assert scene.image.shape == (240, 320, 3) and scene.image.dtype == np.uint8
        assert 1 <= len(scene.people) <= 6
        for person in scene.people:
            x, y, v = person.keypoints.T
            inside = (x >= -0.5) & (x < 319.5) & (y >= -0.5) & (y < 239.5)
            assert_array_equal(v > 0, inside)
            assert person.pose in {pose.__name__ for pose in POSES}


def test_another_world_or_split_is_refused():
    with pytest.raises(synthetic.SyntheticError, match="world: expected one of seen, unseen, found 'mars'"):
        synthetic.batch(0, 1, world="mars")
    with pytest.raises(synthetic.SyntheticError, match="split: expected one of train, val, test, found 'x'"):
        synthetic.scene(0, split="x")
    with pytest.raises(synthetic.SyntheticError, match="whom: expected one of first, any, found 'last'"):
        synthetic.batch(0, 1, whom="last")
    for share in (-0.1, 1.5, np.nan):
        with pytest.raises(synthetic.SyntheticError, match=f"beyond: expected a share from 0 to 1, found {share}"):
            synthetic.batch(0, 1, beyond=share)


def test_cameras_of_one_world_are_not_those_of_another():
    """Neither height nor angle of view of a camera "beyond" comes up in the unseen world, nor the other way round."""
    found = {}
    for world in scenes.CAMERAS:
        cameras = [scenes.lay_out(scenes.generator(3, "train", "seen", i), world)[0].camera for i in range(40)]
        degrees = [2 * np.degrees(np.arctan(scenes.SIZE[0] / 2 / camera.focal)) for camera in cameras]
        found[world] = np.array([degrees, [camera.place[2] for camera in cameras]])
        for values, ranges in zip(found[world], scenes.CAMERAS[world], strict=True):
            inside = [(values > low) & (values < high) for low, high in ranges]
            assert np.sum(inside, axis=0).tolist() == [1] * 40 and all(some.any() for some in inside)
    for of_seen, of_unseen, of_beyond in zip(*(scenes.CAMERAS[c] for c in ("seen", "unseen", "beyond")), strict=True):
        for low, high in of_unseen:
            assert all(high <= a or b <= low for a, b in (*of_seen, *of_beyond))
        assert min(a for a, _ in of_beyond) < min(a for a, _ in of_unseen)
        assert max(b for _, b in of_beyond) > max(b for _, b in of_unseen)


@pytest.mark.parametrize("table", ["FLOORS", "GROUNDS", "WALLS", "HORIZONS"])
def test_places_beyond_have_no_surface_or_horizon_of_the_unseen_world_alone(table):
    """A surface of the seen world may lie anywhere in a place, one of the unseen world nowhere."""
    kinds = getattr(stage, table)
    known = {kind for name in ("FLOORS", "GROUNDS", "WALLS") for kind in getattr(stage, name)["seen"]} | {tx.GRASS}
    known = set(stage.HORIZONS["seen"]) if table == "HORIZONS" else known
    assert set(kinds["beyond"]) <= known and not set(kinds["unseen"]) <= known
    alone = set(kinds["unseen"]) - set(kinds["seen"])
    assert alone and not alone & set(kinds["beyond"])


@pytest.mark.parametrize(
    "palette",
    [
        wardrobe.CLOTHES,
        wardrobe.TROUSERS,
        *(getattr(stage, f"{of}_COLOURS") for of in ("FLOOR", "GROUND", "WALL")),
        stage.WOODS,
        stage.FURNITURE,
    ],
)
def test_colours_beyond_are_everywhere_but_near_an_unseen_one(palette):
    beyond, unseen = palette["beyond"], palette["unseen"]
    apart = np.abs(beyond[:, None] - unseen).sum(2).min(1)
    assert apart.min() > 0.2 and ((beyond > 0) & (beyond < 1)).all()
    nearest = np.abs(palette["seen"][:, None] - beyond).sum(2).min(1)
    assert len(np.unique(beyond, axis=0)) == len(beyond) > 200 and np.median(nearest) < 0.2


def test_no_sky_beyond_is_near_an_unseen_one():
    """A sky is two colours, low and high."""
    apart = np.abs(stage.SKIES["beyond"][:, None] - stage.SKIES["unseen"]).sum(3).max(2)
    assert apart.shape == (4, 4) and apart.min() > 0.2


def test_poses_beyond_are_all_as_frequent():
    actors = [scenes.draw_actor(rng(8, i), "beyond", 0)[0].pose for i in range(280)]
    assert all(20 < actors.count(pose.__name__) < 62 for pose in POSES)  # 40 of each are expected, 6 give or take
    assert sum(scenes.draw_actor(rng(8, i), "seen", 0)[0].pose == "lying" for i in range(280)) < 25


def test_a_share_of_crops_is_beyond():
    always = synthetic.batch(21, 4, size=(32, 24), beyond=1.0)
    never = synthetic.batch(21, 4, size=(32, 24), beyond=0.0)
    assert not any(np.array_equal(a, b) for a, b in zip(always[1], never[1], strict=True))
    chosen = []

    def lay_out(rng, world):
        chosen.append(world)
        raise LookupError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes, "lay_out", lay_out)
        for i in range(200):
            with pytest.raises(LookupError):
                scenes.crop_of(5, "train", "seen", i, (32, 24), beyond=0.3)
    assert set(chosen) == {"seen", "beyond"} and 40 < chosen.count("beyond") < 80


def test_a_picture_whose_person_cannot_be_seen_is_laid_out_anew():
    """It was drawn for the first of two people, of whom nothing can be seen. No training may end there."""
    random = scenes.generator(3, "train", "seen", 3235)
    assert random.random() < 0.5
    view, actors = scenes.lay_out(random, "beyond")
    assert random.integers(len(actors)) == 0 and scenes.person(view, actors[0], 0) is None
    _, keypoints, boxes, areas = synthetic.batch(3, [3235], size=(64, 48), whom="any", beyond=0.5)
    assert (keypoints[0, :, 2] == 2).any() and areas[0] > 0 and (boxes[0, 2:] > 0).all()


def test_crops_of_any_of_a_pictures_people():
    """A second person's crop is of the same world, and of each picture with one person it is the first one's."""
    alone, company = [], []
    for index in range(12):
        rng = scenes.generator(21, "train", "seen", index)
        view, actors = scenes.lay_out(rng)
        first, someone = (scenes.crop_of(21, "train", "seen", index, (64, 48), whom=w)[1] for w in ("first", "any"))
        same = np.array_equal(first, someone)
        (alone if len(actors) == 1 else company).append(same)
        if not same:
            chosen = int(rng.integers(len(actors)))
            assert chosen > 0
            truth = scenes.visible_keypoints(view, actors[chosen], chosen)
            assert np.array_equal(truth[:, 2], someone[:, 2])
            limbs, found = (np.linalg.norm(np.diff(k[5:, :2], axis=0), axis=1) for k in (truth, someone))
            assert np.allclose(found / limbs, found[0] / limbs[0], rtol=0.01)  # but for the scale, a little more across
    assert all(alone) and alone and 0 < sum(company) < len(company)


def test_neighbours_are_mutual_and_of_the_same_person():
    view, actors = laid_out(40)
    start = 0
    for actor in actors:
        for i, row in enumerate(view.near[start : start + len(actor.solids)]):
            for j in row[row >= 0]:
                assert start <= j < start + len(actor.solids)
                assert i + start in view.near[j]
        start += len(actor.solids)
    assert (view.near[start:] == -1).all() and view.near.shape[1] == NEAR


# ------------------------------------------------------------------------------------------------------------ data sets


def options(*arguments):
    parser = argparse.ArgumentParser()
    synthesize.add(lambda name, run, text, example: parser)
    return parser.parse_args(list(map(str, arguments)))


def small(folder, *more):
    return options("--out", folder, "--images", 3, "--seed", 5, "--size", 160, 120, "--threads", 1, *more)


def test_a_data_set_is_read_back(tmp_path, capsys):
    assert synthesize.run(small(tmp_path / "set")) == 0
    path = tmp_path / "set" / "annotations.json"
    assert f"written: {path}" in capsys.readouterr().out
    coco = read_coco(path)
    assert coco.sizes == {1: (120, 160), 2: (120, 160), 3: (120, 160)}
    scene = synthetic.scene(5, size=(120, 160), index=1)
    mine = coco.image_ids == 2
    assert mine.sum() == len(scene.people)
    for points, area, person in zip(coco.keypoints[mine], coco.areas[mine], scene.people, strict=True):
        shown = person.keypoints[:, 2] > 0
        assert_allclose(points[shown], person.keypoints[shown], atol=0.0051)
        assert (points[~shown] == 0).all()
        assert area == person.area
    from minivitpose.pose.image import read_image

    image = read_image(tmp_path / "set" / "images" / "000001.jpg")
    assert np.abs(image.astype(float) - scene.image).mean() < 6


def test_an_interrupted_data_set_is_finished_and_no_picture_drawn_twice(tmp_path):
    out = tmp_path / "set"
    synthesize.run(small(out))
    whole = (out / "annotations.json").read_text()
    (out / "annotations.json").unlink()
    (out / "images" / "000002.jpg").unlink()
    before = (out / "images" / "000000.jpg").stat().st_mtime_ns
    synthesize.run(small(out))
    assert (out / "annotations.json").read_text() == whole
    assert (out / "images" / "000000.jpg").stat().st_mtime_ns == before
    assert sorted(p.name for p in (out / "images").iterdir()) == ["000000.jpg", "000001.jpg", "000002.jpg"]


def test_other_settings_in_the_same_folder_are_refused(tmp_path):
    synthesize.run(small(tmp_path / "set"))
    with pytest.raises(UsageError, match="take another folder"):
        synthesize.run(small(tmp_path / "set", "--world", "unseen"))


def test_pictures_of_others_or_of_other_scenes_are_not_taken_for_ours(tmp_path, monkeypatch):
    (tmp_path / "set" / "images").mkdir(parents=True)
    (tmp_path / "set" / "images" / "000000.jpg").write_bytes(b"somebody's")
    with pytest.raises(UsageError, match="000000.jpg was not made here, as there is no settings.json; take"):
        synthesize.run(small(tmp_path / "set"))
    assert (tmp_path / "set" / "images" / "000000.jpg").read_bytes() == b"somebody's"
    synthesize.run(small(tmp_path / "other"))
    monkeypatch.setattr(dataset, "VERSION", dataset.VERSION + 1)
    with pytest.raises(UsageError, match="take another folder"):
        synthesize.run(small(tmp_path / "other"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--size", 10, 20), "--size: expected 64 to 4096 pixels a side, found 10 20"),
        (("--seed", -1), "--seed: expected a whole number from 0, found -1"),
    ],
)
def test_bad_options_are_one_line(tmp_path, more, message):
    with pytest.raises(UsageError, match=message):
        synthesize.run(small(tmp_path / "set", *more))


def test_pycocotools_reads_the_data_set_and_gives_full_marks_to_the_truth(tmp_path):
    coco_module = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    synthesize.run(small(tmp_path / "set"))
    coco = coco_module.COCO(str(tmp_path / "set" / "annotations.json"))
    people = coco.loadAnns(coco.getAnnIds())
    assert coco.loadCats([1])[0]["keypoints"] == list(COCO.keypoints)
    results = [{k: p[k] for k in ("image_id", "category_id", "keypoints")} | {"score": 1.0} for p in people]
    judge = evaluation.COCOeval(coco, coco.loadRes(results), "keypoints")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    assert judge.stats[0] == pytest.approx(1.0)
