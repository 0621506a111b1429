"""Draws docs/mannequins.jpg: crops of the mannequin world with their keypoints. Run it from the repository's root."""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.patches import Rectangle
from PIL import Image

from minivitpose import synthetic
from minivitpose.plot import INK, hexed, new_figure
from minivitpose.pose.skeletons import COCO, SIDES

GAP = 4  # pixels between crops
JPEG = {"quality": 80, "optimize": True}  # half the bytes of plot.save's 90, for a page of many small pictures


def contact_sheet(images, keypoints, columns=11, labels=True, mark=5.0):
    """Crops side by side with their keypoints -> Figure, one pixel of it for a pixel of a crop.

    images (n, H, W, 3) uint8, keypoints (n, 17, 3): x, y, visibility. Filled: visible; hollow: hidden; left blue and
    round, right orange and square. labels: whether to draw the keypoints at all; mark: their size in pixels.
    """
    n, H, W, _ = images.shape
    rows = -(-n // columns)
    width, height = columns * (W + GAP) + GAP, rows * (H + GAP) + GAP
    page = np.full((height, width, 3), 255, np.uint8)
    figure = new_figure(width, height, dpi=72)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for i in range(n):
        y, x = GAP + i // columns * (H + GAP), GAP + i % columns * (W + GAP)
        page[y : y + H, x : x + W] = images[i]
        if labels:
            frame = Rectangle((x - 0.5, y - 0.5), W, H, transform=axes.transData)
            draw_keypoints(axes, keypoints[i] + (x, y, 0), mark, frame)
    axes.imshow(page, extent=(-0.5, width - 0.5, height - 0.5, -0.5), interpolation="nearest")
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    return figure


def draw_keypoints(axes, points, size, frame):
    """One person: thin limbs between the keypoints that lie in the picture, a mark for each, all inside the frame."""
    x, y, v = points.T
    for (a, b), rgb in zip(COCO.links, COCO.link_colours, strict=True):
        if v[a] and v[b]:
            style = {"color": hexed(rgb), "linewidth": 0.25 * size, "alpha": 0.8}
            axes.plot(x[[a, b]], y[[a, b]], zorder=3, **style)[0].set_clip_path(frame)
    for k, side in enumerate(COCO.sides):
        if v[k]:
            marker, colour = "s" if side == "right" else "o", hexed(SIDES[side])
            face, edge = (colour, INK) if v[k] == 2 else ("none", colour)
            style = {
                "markersize": size,
                "markerfacecolor": face,
                "markeredgecolor": edge,
                "markeredgewidth": 0.16 * size,
            }
            axes.plot(x[k], y[k], marker, zorder=4, **style)[0].set_clip_path(frame)


def shrunk(images, keypoints, factor):
    """The same crops and keypoints, smaller."""
    H, W = (round(side * factor) for side in images.shape[1:3])
    small = np.stack([np.asarray(Image.fromarray(image).resize((W, H), Image.Resampling.LANCZOS)) for image in images])
    to_small = np.array([(W - 1) / (images.shape[2] - 1), (H - 1) / (images.shape[1] - 1), 1])
    return small, keypoints * to_small


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--out", type=Path, default=Path("docs/mannequins.jpg"))
    p.add_argument("--count", type=int, default=64, help="of crops")
    p.add_argument("--columns", type=int, default=16)
    p.add_argument("--factor", type=float, default=0.625, help="size of a crop in the sheet, as a share of its own")
    p.add_argument("--seed", type=int, default=9)
    p.add_argument("--world", default="seen")
    p.add_argument("--plain", action="store_true", help="without keypoints")
    options = p.parse_args()
    images, keypoints, _, _ = synthetic.batch(options.seed, options.count, world=options.world)
    images, keypoints = shrunk(images, keypoints, options.factor)
    figure = contact_sheet(images, keypoints, options.columns, not options.plain, 5 * options.factor)
    figure.savefig(options.out, dpi=figure.dpi, **({"pil_kwargs": JPEG} if options.out.suffix == ".jpg" else {}))


if __name__ == "__main__":
    main()
