"""Mistakes in decoding heatmaps."""

import numpy as np

from minivitpose.pose import decode
from minivitpose.teach.mistakes.table import mistake
from minivitpose.teach.steps import STEPS

# ------------------------------------------------------------------------------- whatever the way of refining is

COMMON = [
    (
        "x and y swapped",
        "the row comes first and the column second",
        "A keypoint is (x, y): the column first.",
        lambda heatmaps, xy, scores: (xy[:, ::-1], scores),
    ),
    (
        "half-pixel offset",
        "half a cell is added: cells are taken for squares whose corner is counted",
        "A cell is a point: cell (0, 0) lies at x = 0, y = 0.",
        lambda heatmaps, xy, scores: (xy + 0.5, scores),
    ),
    (
        "score is the mean",
        "the score is the mean of the map",
        "It is the highest value of the heatmap.",
        lambda heatmaps, xy, scores: (xy, heatmaps.mean((1, 2))),
    ),
]


def enter_common():
    """The same for the three steps, on top of what is right there."""
    for step in ("decode_argmax", "decode_quarter", "decode_udp"):
        for cause, happens, instead, spoil in COMMON:

            def decoded(heatmaps, truth=STEPS[step].truth, spoil=spoil):
                return spoil(heatmaps, *truth(heatmaps))

            mistake(step, cause, happens, instead)(decoded)


enter_common()


def highest(maps):
    """(K, Hm, Wm) -> the number of the highest cell in reading order (K,), and what stands there."""
    flat = maps.reshape(len(maps), -1)
    return flat.argmax(-1), flat.max(-1)


@mistake(
    "decode_argmax",
    "argmax of the transposed map",
    "the map is read down its columns, and the cell's number taken apart as if it were read along the rows",
    "Flatten (K, Hm, Wm) as it is; then x = cell % Wm, y = cell // Wm.",
)
def _(heatmaps):
    cell, scores = highest(heatmaps.swapaxes(1, 2))
    return np.stack([cell % heatmaps.shape[2], cell // heatmaps.shape[2]], -1), scores


@mistake(
    "decode_argmax",
    "divided by the height",
    "the cell's number is taken apart by Hm",
    "A row has Wm cells: x = cell % Wm, y = cell // Wm.",
)
def _(heatmaps):
    cell, scores = highest(heatmaps)
    return np.stack([cell % heatmaps.shape[1], cell // heatmaps.shape[1]], -1), scores


@mistake(
    "decode_argmax",
    "last of equals",
    "among equal cells the last one wins",
    "The first in reading order wins, as with np.argmax.",
)
def _(heatmaps):
    K, height, width = heatmaps.shape
    cell, scores = highest(heatmaps[:, ::-1, ::-1])
    cell = height * width - 1 - cell
    return np.stack([cell % width, cell // width], -1), scores


@mistake(
    "decode_argmax",
    "highest absolute value",
    "the cell with the highest absolute value is taken",
    "What is below 0 is not high: take the argmax of the values themselves.",
)
def _(heatmaps):
    cell, _ = highest(np.abs(heatmaps))
    xy = np.stack([cell % heatmaps.shape[2], cell // heatmaps.shape[2]], -1)
    return xy, heatmaps.reshape(len(heatmaps), -1)[np.arange(len(heatmaps)), cell]


# --------------------------------------------------------------------------------------------------- a quarter cell


def differences(maps, xy, border):
    """Right less left and lower less upper neighbour (K, 2), 0 in the ``border`` cells at each edge."""
    K, height, width = maps.shape
    x, y = xy.astype(int).T
    inner = (x >= border) & (x < width - border) & (y >= border) & (y < height - border)
    x, y, k = np.clip(x, 1, max(width - 2, 1)), np.clip(y, 1, max(height - 2, 1)), np.arange(K)
    both = np.stack([maps[k, y, x + 1] - maps[k, y, x - 1], maps[k, y + 1, x] - maps[k, y - 1, x]], -1)
    return np.where(inner[:, None], both, 0)


def first_inside(maps, xy):
    """As differences, where 1 < x < Wm - 1 and 1 < y < Hm - 1: strictly, as the official code has it."""
    return np.where((xy > 1).all(-1)[:, None], differences(maps, xy, 1), 0)


@mistake("decode_quarter", "not refined", "the cell stays as it is", "Add 0.25 sign(right - left), and for y likewise.")
def _(heatmaps):
    return decode.decode_argmax(heatmaps)


@mistake(
    "decode_quarter",
    "wrong direction",
    "the point goes away from the higher neighbour",
    "Towards it: x + 0.25 sign(right - left), and for y likewise.",
)
def _(heatmaps):
    xy, scores = decode.decode_argmax(heatmaps)
    return xy - 0.25 * np.sign(first_inside(heatmaps, xy)), scores


@mistake(
    "decode_quarter",
    "no sign",
    "the difference itself is multiplied by 0.25",
    "Only its sign counts: 0.25 np.sign(right - left).",
)
def _(heatmaps):
    xy, scores = decode.decode_argmax(heatmaps)
    return xy + 0.25 * first_inside(heatmaps, xy), scores


@mistake("decode_quarter", "half a cell", "the step is half a cell", "It is a quarter: 0.25 np.sign(right - left).")
def _(heatmaps):
    xy, scores = decode.decode_argmax(heatmaps)
    return xy + 0.5 * np.sign(first_inside(heatmaps, xy)), scores


@mistake(
    "decode_quarter",
    "column 1 refined",
    "the cells in row 1 and column 1 are refined, too",
    "The official code asks strictly: 1 < x < Wm - 1 and 1 < y < Hm - 1.",
)
def _(heatmaps):
    xy, scores = decode.decode_argmax(heatmaps)
    return xy + 0.25 * np.sign(differences(heatmaps, xy, 1)), scores


@mistake(
    "decode_quarter",
    "each axis asked alone",
    "at the border of one axis the other one is still refined",
    "Both must lie inside, 1 < x < Wm - 1 and 1 < y < Hm - 1, or nothing moves.",
)
def _(heatmaps):
    xy, scores = decode.decode_argmax(heatmaps)
    padded = np.pad(heatmaps, ((0, 0), (1, 1), (1, 1)))
    inside = (xy > 1) & (xy < np.array(heatmaps.shape[:0:-1]) - 1)
    return xy + 0.25 * np.where(inside, np.sign(differences(padded, xy + 1, 1)), 0), scores


# ------------------------------------------------------------------------------------------------------ DARK and UDP


def newton(heatmaps, values=decode.log_patches, step=decode.newton_step, sign=1):
    """decode_udp, with one of its parts exchanged."""
    cells, scores = decode.decode_argmax(heatmaps)
    return cells + sign * step(values(heatmaps, cells, scores, "udp")), scores


def not_blurred(maps, cells, scores, mode):
    """The map's own values around each cell, instead of the blurred ones, in the logarithm."""
    padded = np.pad(maps, ((0, 0), (1, 1), (1, 1)), "edge").astype(np.float64)
    x, y = cells.astype(int).T
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    return np.log(np.clip(windows[np.arange(len(maps)), y, x], decode.LOW, decode.HIGH))


@mistake("decode_udp", "not refined", "the cell stays as it is", "Add the Newton step.")
def _(heatmaps):
    return decode.decode_argmax(heatmaps)


@mistake(
    "decode_udp",
    "quarter shift",
    "the point goes a quarter of a cell towards the higher neighbour",
    "UDP fits a Gaussian: one Newton step in the logarithm of the blurred map.",
)
def _(heatmaps):
    return STEPS["decode_quarter"].truth(heatmaps)


@mistake(
    "decode_udp",
    "logarithm missing",
    "the step is made on the blurred map itself",
    "Take its logarithm first: then a Gaussian is a parabola, and one Newton step reaches its top.",
)
def _(heatmaps):
    return newton(heatmaps, lambda *a: np.exp(decode.log_patches(*a)))


@mistake(
    "decode_udp",
    "blur missing",
    "the map is not blurred",
    "Blur it first, 11 taps of sigma 2: a network's map has wrinkles, and its derivatives more of them.",
)
def _(heatmaps):
    return newton(heatmaps, not_blurred)


@mistake(
    "decode_udp",
    "sigma 0.8",
    "the blur has a sigma of 0.8, as in Hugging Face transformers",
    "UDP's 11 taps have sigma 2.",
)
def _(heatmaps):
    return newton(heatmaps, lambda maps, cells, scores, _: decode.log_patches(maps, cells, scores, "hf"))


@mistake(
    "decode_udp",
    "0 beyond the border",
    "the blur takes what lies beyond the border for 0",
    "Reflect the map there: ... 2 1 0 1 2 ....",
)
def _(heatmaps):
    return newton(heatmaps, lambda maps, cells, scores, _: decode.log_patches(maps, cells, scores, "mmpose"))


@mistake(
    "decode_udp",
    "wrong direction",
    "the step goes downhill",
    "The step is minus the inverse Hessian times the gradient.",
)
def _(heatmaps):
    return newton(heatmaps, sign=-1)


@mistake(
    "decode_udp",
    "half missing in the gradient",
    "the gradient is right - left, so that the step is twice too long",
    "A central difference is (right - left) / 2.",
)
def _(heatmaps):
    return newton(heatmaps, sign=2)


@mistake(
    "decode_udp",
    "mixed derivative missing",
    "x and y are refined each by itself",
    "The Hessian has a mixed derivative, too: solve the 2x2 system.",
)
def _(heatmaps):
    def each_axis(L):
        left, middle, right, up, down = L[:, 1, 0], L[:, 1, 1], L[:, 1, 2], L[:, 0, 1], L[:, 2, 1]
        along = (right - left) / 2 / (right - 2 * middle + left + decode.EPSILON)
        return -np.stack([along, (down - up) / 2 / (down - 2 * middle + up + decode.EPSILON)], -1)

    return newton(heatmaps, step=each_axis)
