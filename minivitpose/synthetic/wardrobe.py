"""What people look like: skin, hair, and clothes with their colours, one palette for each world and one beyond both."""

from dataclasses import dataclass

import numpy as np

from minivitpose.synthetic.paint import CHECKS, HOOPS, PLAIN, SPOTS


def colours(text):
    """ "a1b2c3 ..." -> (n, 3) float64, 0 to 1, as shown on a screen."""
    return np.array([list(bytes.fromhex(c)) for c in text.split()]) / 255


def palettes(seen, unseen):
    """{world: colours (n, 3)}; for scenes beyond both worlds a grid of all colours but those near an unseen one."""
    grid = np.stack(np.meshgrid(*3 * [np.linspace(0.05, 0.95, 7)], indexing="ij"), -1).reshape(-1, 3)
    return {"seen": colours(seen), "unseen": colours(unseen), "beyond": unlike(grid, colours(unseen), 0.2)}


def unlike(table, others, apart=0.42):
    """The rows that cannot be taken for any of the other colours, one or several."""
    return table[(np.abs(table[:, None] - others).sum(-1) > apart).all(1)]


SKIN = colours("ffe0cc f6cdb0 eab896 d9a07a c18a60 a9714b 8d5a3a 6f452c 553320 fad7bd e3ad88")
HAIR = colours("17120f 2b1d14 45301f 6b4526 8c5f34 b58a4c d8b676 a34a22 7c7c80 d9d9dc 231a1a")
SHOES = colours("1c1c1f 34302c 5a3a24 f2f2ef 8e1f22 24406e d7d2c8 3b5d3a")
CLOTHES = palettes(
    seen=(
        "c0392b e67e22 f1c40f 27ae60 16a085 2980b9 1f3a5f 8e44ad d95f8c f5f5f0 d9cfbd 7f8c8d 34495e 22252a 795548 "
        "a3b86c 6fb7d6 e8a598 4b6043 b03a60"
    ),
    unseen="7b1e3b ff6f59 ffd9a0 bada55 00695c 00b8d4 3949ab 6a1b9a f8bbd0 cfd8dc 9e7b4f 4e342e 101828 e0e0d0",
)
TROUSERS = palettes(
    seen="23324f 2f4a75 4d6b96 1d1e22 3b3b3f 6b6256 8a7a5e c2b08d 4a5240 7a2f2f e6e2d8 5d6d7e 27496d",
    unseen="0d2b45 544e68 8d697a 203a27 b0a990 6b705c 3d0c11 a5a58d 1a1423 d6ccc2",
)
HAIRCUTS = ("short", "crop", "long", "bob", "bun", "tail", "bald", "cap", "curls")


@dataclass(frozen=True)
class Outfit:
    """Colours are RGB, 0 to 1. sleeve and leg: the share of the limb that is covered, 0 to 2, where 1 is the elbow or
    the knee; skirt: its length as a share of the leg, 0 for trousers; pattern: of the shirt.
    """

    skin: np.ndarray
    hair: np.ndarray
    haircut: str
    beard: bool
    shirt: np.ndarray
    second: np.ndarray  # the other colour of the shirt's pattern
    pattern: int
    pitch: float  # of the pattern, metres
    trousers: np.ndarray
    shoes: np.ndarray
    sleeve: float
    leg: float
    skirt: float
    loose: float  # how far cloth stands off, metres
    eyes: np.ndarray


def pick(rng, table):
    """A random row."""
    return table[int(rng.integers(len(table)))]


def draw_outfit(rng, world="seen", child=False):
    """A random person's looks."""
    clothes, trousers = CLOTHES[world], TROUSERS[world]
    skin = pick(rng, SKIN) * rng.uniform(0.94, 1.04)
    shirt, second = pick(rng, unlike(clothes, skin)), pick(rng, clothes)
    sleeve = (0.0, 0.45, 0.6, 0.75, 1.95, 1.95, 1.6)[int(rng.integers(7))]
    leg = (1.9, 1.9, 1.9, 1.55, 0.85, 0.6, 1.95)[int(rng.integers(7))]
    skirt = (0.0, 0.0, 0.0, 0.42, 0.62)[int(rng.integers(5))]
    beard = not child and not skirt and rng.random() < 0.2
    haircuts = HAIRCUTS if not (beard or leg < 1) else ("short", "crop", "bald", "cap", "curls", "short")
    one_piece = skirt and rng.random() < 0.5  # a dress
    pattern = (PLAIN, PLAIN, PLAIN, PLAIN, HOOPS, HOOPS, CHECKS, SPOTS)[int(rng.integers(8))]
    hair = pick(rng, HAIR)
    return Outfit(
        skin=skin,
        hair=hair if not child or hair[0] < 0.5 or rng.random() < 0.5 else pick(rng, HAIR[:7]),
        haircut=haircuts[int(rng.integers(len(haircuts)))],
        beard=beard,
        shirt=shirt,
        second=second if np.abs(second - shirt).sum() > 0.3 else 1 - 0.8 * shirt,
        pattern=pattern,
        pitch=rng.uniform(0.06, 0.14),
        trousers=shirt if one_piece else pick(rng, unlike(trousers, skin)),
        shoes=pick(rng, SHOES),
        sleeve=sleeve,
        leg=1.5 * skirt if skirt and rng.random() < 0.8 else leg,
        skirt=skirt,
        loose=rng.uniform(0.004, 0.02),
        eyes=pick(rng, colours("2a1a10 3b2616 2f4a63 3f5a3a 14100e")),
    )
