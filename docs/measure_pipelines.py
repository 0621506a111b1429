"""The figures of pipelines.md: how far the families of programs are apart, step by step, in pixels.

python docs/measure_pipelines.py           # 15 seconds; needs nothing but the package
python docs/measure_pipelines.py --picture docs/pipelines.png
"""

import argparse
from pathlib import Path
from time import perf_counter

import matplotlib
import numpy as np

from minivitpose.pose import read_image, warp
from minivitpose.pose.crop import crop, crop_matrix
from minivitpose.pose.decode import MODES, decode
from minivitpose.pose.encode import encode
from minivitpose.pose.pipelines import PIPELINES

PHOTO = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
SIZE, CELLS = (256, 192), (64, 48)
HEIGHT = 200.0  # of the person's box in picture pixels; the crop is 250 high, a cell 3.97
SCALE = np.array([187.5, 250.0])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path, help="also draw where each family puts a point")
    options = parser.parse_args()
    crops()
    same_heatmaps()
    steps()
    there_and_back()
    speed()
    if options.picture:
        draw(options.picture)


def people(n, seed=0):
    """Boxes of HEIGHT, twice as high as wide, wholly inside the photograph with their margin, not on whole pixels."""
    corners = np.random.default_rng(seed).uniform((60, 30), (350, 370), (n, 2))
    return [(*corner, HEIGHT / 2, HEIGHT) for corner in corners.tolist()]


def row(*cells):
    print("| " + " | ".join(str(c) for c in cells) + " |")


def crops():
    print(f"\n1. The crop, against 'udp': 100 boxes {HEIGHT:.0f} px high, inside the photograph\n")
    row("crop", "a crop pixel lies elsewhere in the picture by: mean, most", "grey levels: mean, most")
    row("---", "---", "---")
    photo, v, u = read_image(PHOTO), *np.mgrid[: SIZE[0], : SIZE[1]]
    points = np.stack([u, v], axis=-1)
    for mode in ("plain", "hf", "easy"):
        places, greys = [], []
        for box in people(100):
            a, b = crop(photo, box, mode="udp"), crop(photo, box, mode=mode)
            places.append(np.linalg.norm(a.to_picture(points) - b.to_picture(points), axis=-1))
            greys.append(np.abs(a.pixels.astype(int) - b.pixels))
        row(mode, f"{np.mean(places):.3f} px, {np.max(places):.3f} px", f"{np.mean(greys):.2f}, {np.max(greys)}")


def bells(xy, top=1.0):
    """Gaussians of sigma 2 around points (..., 2) in cells."""
    i, j = np.mgrid[: CELLS[0], : CELLS[1]]
    x, y = np.moveaxis(xy, -1, 0)[..., None, None]
    return top * np.exp(-((j - x) ** 2 + (i - y) ** 2) / 8)


def noisy_maps(n=200, K=17, seed=1):
    """A peak of 0.2 to 1 anywhere on the map, and noise of 0.01."""
    rng = np.random.default_rng(seed)
    xy = rng.uniform(0, (47, 63), (n, K, 2))
    maps = bells(xy, rng.uniform(0.2, 1, (n, K, 1, 1))) + 0.01 * rng.standard_normal((n, K, *CELLS))
    return maps.astype(np.float32), xy


def same_heatmaps():
    maps, xy = noisy_maps()
    border = np.minimum(xy, (47, 63) - xy).min(axis=-1)
    truth = xy / (47, 63) * SCALE
    found = {mode: decode(maps, SCALE / 2, SCALE, mode)[0] for mode in MODES if mode != "easy"}
    print(
        f"\n2. The decoder on the same {border.size} heatmaps, a crop {SCALE[1]:.0f} px high: distance in picture px\n"
    )
    row(
        "decoder",
        "to 'udp', inside: mean, most",
        "to 'udp', border: mean, most",
        "to the truth: inside, border (median)",
    )
    row("---", "---", "---", "---")
    for mode, points in found.items():
        cells = [mode]
        for part in (border >= 6, border < 6):
            off = np.linalg.norm(points - found["udp"], axis=-1)[part]
            cells.append(f"{off.mean():.3f}, {off.max():.2f}")
        off = np.linalg.norm(points - truth, axis=-1)
        row(*cells, f"{np.median(off[border >= 6]):.3f}, {np.median(off[border < 6]):.3f}")
    print("\ninside: at least 6 cells from the border. 'plain' also has another map, see 3.")


def steps():
    print(f"\n3. One step changed from 'udp', a crop {SCALE[1]:.0f} px high: the keypoint moves by, in picture px\n")
    row("step", "mean", "most")
    row("---", "---", "---")
    maps, xy = noisy_maps()
    inside = np.minimum(xy, (47, 63) - xy).min(axis=-1) >= 6
    udp = decode(maps, SCALE / 2, SCALE, "udp")[0]

    def line(name, off):
        row(name, f"{off.mean():.3f}", f"{off.max():.2f}")

    for name, mode in (("no refinement", "argmax"), ("blur of sigma 0.8", "hf"), ("zeros beyond the border", "mmpose")):
        line(f"{name}, inside", np.linalg.norm(decode(maps, SCALE / 2, SCALE, mode)[0] - udp, axis=-1)[inside])
    plain = decode(maps, SCALE / 2, SCALE, "plain")[0] * (48 / 47, 64 / 63)  # with the map of "udp"
    line("quarter steps, inside", np.linalg.norm(plain - udp, axis=-1)[inside])
    cell = np.stack(np.meshgrid(np.arange(48.0), np.arange(64.0)), axis=-1)
    line(
        "map by w instead of w - 1",
        np.linalg.norm(cell * SCALE * (1 / np.array((47, 63)) - 1 / np.array((48, 64))), axis=-1),
    )
    pixel = np.stack(np.meshgrid(np.arange(192.0), np.arange(256.0)), axis=-1)
    places = {m: pixel @ (a := crop_matrix((0, 0), SCALE, SIZE, m))[:, :2].T + a[:, 2] for m in ("udp", "plain")}
    line("crop by W instead of W - 1", np.linalg.norm(places["plain"] - places["udp"], axis=-1))
    half = (pixel + 0.5) / (192, 256) * SCALE - 0.5 - pixel / (191, 255) * SCALE
    line("half-pixel resize, decoded by w - 1 (easy)", np.linalg.norm(half, axis=-1))
    line("integer centre of an odd crop (easy), each way", np.array([0.0, 0.5]))


def there_and_back():
    print(
        "\n4. There and back: a point of the picture, the crop, the heatmap that a perfect network gives, the decoder\n"
    )
    row("pipeline", "network trained with", "error: mean x, mean y", "distance: mean, most")
    row("---", "---", "---", "---")
    for name, pipeline in PIPELINES.items():
        for training in ("udp", "plain"):
            off = errors(pipeline, training)
            x, y = off.mean(axis=0)
            off = np.linalg.norm(off, axis=-1)
            row(name, training, f"{x:+.3f}, {y:+.3f} px", f"{off.mean():.3f}, {off.max():.2f} px")
    print("\npoints in the middle of the box, where no blur reaches the border")


def errors(pipeline, training, n=100):
    photo, rng, off = read_image(PHOTO), np.random.default_rng(3), []
    for box in people(n):
        c = crop(photo, box, mode=pipeline.crop)
        points = rng.uniform(np.add(box[:2], (5, 15)), np.add(box[:2], (95, 185)), (17, 2))
        maps, _ = encode(c.from_picture(points), np.ones(17), mode=training)
        off.append(decode(maps, c.centre, c.scale, pipeline.decode)[0] - points)
    return np.concatenate(off)


def speed():
    from minivitpose.pose import warp_kernel

    print("\n5. Milliseconds, the least of 20 runs\n")
    row("what", "ms")
    row("---", "---")
    photo, matrix = read_image(PHOTO), crop_matrix((250, 300), (187.5, 250), SIZE)
    row("one crop's warp, NumPy", f"{least(lambda: warp.warp(photo, matrix, SIZE)):.2f}")
    row("one crop's warp, Numba", f"{least(lambda: warp_kernel.warp(photo, matrix, SIZE)):.2f}")
    for K in (17, 133):
        maps, _ = noisy_maps(32, K)
        for mode in ("udp", "mmpose", "plain"):
            ms = least(lambda maps=maps, mode=mode: decode(maps, SCALE / 2, SCALE, mode))
            row(f"decode 32 x {K} heatmaps, {mode}", f"{ms:.2f}")


def least(work):
    times = []
    for _ in range(21):  # the first may compile
        start = perf_counter()
        work()
        times.append(perf_counter() - start)
    return min(times[1:]) * 1e3


def draw(path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    axes, photo = figure.subplots(1, 2, sharey=True), read_image(PHOTO)
    box = (100.25, 100.25, HEIGHT / 2, HEIGHT)
    names = {"plain": "plain", "easy": "easy", "udp": "udp; mmpose and hf lie on it"}
    for axis, word in enumerate(("across", "down")):
        along = box[axis] + np.linspace(4, box[2 + axis] - 12, 800)
        points = np.full((800, 2), (150.0, 200.0))
        points[:, axis] = along
        for name, label in names.items():
            c = crop(photo, box, mode=PIPELINES[name].crop)
            training = "plain" if name == "plain" else "udp"
            maps, _ = encode(c.from_picture(points), np.ones(800), mode=training)
            off = decode(maps, c.centre, c.scale, PIPELINES[name].decode)[0] - points
            colour = {"plain": "0.75", "easy": "#D55E00", "udp": "#0072B2"}[name]
            axes[axis].plot(
                along - box[axis], off[:, axis], color=colour, label=label, lw=0.9 if name == "plain" else 2
            )
        axes[axis].set(xlabel=f"where the point is, {word} the box (px)")
        axes[axis].grid(alpha=0.3)
    axes[0].set(ylabel="where the keypoint is found,\nminus that (px)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
