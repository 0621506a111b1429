"""Figures: the network's inside at a glance.

Each function returns a matplotlib Figure and leaves matplotlib's settings alone: no pyplot, no window, any machine.
Colours are safe for the colour-blind: left blue with round joints, right orange with square ones; maps in viridis.
"""

import os

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, Stroke

from minivitpose.draw import draw_poses
from minivitpose.files import replacing
from minivitpose.pose.crop import MEAN
from minivitpose.pose.decode import cells_to_crop
from minivitpose.pose.skeletons import LEFT, RIGHT

INK, GREY, DARK, UNSEEN = "#1A1A1A", "#5F6368", "#14181F", "#D55E00"
MAP = colormaps["viridis"]
PATCH, OFFSET = 16, 2  # the patches are 16 pixels wide and the first starts at pixel -2, in the padding
LUMA = np.array([0.299, 0.587, 0.114])  # how bright red, green and blue look. Source: ITU-R BT.601
OVER = 0.65  # how much the colours of a map cover the crop under it
FONT = "DejaVu Sans"  # comes with matplotlib


def new_figure(width, height, dpi):
    """A white figure of width x height pixels with a canvas that draws into memory."""
    figure = Figure(figsize=(width / dpi, height / dpi), dpi=dpi, facecolor="white", layout="none")
    FigureCanvasAgg(figure)
    return figure


# What matplotlib is told for each kind. With photographs in it, a JPEG is a third of a PNG and a WebP a fifth.
KINDS = {
    ".png": {"pil_kwargs": {"optimize": True}, "metadata": {"Software": None}},
    ".jpg": {"pil_kwargs": {"quality": 90, "subsampling": 0}},
    ".webp": {"pil_kwargs": {"quality": 90}},
    ".pdf": {},
    ".svg": {},
}
KINDS[".jpeg"] = KINDS[".jpg"]


def save(figure, path):
    """Write the figure at its own size in pixels as the path's ending says, one of KINDS; the whole file or none.

    Raises OSError, and ValueError for another ending.
    """
    kind = os.path.splitext(path)[1].lower()
    if kind not in KINDS:
        raise ValueError(f"{path}: expected an ending of {', '.join(KINDS)}, found {kind!r}")
    options = KINDS[kind] | {"dpi": figure.dpi, "bbox_inches": figure.bbox_inches, "facecolor": "white"}
    with replacing(path) as file:
        figure.savefig(file, format=kind[1:], **options)


# ------------------------------------------------------------------------------------------------------ small parts


def show_picture(axes, image):
    """The picture with no frame or ticks; pixel (x, y) is the point x, y."""
    height, width = image.shape[:2]
    show_pixels(axes, image, (-0.5, width - 0.5, height - 0.5, -0.5))


def show_pixels(axes, pixels, extent, **style):
    """An image over the rectangle ``extent`` (left, right, bottom, top), which the axes then show, no more, no less."""
    axes.imshow(pixels, extent=extent, origin="upper", aspect="equal", **{"interpolation": "antialiased", **style})
    axes.set(xlim=extent[:2], ylim=extent[2:], anchor="NW")
    axes.set_axis_off()


def outline(stroke):
    """A dark rim around a line, so that it shows on light ground; the light line itself shows on dark ground."""
    return [Stroke(linewidth=1.9 * stroke, foreground=DARK, alpha=0.85), Normal()]


def hexed(rgb):
    """(r, g, b) 0 to 255 -> "#rrggbb"."""
    return "#{:02x}{:02x}{:02x}".format(*rgb)


# ------------------------------------------------------------------------------------------- the network at a glance


def demo_figure(image, crop, pattern, heatmaps, poses, skeleton, token, block, note):
    """One picture of everything between a picture and its keypoints, 1600 pixels wide.

    image (H, W, 3) uint8; crop a Crop of it; pattern (h, N, N), the attention of one image in block number ``block``
    (row: who asks, column: who is asked); heatmaps (K, Hm, Wm); poses the Pose of everybody; token 0 .. N - 1, the one
    whose row is shown; note a line to stand below -> Figure.
    """
    split = min(max(len(pattern), 3), SMALL // 2)  # so many places for heads, the others for keypoints
    figure, top, small = layout(image.shape[1] / image.shape[0], split)
    show_crop(top[0], crop)
    show_patches(top[1], crop, token)
    show_attention(top[2], crop, pattern, token, block)
    show_heatmaps(top[3], crop, heatmaps)
    show_result(top[4], image, crop, poses, skeleton)
    show_heads(small[:split], crop, pattern, token)
    show_single_keypoints(small[split:], crop, heatmaps, skeleton)
    figure.text(0.5, 0.022, note, ha="center", va="center", fontsize=10.5, color=GREY, family=FONT)
    return figure


POINTS = 0.72  # one pixel in points, at 100 dots an inch
SMALL = 12  # places for small maps in the lower row
WIDTH, EDGE, GAP, HEAD, FOOT, SMALL_GAP, BETWEEN = 1600, 26, 24, 56, 34, 10, 44  # of the layout, in pixels


def layout(aspect, split):
    """The figure and its axes: five panels on top, the last for the picture, and SMALL maps below.

    aspect: width of the picture over its height; split: so many small maps stand before the gap -> Figure, [5 axes],
    [SMALL axes].
    """
    ratios = [0.752] * 4 + [min(max(aspect, 0.6), 4 / 3)]
    height = (WIDTH - 2 * EDGE - 4 * GAP) / sum(ratios)
    small = (WIDTH - 2 * EDGE - BETWEEN - (SMALL - 2) * SMALL_GAP) / SMALL
    total = round(HEAD + height + FOOT + HEAD + small / 0.752 + 2 * FOOT)
    figure = new_figure(WIDTH, total, dpi=100)
    x = EDGE + np.concatenate([[0], np.cumsum([r * height + GAP for r in ratios])])
    top = [axes_at(figure, x[i], HEAD, ratios[i] * height, height) for i in range(5)]
    x = EDGE + np.arange(SMALL) * (small + SMALL_GAP) + (np.arange(SMALL) >= split) * (BETWEEN - SMALL_GAP)
    return figure, top, [axes_at(figure, left, HEAD + height + FOOT + HEAD, small, small / 0.752) for left in x]


def axes_at(figure, left, top, width, height):
    """Bare axes at a place given in pixels from the figure's left upper corner."""
    W, H = figure.get_size_inches() * figure.dpi
    axes = figure.add_axes((left / W, 1 - (top + height) / H, width / W, height / H))
    axes.set_axis_off()
    return axes


def say(axes, title, subtitle):
    """A bold title and a grey line under it, above the axes."""
    put(axes, 0, 32, title, fontsize=12.5, weight="bold", color=INK, ha="left")
    put(axes, 0, 13, subtitle, fontsize=9.5, color=GREY, ha="left")


def put(axes, x, up, text, right=0, **style):
    """Text at x (0 left, 1 right) of the axes, so many pixels above them (below their foot if negative), and right."""
    place = {"xycoords": "axes fraction", "textcoords": "offset points", "annotation_clip": False}
    offset = (right * POINTS, up * POINTS)
    axes.annotate(text, (x, int(up > 0)), offset, va="center", family=FONT, **place, **style)


def legend_below(axes, text):
    """One grey line below the axes."""
    put(axes, 0, -14, text, fontsize=9, color=GREY, ha="left")


def scale_below(axes, low, high):
    """The colours' meaning below the axes: lowest value, a band of colours, highest value."""
    band = axes.inset_axes((0.25, -0.05, 0.5, 0.022))
    colours = OVER * MAP(np.linspace(0, 1, 256))[None, :, :3] + (1 - OVER) * 0.55  # as over a medium grey
    band.imshow(colours, aspect="auto", interpolation="nearest")
    band.set_axis_off()
    put(axes, 0.23, -14, number(low, high), fontsize=9, color=GREY, ha="right")
    put(axes, 0.77, -14, number(high, high), fontsize=9, color=GREY, ha="left")


def number(value, highest):
    """A value in few letters: three digits, or one if it is next to nothing."""
    return f"{value:.3g}" if abs(value) >= 1e-3 * abs(highest) else f"{value:.0e}"


def show_crop(axes, crop):
    height, width = crop.pixels.shape[:2]
    show_picture(axes, crop.pixels)
    say(axes, "1  The crop", f"{width} × {height} pixels, all the network sees")
    legend_below(axes, f"1 pixel = {crop.scale[0] / (width - 1):.2f} pixels of the picture")


def show_with_padding(axes, colours, padding):
    """The crop, (H, W, 3) 0 to 1, and before its first row and column the padding that the first patches reach into."""
    height, width = colours.shape[:2]
    canvas = np.full((height + OFFSET, width + OFFSET, 3), padding)
    canvas[OFFSET:, OFFSET:] = colours
    show_pixels(axes, canvas, (-OFFSET - 0.5, width - 0.5, height - 0.5, -OFFSET - 0.5))


def show_patches(axes, crop, token):
    rows, columns = patch_grid(crop)
    height, width = np.add(crop.pixels.shape[:2], OFFSET)
    show_with_padding(axes, crop.pixels / 255, MEAN)  # the padding is 0 after the normalisation: the mean colour
    (left, right), (top, bottom) = patch_span(columns), patch_span(rows)
    for colour, stroke in ((DARK, 1.6), ("white", 0.6)):
        axes.vlines(left + PATCH * np.arange(columns + 1), top, bottom, color=colour, linewidth=stroke)
        axes.hlines(top + PATCH * np.arange(rows + 1), left, right, color=colour, linewidth=stroke)
    axes.add_patch(Rectangle((left, bottom), width, OFFSET, color=UNSEEN, linewidth=0, zorder=3))
    axes.add_patch(Rectangle((right, top), OFFSET, height, color=UNSEEN, linewidth=0, zorder=3))
    mark(axes, crop, token)
    say(axes, "2  Patches", f"{rows} × {columns} tokens of {PATCH} × {PATCH} pixels")
    legend_below(axes, f"square: token {token}; red edge: unseen")


def patch_grid(crop):
    """Rows and columns of patches."""
    return tuple(n // PATCH for n in crop.pixels.shape[:2])


def patch_span(n):
    """Where n patches in a row begin and end, in crop pixels (pixel i reaches from i - 1/2 to i + 1/2)."""
    return -OFFSET - 0.5, n * PATCH - OFFSET - 0.5


def mark(axes, crop, token, stroke=1.6):
    """A white square, rimmed dark, around one token's patch."""
    row, column = divmod(token, patch_grid(crop)[1])
    corner = column * PATCH - OFFSET - 0.5, row * PATCH - OFFSET - 0.5
    for colour, width in ((DARK, 2.6 * stroke), ("white", stroke)):
        axes.add_patch(Rectangle(corner, PATCH, PATCH, fill=False, edgecolor=colour, linewidth=width, zorder=5))


def overlay(axes, crop, values, extent):
    """Values as colours laid over the crop in pale grey. values (m, n), extent (left, right, bottom, top) in pixels."""
    grey = (crop.pixels @ LUMA / 255)[..., None]
    show_with_padding(axes, 0.3 + 0.65 * grey, 0.3 + 0.65 * MEAN @ LUMA)
    limits = axes.get_xlim(), axes.get_ylim()
    show_pixels(axes, values, extent, cmap=MAP, alpha=OVER, interpolation="nearest")
    axes.set(xlim=limits[0], ylim=limits[1])


def patch_extent(crop):
    """The rectangle that the patches cover, for imshow."""
    rows, columns = patch_grid(crop)
    return *patch_span(columns), *patch_span(rows)[::-1]


def heatmap_extent(crop, heatmap_size):
    """The rectangle that the heatmap's cells cover, for imshow: the centres of the corner cells are corner pixels."""
    height, width = heatmap_size
    corners = np.array([(-0.5, -0.5), (width - 0.5, height - 0.5)])
    (left, top), (right, bottom) = cells_to_crop(corners, heatmap_size, crop.pixels.shape[:2])
    return left, right, bottom, top


def show_attention(axes, crop, pattern, token, block):
    values = pattern[:, token].mean(axis=0).reshape(patch_grid(crop))
    overlay(axes, crop, values, patch_extent(crop))
    mark(axes, crop, token)
    say(axes, "3  Attention", f"block {block}, token {token}, mean of {len(pattern)} heads")
    scale_below(axes, values.min(), values.max())


def show_heatmaps(axes, crop, heatmaps):
    values = heatmaps.max(axis=0)
    overlay(axes, crop, values, heatmap_extent(crop, values.shape))
    rows, columns = values.shape
    say(axes, "4  Heatmaps", f"highest of {len(heatmaps)} maps of {rows} × {columns} cells")
    scale_below(axes, values.min(), values.max())


def show_result(axes, image, crop, poses, skeleton):
    across = axes.get_position().width * axes.figure.get_size_inches()[0] * axes.figure.dpi  # the panel, in pixels
    show_picture(axes, draw_poses(image, poses, skeleton, stroke=3 * image.shape[1] / across))
    height, width = crop.pixels.shape[:2]
    corner, end = crop.to_picture([(0, 0), (width - 1, height - 1)])
    frame = Rectangle(corner, *(end - corner), fill=False, edgecolor="white", linewidth=1, linestyle="--")
    frame.set_path_effects(outline(1))
    axes.add_patch(frame)
    say(axes, "5  Keypoints", "the peaks, back in the picture")
    for right, sign, colour, words in ((0, "●", LEFT, "left"), (52, "■", RIGHT, "right;  dashed: the crop")):
        put(axes, 0, -14, sign, right, fontsize=11, color=hexed(colour), ha="left", path_effects=outline(0.6))
        put(axes, 0, -14, words, right + 18, fontsize=9, color=GREY, ha="left")


def show_heads(small, crop, pattern, token):
    """The token's attention in a few heads, each in colours of its own scale."""
    say(small[0], f"Attention of token {token} in single heads", "each in colours of its own scale")
    for axes, head in zip(small, spread(len(pattern), len(small)), strict=False):
        overlay(axes, crop, pattern[head, token].reshape(patch_grid(crop)), patch_extent(crop))
        mark(axes, crop, token, 0.9)
        put(axes, 0.5, -12, f"head {head}", fontsize=9, color=INK, ha="center")


def show_single_keypoints(small, crop, heatmaps, skeleton):
    """The heatmaps of a few keypoints, each in colours of its own scale."""
    say(small[0], "Heatmaps of single keypoints", "each in colours of its own scale")
    for axes, k in zip(small, spread(len(heatmaps), len(small)), strict=False):
        overlay(axes, crop, heatmaps[k], heatmap_extent(crop, heatmaps[k].shape))
        put(axes, 0.5, -12, skeleton.keypoints[k].replace("_", " "), fontsize=9, color=INK, ha="center")


def spread(n, count):
    """At most ``count`` of the numbers 0 .. n - 1, evenly spread, the first and the last among them."""
    return np.unique(np.linspace(0, n - 1, min(n, count)).round().astype(int))
