"""Whole scenes: people in a place before a camera, drawn, with the keypoints, boxes and areas that are true of them.

Everything random comes from one PCG64 generator for each picture, keyed by seed, split, world and number, so a picture
is the same for any number of threads, and on every machine up to the rounding of its instructions; and training never
sees a picture of the validation.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from minivitpose.pose.crop import centre_and_scale, crop_matrix
from minivitpose.synthetic.body import about_z, draw_build, joints
from minivitpose.synthetic.camera import extent, extents, look
from minivitpose.synthetic.figure import figure
from minivitpose.synthetic.paint import paint
from minivitpose.synthetic.pose_library import POSES, draw_stance
from minivitpose.synthetic.render import World, draw, exposure, first_hits, hidden
from minivitpose.synthetic.solids import FLAT, ORIGIN, OWNER, box, cone, table
from minivitpose.synthetic.stage import FURNITURE, draw_stage, seat
from minivitpose.synthetic.wardrobe import draw_outfit, pick

WORLDS = ("seen", "unseen")
SPLITS = ("train", "val", "test")
WHOM = "first", "any"
SIZE = (480, 640)
# Ranges of a camera's angle of view from top to bottom, in degrees, and of its height, in metres. "beyond" is no world
# of its own but a share of a training's scenes: who learns from these too has what is unseen between, not outside,
# what is known
CAMERAS = {
    "seen": (((32, 56),), ((0.7, 2.2),)),
    "unseen": (((20, 30), (58, 70)), ((0.3, 0.7), (2.2, 3.2))),
    "beyond": (((14, 20), (32, 56), (70, 78)), ((0.12, 0.3), (3.2, 4.2))),
}
CHANCES = {"seen": POSES, "unseen": POSES, "beyond": dict.fromkeys(POSES, 1.0)}  # of each pose
NOBODY = -1  # the owner of things
# Metres by which the person's own surface may lie before a joint that still counts as visible
TOLERANCE = np.array(
    [0.03] * 3 + [0.035] * 2 + [0.11] * 2 + [0.075] * 2 + [0.06] * 2 + [0.17] * 2 + [0.10] * 2 + [0.09] * 2
)
FLOOR_PLAN = np.array([[1.0, 0, 0], [0, 0, 1.0], [0, 1.0, 0]])  # axes for ``extent``: x, z and depth y


class SyntheticError(ValueError):
    """An option of the mannequin world that does not exist: one line with what was expected and found."""


@dataclass(frozen=True, eq=False)
class Person:
    """keypoints (17, 3): x, y in pixels and visibility, 2 visible, 1 hidden, 0 outside the picture; box (x, y, w, h) of
    the visible silhouette; area: its pixels; pose: the name of what the person does.
    """

    keypoints: np.ndarray
    box: tuple
    area: float
    pose: str


@dataclass(frozen=True, eq=False)
class Scene:
    """image (H, W, 3) uint8 RGB, people: a list of Person, those of whom something can be seen."""

    image: np.ndarray
    people: list


@dataclass(frozen=True, eq=False)
class Actor:
    """A person before they are drawn; all in metres. balls (n, 4): rough places of the body, to darken the ground."""

    solids: np.ndarray
    paints: np.ndarray
    near: np.ndarray
    keypoints: np.ndarray
    balls: np.ndarray
    pose: str
    height: float


def check_option(name, value, known):
    """Raises SyntheticError unless the value is one of those known."""
    if value not in known:
        raise SyntheticError(f"{name}: expected one of {', '.join(known)}, found {value!r}")


def generator(seed, split, world, index):
    """The random numbers of one picture."""
    check_option("split", split, SPLITS)
    check_option("world", world, WORLDS)
    key = SPLITS.index(split), WORLDS.index(world), index
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))


def draw_actor(rng, world, owner):
    """A random person who does something, standing about (0, 0) and facing +y before a random turn; and their seat."""
    child = rng.random() < 0.18
    build, outfit = draw_build(rng, child), draw_outfit(rng, world, child)
    stance = draw_stance(rng, build, CHANCES[world])
    if outfit.skirt and stance.name not in ("standing", "walking", "reaching"):  # a stiff skirt would stand off
        outfit = replace(outfit, skirt=0.0, leg=min(2 * outfit.skirt, 0.95))
    yaw = rng.uniform(-80, 80) + 180 if rng.random() < 0.6 else rng.uniform(-180, 180)
    turn = about_z(yaw)
    found = joints(build, stance.angles, turn @ stance.tilt)
    body = figure(build, found, outfit, owner)
    low = extent(body.solids, np.zeros(3), FLOOR_PLAN, parallel=True)
    middle = (body.keypoints.min(0) + body.keypoints.max(0)) / 2
    shift = np.array([-middle[0], -middle[1], stance.lift - low[:, 1].min()])
    body.solids[:, ORIGIN : ORIGIN + 3] += shift
    things = []
    if stance.seat is not None:
        foot = found["pelvis"][0] + shift
        things = seat(rng, world, foot[2] - 0.085 * build.girth, turn, (foot[0], foot[1], 0.0))
    names = {"pelvis": 0.15, "chest": 0.15, "head": 0.10, "left_knee": 0.07, "right_knee": 0.07}
    names |= {f"{s}_{j}": r for s in ("left", "right") for j, r in (("ankle", 0.075), ("wrist", 0.05))}
    balls = np.array([[*(found[name][0] + shift), r] for name, r in names.items()])
    actor = Actor(body.solids, body.paints, body.near, body.keypoints + shift, balls, stance.name, build.height)
    return actor, things


def moved(actor, x, y):
    """The same person somewhere else on the ground."""
    solids, balls = actor.solids.copy(), actor.balls.copy()
    solids[:, ORIGIN : ORIGIN + 2] += (x, y)
    balls[:, :2] += (x, y)
    return Actor(solids, actor.paints, actor.near, actor.keypoints + (x, y, 0), balls, actor.pose, actor.height)


def moved_thing(thing, x, y):
    (kind, start, *rest), stuff = thing
    return (kind, np.asarray(start) + (x, y, 0.0), *rest), stuff


def draw_from(rng, ranges):
    """A number from one of the ranges ((low, high), ...)."""
    drawn = [rng.uniform(*each) for each in ranges]
    return drawn[int(rng.integers(len(drawn)))] if len(drawn) > 1 else drawn[0]


def draw_camera(rng, world, size, actor, cut):
    """A random camera for a picture of this person -> Camera, and the person's place x, y on the ground.

    cut: whether a part of the person is to be outside the picture.
    """
    height, width = size
    degrees, heights = CAMERAS[world]
    focal = height / 2 / np.tan(np.radians(draw_from(rng, degrees) / 2))
    z = draw_from(rng, heights)
    low, high = actor.keypoints.min(0)[2] - 0.08, actor.keypoints.max(0)[2] + 0.15
    across = actor.keypoints[:, 0].max() - actor.keypoints[:, 0].min()
    tall = max(high - low, 0.5 * actor.height, 0.8 * across)
    share = rng.uniform(0.42, 0.9)
    u, v = rng.uniform(0.22, 0.78) * width, rng.uniform(0.45, 0.56) * height
    middle = (low + high) / 2
    if cut and rng.random() < 0.6:  # a close view of the upper part
        share, v = rng.uniform(1.05, 1.7), rng.uniform(0.45, 0.6) * height
        middle = high - 0.5 * tall / share * rng.uniform(0.75, 1.1)
    elif cut:
        u = rng.uniform(0.02, 0.09) * width if rng.random() < 0.5 else rng.uniform(0.91, 0.98) * width
    away = max(focal * tall / (share * height), 1.5)
    x = (u - (width - 1) / 2) / focal * away
    pitch = np.degrees(np.arctan2(z - middle, away) - np.arctan2(v - (height - 1) / 2, focal))
    return look((0, 0, z), pitch, 0.0, rng.uniform(-4, 4), focal, size), (x, away)


def find_place(rng, camera, taken, size):
    """A free place for one more person: not in another, and not wholly before or behind one. None after eight tries.

    taken: [(x, y), ...]; the first is of the person whom the picture is about.
    """
    for _ in range(8):
        y = taken[0][1] * rng.uniform(0.72, 2.0)
        u = rng.uniform(0.04, 0.96) * size[1]
        x = (u - (size[1] - 1) / 2) / camera.focal * y
        free = all((x - a) ** 2 + (y - b) ** 2 > 0.85**2 for a, b in taken)
        apart = all(abs(x / y - a / b) > 0.34 / max(min(y, b), 1.0) for a, b in taken)
        if free and apart and y > 1.7:
            return x, y
    return None


def occluder(rng, world, camera, actor, at):
    """Something between the camera and the person: a low box, a post, or a tall box from the side."""
    x, y = at
    share = rng.uniform(0.5, 0.82)
    stuff = paint(pick(rng, FURNITURE[world]), grain=0.15)
    kind = rng.random()
    side = 1 if rng.random() < 0.5 else -1
    top = actor.keypoints[:, 2].max()
    if kind < 0.45 and actor.pose != "lying":
        high = camera.place[2] + (rng.uniform(0.2, 0.55) * top - camera.place[2]) * share
        high = max(high, 0.12)
        middle = (x * share + rng.uniform(-0.3, 0.3), y * share, high / 2)
        return [(box(middle, about_z(rng.uniform(-25, 25)), (rng.uniform(0.2, 0.6), 0.18, high / 2)), stuff)]
    if kind < 0.72 or actor.pose == "lying":
        foot = np.array([x * share + side * rng.uniform(0.0, 0.25), y * share, 0.0])
        thick = rng.uniform(0.015, 0.045)
        return [(cone(foot, foot + (0, 0, 3.5), thick, thick, kind=FLAT), stuff)]
    half = rng.uniform(0.15, 0.4)
    middle = (x * share + side * (half + rng.uniform(0.08, 0.35) * share), y * share, 1.0)
    return [(box(middle, about_z(rng.uniform(-8, 8)), (half, 0.12, rng.uniform(0.4, 1.0))), stuff)]


def lay_out(rng, world="seen", size=SIZE, most=4):
    """A random scene before it is drawn -> World, [Actor, ...]; the camera was set up for the first of them.

    world: one of WORLDS, or "beyond".
    """
    first, things = draw_actor(rng, world, 0)
    cut, blocked = rng.random() < 0.16, rng.random() < 0.2
    camera, at = draw_camera(rng, world, size, first, cut)
    count = min(int(np.searchsorted((0.40, 0.68, 0.84, 0.92, 0.97), rng.random(), side="right")) + 1, most)
    actors, taken = [moved(first, *at)], [at]
    things = [moved_thing(t, *at) for t in things]
    for _ in range(count - 1):
        place = find_place(rng, camera, taken, size)
        if place is None:
            continue
        other, seats = draw_actor(rng, world, len(actors))
        actors.append(moved(other, *place))
        taken.append(place)
        things += [moved_thing(t, *place) for t in seats]
    near, far = min(y for _, y in taken), max(y for _, y in taken)
    wide = max(abs(x) for x, _ in taken)
    stage = draw_stage(rng, world, near, far + 0.6, max(wide, 1.0) + 0.5)
    if blocked:
        things += occluder(rng, world, camera, actors[0], at)
    things += stage.things
    return assemble(rng, camera, stage, actors, things), actors


def assemble(rng, camera, stage, actors, things):
    """Everything in one set of tables."""
    solids, paints, near = [a.solids for a in actors], [a.paints for a in actors], []
    start = 0
    for i, a in enumerate(actors):
        near.append(np.where(a.near >= 0, a.near + start, -1))
        paints[i] = a.paints.copy()
        paints[i][:, -1] = np.where(a.paints[:, -1] >= 0, a.paints[:, -1] + start, -1)
        start += len(a.solids)
    if things:
        solids.append(table([t[0] for t in things], NOBODY))
        paints.append(np.array([t[1] for t in things]))
        near.append(np.full((len(things), near[0].shape[1]), -1, np.int64))
    balls = np.concatenate([a.balls for a in actors])
    everybody = np.concatenate([a.keypoints for a in actors])
    low, high = everybody.min(0), everybody.max(0)
    radius = min(0.5 * float(np.sqrt(((high - low) ** 2).sum())) + 0.7, 5.0)
    focus = np.array([*(low + high) / 2, radius])
    grain = float(rng.uniform(0.0, 0.03))
    tables = (np.concatenate(t) for t in (solids, paints, near))
    balls = balls[balls[:, 2] < 1.0]  # higher ones darken nothing
    return World(*tables, stage.surfaces, stage.decals, stage.numbers, stage.light, balls, focus, grain, camera)


def visible_keypoints(world, actor, owner):
    """(17, 3) float64: x, y in pixels, and 2 visible, 1 hidden, 0 outside the picture."""
    height, width = world.camera.size
    xy, depth = world.camera.project(actor.keypoints)
    covered = np.empty(17, np.int64)
    hidden(world.solids, world.camera.place, actor.keypoints, owner, TOLERANCE * actor.height / 1.7, covered)
    inside = (xy >= -0.5).all(1) & (xy < np.array([width, height]) - 0.5).all(1) & (depth > 0.05)
    return np.column_stack([xy, np.where(inside, 2 - covered, 0)])


def silhouette(world, owner):
    """The visible pixels of a person: their mask in a window of the picture -> mask (h, w) bool, its left, its top."""
    height, width = world.camera.size
    boxes = extents(world.camera, world.solids)
    own = boxes[world.solids[:, OWNER] == owner]
    left, top = np.clip(np.floor(own[:, :2].min(0)), 0, (width - 1, height - 1)).astype(int)
    right, low = np.clip(np.ceil(own[:, 2:4].max(0)), (left, top), (width - 1, height - 1)).astype(int)
    farthest = world.camera.project(world.solids[world.solids[:, OWNER] == owner, ORIGIN : ORIGIN + 3])[1].max() + 0.5
    rest = replace(world, solids=world.solids[boxes[:, 4] < farthest])  # what stands behind hides nothing
    _, seen = first_hits(rest, (low - top + 1, right - left + 1), (float(left), float(top)))
    return (seen >= 0) & (rest.solids[seen, OWNER] == owner), left, top


def person(world, actor, owner):
    """What is true of a person in the picture, or None if nothing of them can be seen."""
    mask, left, top = silhouette(world, owner)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    x, y, w, h = columns[0] + left, rows[0] + top, columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1
    place = tuple(float(v) for v in (x, y, w, h))
    return Person(visible_keypoints(world, actor, owner), place, float(mask.sum()), actor.pose)


def scene(seed, split="val", world="seen", size=SIZE, index=0):
    """A picture with 1 to 6 people -> Scene. size (height, width). Raises SyntheticError."""
    view, actors = lay_out(generator(seed, split, world, index), world, size, 6)
    return Scene(draw(view, size), everybody(view, actors))


def everybody(view, actors):
    """The people of whom something can be seen -> [Person, ...]."""
    found = [person(view, actor, i) for i, actor in enumerate(actors)]
    return [p for p in found if p]


def crop_of(seed, split, world, index, size, jitter=0.0, margin=1.0, whom="first", beyond=0.0):
    """One of a picture's people in the crop that the pipeline would cut: a function that draws the pixels, keypoints,
    box, area. whom, beyond: as for ``batch``; where nothing can be seen of the one who was drawn, it is the first, and
    where nothing of the first either, another picture is laid out.
    """
    rng = generator(seed, split, world, index)
    found = None
    while found is None:
        view, actors = lay_out(rng, "beyond" if beyond and rng.random() < beyond else world)
        chosen = int(rng.integers(len(actors))) if whom == "any" else 0
        found = person(view, actors[chosen], chosen) or person(view, actors[0], 0)
    centre, scale = (np.array(pair) for pair in centre_and_scale(found.box, size))
    if jitter:  # as if the box came from a detector
        centre = centre + scale / 4 * jitter * rng.uniform(-1, 1, 2)
        scale = scale * (1 + jitter * rng.uniform(-1, 1))
    matrix = crop_matrix(centre, scale * margin, size)
    corner, pitch = matrix[:, 2], matrix.diagonal()
    keypoints = found.keypoints.copy()
    keypoints[:, :2] = (keypoints[:, :2] - corner) / pitch
    x, y, w, h = found.box
    place = *((x, y) - corner) / pitch, *(w, h) / pitch
    return exposure(view, size, corner, pitch), keypoints, place, found.area / (pitch[0] * pitch[1])


def batch(
    seed,
    n,
    split="train",
    world="seen",
    size=(256, 192),
    threads=None,
    jitter=0.0,
    margin=1.0,
    whom="first",
    beyond=0.0,
):
    """n crops, each of another scene and centred on a person, as the network gets them.

    -> images (n, H, W, 3) uint8, keypoints (n, 17, 3) float32 x, y, visibility, boxes (n, 4) float32 x, y, w, h, areas
    (n,) float32, all in pixels of the crop. Black is what lies outside the picture. seed: a whole number from 0, or a
    tuple of them; n: how many of its scenes, or the numbers of those that are wanted; jitter: how far the crops' scale
    is off at most, as a share, and four times their centre; margin: how many times as wide and high the rectangle is
    that is drawn, to cut from later; whom: "first", the person whom the picture is about, or "any" of its people,
    drawn at random; beyond: the share of scenes that are of neither world but beyond both: cameras nearer to the ground
    or higher, narrower or wider (CAMERAS), places and clothes in any colour, each pose as often as any other. Raises
    SyntheticError.
    """
    check_option("whom", whom, WHOM)
    if not 0 <= beyond <= 1:
        raise SyntheticError(f"beyond: expected a share from 0 to 1, found {beyond}")
    threads = threads or os.cpu_count() or 1
    numbers = range(n) if isinstance(n, int | np.integer) else n
    found = (crop_of(seed, split, world, i, size, jitter, margin, whom, beyond) for i in numbers)
    if threads == 1:
        found = [(exposed(), *rest) for exposed, *rest in found]
    else:  # this thread lays out one scene after the other, the crew draws them
        with ThreadPoolExecutor(threads) as crew:
            found = [(crew.submit(exposed), *rest) for exposed, *rest in found]
        found = [(pixels.result(), *rest) for pixels, *rest in found]
    pixels, keypoints, boxes, areas = zip(*found, strict=True)
    return np.stack(pixels), *(np.array(a, np.float32) for a in (keypoints, boxes, areas))
