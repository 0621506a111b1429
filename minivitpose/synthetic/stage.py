"""Where people are: random rooms, studios and open places, with light, furniture and plants.

The world "seen" is for training; "unseen" has other textures, horizons and colours, for tests on what was never seen.
"beyond", for a share of a training's scenes, has the textures of the seen world anywhere, in colours of neither.
"""

from dataclasses import dataclass

import numpy as np

from minivitpose.synthetic import background as bg
from minivitpose.synthetic import textures as tx
from minivitpose.synthetic.body import about_z
from minivitpose.synthetic.paint import LEAVES, PLAIN, WOOD, linear, paint
from minivitpose.synthetic.solids import FAR, FLAT, box, cone, egg
from minivitpose.synthetic.wardrobe import colours, palettes, pick

FLOORS = {
    "seen": (tx.PLANKS, tx.PLANKS, tx.TILES, tx.TILES, tx.MOTTLED, tx.BOARD, tx.BRICKS),
    "unseen": (tx.HERRING, tx.HEXAGONS, tx.TERRAZZO, tx.MARBLE),
    "beyond": (tx.PLANKS, tx.TILES, tx.MOTTLED, tx.BOARD, tx.BRICKS, tx.STRIPES, tx.GRASS, tx.PLAIN),
}
GROUNDS = {
    "seen": (tx.MOTTLED, tx.BRICKS, tx.TILES),  # and grass, where it is green
    "unseen": (tx.MOTTLED, tx.BLOBS, tx.TERRAZZO, tx.HEXAGONS),
    "beyond": (tx.GRASS, tx.TILES, tx.BRICKS, tx.BOARD, tx.STRIPES, tx.PLAIN),
}
HORIZONS = {"seen": (1, 1, 2, 0), "unseen": (3, 3, 0), "beyond": (1, 2, 0)}  # background.py says what they are
WALLS = {
    "seen": (tx.PLAIN, tx.PLAIN, tx.PLAIN, tx.STRIPES, tx.BRICKS, tx.TILES, tx.MOTTLED),
    "unseen": (tx.BLOBS, tx.MARBLE, tx.HEXAGONS, tx.PLANKS),
    "beyond": (tx.PLAIN, tx.STRIPES, tx.BRICKS, tx.TILES, tx.MOTTLED, tx.BOARD, tx.GRASS),
}
FLOOR_COLOURS = palettes(
    seen="b98b5e 8a5f3c d2b48c a9a39a c9c4ba 6e6a66 7d8b8f b06f4f e0d8c8 5a4a3f",
    unseen="4a3b32 c4a484 e8e4dc 3f4a54 94897c a3785a",
)
GROUND_COLOURS = palettes(
    seen="5f8a3a 7a9a4c 4d7536 c8b183 8c8c8a a59a8c 6f6f73",
    unseen="e9edf2 6b5344 b5835a 9aa07c 4b5358",
)
WALL_COLOURS = palettes(
    seen="e8e2d4 d5dde0 c7d3c0 e6cfae b7c6d6 d9b8a8 a44a3a f2efe8 9fb0a0 c9bfd3 6d7f8c",
    unseen="2f4858 b56576 e5989b 6d6875 355070 ede0d4 52796f",
)
SKIES = {
    "seen": colours("cfe0ee 5b93cf dfe6ea 8fb3d6 d9dcde aab4bd c9e2f2 3f7fc0").reshape(-1, 2, 3),
    "unseen": colours("f6c08a 4a5a8c f2d6c9 8a6fa0 c4c7c9 8f9aa6 ffe3b0 d07a6a").reshape(-1, 2, 3),
    "beyond": colours("eef0f2 2a6f9e b9c6b0 6f8f86 dcd3ea 5e7fd0 9a9fa8 5b6470").reshape(-1, 2, 3),
}
WOODS = palettes(seen="3d5f33 557a3e 6b7d4a 2f4a2c", unseen="8a4b2a b5762f 5d6b7c 43384f")
FURNITURE = palettes(
    seen="8a5a33 c79a63 5b4636 e4ddd0 3d4a57 7f9aa3 a6483f 4f6f58 d8b25a",
    unseen="1f2933 c08497 f4a259 5b8e7d 8cb369 bc4b51 e9e3d5",
)


@dataclass(frozen=True)
class Stage:
    """surfaces, decals, numbers: see background.py; light (4, 3): toward the sun, sun, ambient, bounce; things: pairs
    (solid, paint) that stand about.
    """

    surfaces: np.ndarray
    decals: np.ndarray
    numbers: np.ndarray
    light: np.ndarray
    things: list


def draw_stage(rng, world, near, far, wide):
    """A random place for people who stand between near and far metres away, and up to wide metres to the side."""
    kind = rng.random()
    if kind < 0.5:
        return room(rng, world, near, far, wide)
    return studio(rng, world, far) if kind < 0.6 else outside(rng, world, near, far, wide)


def surface(rng, texture, unit, colour, other, contrast, turned):
    """A row of the table of surfaces."""
    angle = np.radians(rng.uniform(0, 180)) if turned else 0.0
    offset = rng.uniform(0, 40, 2)
    return [texture, unit, np.cos(angle), np.sin(angle), *offset, *linear(colour), *linear(other), contrast]


def light_from(rng, height, sun, sky, warm):
    """(4, 3): toward the sun, its light, the sky's, the ground's. height: of the sun in degrees, lowest and highest."""
    up, around = np.radians(rng.uniform(*height)), np.radians(rng.uniform(-150, 150) - 90)
    toward = np.array([np.cos(up) * np.cos(around), np.cos(up) * np.sin(around), np.sin(up)])
    tint = np.array([1 + warm, 1.0, 1 - warm])
    sky = np.asarray(sky) * np.array([1 - 0.4 * warm, 1.0, 1 + 0.4 * warm])
    return np.array([toward, sun * tint, sky, 0.55 * sky * np.array([1.05, 1.0, 0.9])])


def room(rng, world, near, far, wide):
    """Three walls and a floor, things on the walls, furniture along them."""
    back = far + rng.uniform(0.7, 4.0)
    left, right = -wide - rng.uniform(0.6, 3.0), wide + rng.uniform(0.6, 3.0)
    floor, wall, other = (
        pick(rng, FLOOR_COLOURS[world]),
        pick(rng, WALL_COLOURS[world]),
        pick(rng, WALL_COLOURS[world]),
    )
    kind = FLOORS[world][int(rng.integers(len(FLOORS[world])))]
    unit = {tx.PLANKS: 0.16, tx.HERRING: 0.12, tx.BRICKS: 0.2, tx.MOTTLED: 0.5, tx.MARBLE: 1.0}.get(
        kind, rng.uniform(0.25, 0.6)
    )
    second = pick(rng, FLOOR_COLOURS[world]) if kind in (tx.BOARD, tx.TERRAZZO) else floor * rng.uniform(0.6, 1.15)
    rows = [surface(rng, kind, unit, floor, second, rng.uniform(0.6, 1.0), rng.random() < 0.6)]
    kind = WALLS[world][int(rng.integers(len(WALLS[world])))]
    unit = {tx.BRICKS: 0.085, tx.TILES: 0.16, tx.STRIPES: rng.uniform(0.12, 0.4), tx.PLANKS: 0.2}.get(kind, 0.8)
    second = {tx.BRICKS: colours("b9b2a6")[0], tx.TILES: colours("d8d8d4")[0]}.get(kind, wall * 0.82 + 0.12 * other)
    for shade in (1.0, 0.94, 0.97):
        rows.append(surface(rng, kind, unit, wall * shade, second * shade, rng.uniform(0.6, 1.0), False))
    rows.append(surface(rng, tx.PLAIN, 1, *SKIES[world][0], 0.5, False))
    numbers = np.array([back, left, right, 0, 0, 0, *linear(wall), rng.uniform(0, 0.14), 0, rng.integers(200)], float)
    light = light_from(
        rng, (38, 78), rng.uniform(0.55, 1.1), rng.uniform(0.40, 0.62, 1).repeat(3), rng.uniform(-0.02, 0.14)
    )
    things = furniture(rng, world, far, back, left, right)
    return Stage(np.array(rows), hangings(rng, world, near, back, left, right), numbers, light, things)


def hangings(rng, world, near, back, left, right):
    """Windows, doors, shelves and pictures on the three walls."""
    rows = []
    for wall, start, end in ((bg.BACK, left, right), (bg.LEFT, near * 0.3, back), (bg.RIGHT, near * 0.3, back)):
        at = start + rng.uniform(0.2, 1.0)
        while at < end - 0.6 and len(rows) < 9:
            kind = (bg.WINDOW, bg.PICTURE, bg.PICTURE, bg.DOOR, bg.SHELF, bg.POSTER)[int(rng.integers(6))]
            wide = min({bg.WINDOW: 1.4, bg.DOOR: 0.9, bg.SHELF: 1.1}.get(kind, 0.7) * rng.uniform(0.7, 1.3), end - at)
            low = {bg.DOOR: 0.0, bg.SHELF: 0.1, bg.WINDOW: rng.uniform(0.7, 1.1)}.get(kind, rng.uniform(1.1, 1.6))
            high = low + {bg.DOOR: 2.0, bg.SHELF: 1.9, bg.WINDOW: 1.2}.get(kind, rng.uniform(0.45, 0.9))
            frame, inside = linear(pick(rng, FURNITURE[world])), linear(pick(rng, FURNITURE[world]))
            rows.append([wall, at, at + wide, low, high, kind, *frame, *inside, float(rng.integers(2, 6))])
            at += wide + rng.uniform(0.2, 1.8)
    return np.array(rows).reshape(-1, bg.DECAL)


def furniture(rng, world, far, back, left, right):
    """Cupboards, tables, sofas, lamps and plants between the people and the walls."""
    things, taken = [], []
    for _ in range(int(rng.integers(0, 6))):
        x = rng.uniform(left + 0.4, right - 0.4)
        y = back - rng.uniform(0.25, 0.6)
        if y < far + 0.35 or any(abs(x - other) < 1.5 for other in taken):
            continue
        taken.append(x)
        turned = about_z(rng.uniform(-4, 4))
        stuff = paint(pick(rng, FURNITURE[world]), pattern=WOOD if rng.random() < 0.6 else PLAIN, grain=0.1)
        kind = int(rng.integers(4))
        if kind == 0:
            high = rng.uniform(0.6, 1.9)
            things.append((box((x, y, high / 2), turned, (rng.uniform(0.3, 0.8), 0.24, high / 2)), stuff))
        elif kind == 1:
            things += table((x, y), turned, rng.uniform(0.4, 0.8), stuff)
        elif kind == 2:
            things += sofa((x, y), turned, rng.uniform(0.6, 1.0), stuff)
        else:
            things += plant(rng, world, (x, y), rng.uniform(0.9, 1.7))
    return things


def table(at, turned, half, stuff):
    """A top on four legs."""
    x, y = at
    top = [(box((x, y, 0.72), turned, (half, 0.35, 0.025)), stuff)]
    feet = [turned @ np.array([i * (half - 0.06), j * 0.29, 0.0]) + (x, y, 0.0) for i in (-1, 1) for j in (-1, 1)]
    return top + [(cone(f, f + (0, 0, 0.7), 0.028, 0.028, kind=FLAT), stuff) for f in feet]


def sofa(at, turned, half, stuff):
    """A seat, a back and two arms."""
    parts = (((0, 0, 0.22), (half, 0.40, 0.22)), ((0, 0.34, 0.55), (half, 0.10, 0.32)))
    parts += tuple(((i * (half - 0.08), 0, 0.33), (0.09, 0.42, 0.33)) for i in (-1, 1))
    return [(box(turned @ np.array(p) + (*at, 0.0), turned, size), stuff) for p, size in parts]


def plant(rng, world, at, high):
    """A pot and leaves."""
    x, y = at
    pot = paint(pick(rng, FURNITURE[world]), gloss=0.2)
    things = [(cone((x, y, 0), (x, y, 0.32), 0.12, 0.17, kind=FLAT), pot)]
    return things + crown(rng, world, (x, y, 0.35 + high * 0.3), high * 0.3, 3)


def crown(rng, world, at, radius, count):
    """A few eggs of leaves about a point."""
    leaf = pick(rng, WOODS[world])
    things = []
    for _ in range(count):
        middle = np.array(at) + rng.uniform(-0.5, 0.5, 3) * radius
        size = radius * rng.uniform(0.6, 1.0, 3)
        things.append((egg(middle, np.eye(3), size), paint(leaf * 1.25, leaf * 0.6, LEAVES, 0.09, grain=0.6)))
    return things


def studio(rng, world, far):
    """A backdrop of one colour, with a soft floor."""
    colour = pick(rng, WALL_COLOURS[world])
    rows = [surface(rng, tx.PLAIN, 1.0, colour, colour * 0.9, rng.uniform(0.2, 1), True) for _ in range(4)]
    rows.append(surface(rng, tx.PLAIN, 1, *SKIES[world][0], 0.5, False))
    numbers = np.array([far + rng.uniform(1.5, 4), -FAR, FAR, 0, 0, 0, *linear(colour), 0, 0, rng.integers(200)], float)
    light = light_from(
        rng, (40, 75), rng.uniform(0.6, 1.1), rng.uniform(0.42, 0.65, 1).repeat(3), rng.uniform(-0.03, 0.08)
    )
    return Stage(np.array(rows), np.zeros((0, bg.DECAL)), numbers, light, [])


def outside(rng, world, near, far, wide):
    """A lawn, a beach or a street, woods or houses far away, bushes and trees, sun or clouds."""
    ground = pick(rng, GROUND_COLOURS[world])
    lawn = world == "seen" and ground[1] > ground[0]
    kind = tx.GRASS if lawn else GROUNDS[world][int(rng.integers(len(GROUNDS[world])))]
    unit = {tx.GRASS: 1.0, tx.MOTTLED: 0.7, tx.BRICKS: 0.22, tx.BLOBS: 1.5}.get(kind, rng.uniform(0.4, 0.9))
    second = ground * rng.uniform(0.55, 0.8)
    rows = [surface(rng, kind, unit, ground, second, rng.uniform(0.6, 1.0), True)] * 4
    low, high = SKIES[world][int(rng.integers(len(SKIES[world])))]
    rows = [*rows, surface(rng, tx.PLAIN, 1, low, high, rng.uniform(0, 0.9), False)]
    sunny = rng.random() < 0.65
    horizon = HORIZONS[world][int(rng.integers(len(HORIZONS[world])))]
    tint = linear(0.9 * pick(rng, WOODS[world]) if horizon != 2 else 0.72 * pick(rng, WALL_COLOURS[world]))
    tall = rng.uniform(0.05, 0.3)
    numbers = np.array(
        [FAR, -FAR, FAR, rng.uniform(0.002, 0.012), horizon, tall, *tint, 0, rng.uniform(-3, 3), rng.integers(200)]
    )
    sky = rng.uniform(0.36, 0.5) if sunny else rng.uniform(0.7, 0.9)
    light = light_from(
        rng, (28, 70), rng.uniform(1.0, 1.4) if sunny else rng.uniform(0.15, 0.35), np.full(3, sky), 0.1 * sunny
    )
    things = []
    for _ in range(int(rng.integers(0, 5))):
        x, y = rng.uniform(-1.6, 1.6) * wide * 1.5, far + rng.uniform(1.2, 9)
        if rng.random() < 0.5:
            things += crown(rng, world, (x, y, 0.4), rng.uniform(0.5, 1.0), 3)
        else:
            trunk = rng.uniform(1.4, 2.4)
            bark = paint(colours("5c4633")[0], pattern=WOOD, grain=0.5)
            things.append((cone((x, y, 0), (x, y, trunk + 0.4), 0.16, 0.10, kind=FLAT), bark))
            things += crown(rng, world, (x, y, trunk + 0.9), rng.uniform(1.0, 1.5), 4)
    return Stage(np.array(rows), np.zeros((0, bg.DECAL)), numbers, light, things)


def seat(rng, world, height, axes, at):
    """What a person sits on, at the pelvis' place on the ground: a cube, a stool or a chair."""
    stuff = paint(pick(rng, FURNITURE[world]), pattern=WOOD if rng.random() < 0.5 else PLAIN, grain=0.1)
    kind, half = rng.random(), 0.2

    def place(x, y, z):
        return np.array(at) + axes @ np.array([x, y, z])

    if kind < 0.35:
        return [(box(place(0, 0, height / 2), axes, (0.23, half, height / 2)), stuff)]
    things = [(box(place(0, 0, height - 0.03), axes, (0.22, half, 0.03)), stuff)]
    for x in (-0.18, 0.18):
        for y in (-0.16, 0.16):
            things.append((cone(place(x, y, 0), place(x, y, height - 0.04), 0.018, 0.018, kind=FLAT), stuff))
    if kind > 0.65:
        things.append((box(place(0, -0.23, height + 0.27), axes, (0.21, 0.018, 0.26)), stuff))
    return things
