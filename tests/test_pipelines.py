"""Each family of programs, from the picture to the keypoints, against a slow version written from its rules.

The oracles use what the families use: OpenCV, SciPy, and for Hugging Face its own image processor. They share no code
with the package. OpenCV 4 and 5 round differently; the oracles run with the one that is installed.
"""

from dataclasses import astuple
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest

from minivitpose.pose import read_image
from minivitpose.pose.crop import MODES as CROP_MODES
from minivitpose.pose.crop import crop, network_input
from minivitpose.pose.decode import MODES as DECODE_MODES
from minivitpose.pose.decode import decode
from minivitpose.pose.pipelines import PIPELINES, Pipeline

PHOTO = read_image(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg")
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
W, H, w, h = 192, 256, 48, 64  # the input, the heatmaps


def boxes(n=8, seed=0):
    """Boxes on the photograph, some partly outside."""
    rng, (height, width) = np.random.default_rng(seed), PHOTO.shape[:2]
    sizes = rng.uniform(0.2, 0.9, (n, 2)) * (width, height)
    corners = rng.uniform(-0.2, 0.9, (n, 2)) * ((width, height) - 0.8 * sizes)
    return [tuple(map(float, (*c, *s))) for c, s in zip(corners, sizes, strict=True)]


def network(x, K=6):
    """A stand-in: each map has a Gaussian at the centre of mass of one colour, and moves as the picture does."""
    v, u = np.mgrid[:H, :W]
    i, j = np.mgrid[:h, :w]
    likes = np.exp(np.einsum("kc,bcij->bkij", 2 * np.random.default_rng(1).standard_normal((K, 3)), x.astype(float)))
    mass = likes.sum(axis=(2, 3))
    x, y = ((likes * p).sum(axis=(2, 3)) / mass * s for p, s in ((u, 47 / 191), (v, 63 / 255)))
    return (0.9 * np.exp(-((j - x[..., None, None]) ** 2 + (i - y[..., None, None]) ** 2) / 8)).astype(np.float32)


def heatmaps(n, K=17, seed=2):
    """What a good network gives: a Gaussian of sigma 2 anywhere on the map, a weaker second one, noise."""
    rng, (i, j) = np.random.default_rng(seed), np.mgrid[:h, :w]

    def bells(top):
        x, y = rng.uniform((-0.5, -0.5), (w - 0.5, h - 0.5), (n, K, 2)).transpose(2, 0, 1)[..., None, None]
        return top * np.exp(-((j - x) ** 2 + (i - y) ** 2) / 8)

    noise = 0.01 * rng.standard_normal((n, K, h, w))
    return (bells(rng.uniform(0.2, 1, (n, K, 1, 1))) + bells(0.15) + noise).astype(np.float32)


# ------------------------------------------------------------------------ the families' rules, one step after the other


def centre_scale(box):
    """Official: the scale in units of 200 pixels, everything in float32."""
    x, y, width, height = box
    centre = np.array([x + width * 0.5, y + height * 0.5], np.float32)
    if width > W / H * height:
        height = width * H / W
    elif width < W / H * height:
        width = height * W / H
    return centre, np.array([width / 200, height / 200], np.float32) * 1.25


def normalised(pixels):
    return (((pixels.astype(np.float32) / 255) - np.float32(MEAN)) / np.float32(STD)).transpose(2, 0, 1)[None]


def official_udp_input(image, box):
    cv2 = pytest.importorskip("cv2")
    centre, scale = centre_scale(box)
    size = scale * 200
    a, b = (W - 1) / size[0], (H - 1) / size[1]
    matrix = np.array([[a, 0, a * (size[0] / 2 - centre[0])], [0, b, b * (size[1] / 2 - centre[1])]], np.float32)
    return cv2.warpAffine(image, matrix, (W, H), flags=cv2.INTER_LINEAR)


def official_plain_input(image, box):
    cv2 = pytest.importorskip("cv2")
    centre, scale = centre_scale(box)
    half = np.float32(scale[0] * 200 / 2)
    theirs = np.float32([centre, centre - (0, half), centre - (half, half)])
    ours = np.float32([(W / 2, H / 2), (W / 2, H / 2 - W / 2), (0, H / 2 - W / 2)])
    return cv2.warpAffine(image, cv2.getAffineTransform(theirs, ours), (W, H), flags=cv2.INTER_LINEAR)


def easy_input(image, box):
    """Also the padded crop's size and where its corner lies in the picture."""
    cv2 = pytest.importorskip("cv2")
    x, y, width, height = box
    xyxy = np.array([x, y, x + width, y + height]).round().astype(int) + [-10, -10, 10, 10]
    left, right = np.clip(xyxy[[0, 2]], 0, image.shape[1])
    top, bottom = np.clip(xyxy[[1, 3]], 0, image.shape[0])
    part = image[top:bottom, left:right]
    height, width = part.shape[:2]
    more_w, more_h = (int(0.75 * height) - width, 0) if width / height < 0.75 else (0, int(width / 0.75) - height)
    padding = (more_h // 2, more_h - more_h // 2), (more_w // 2, more_w - more_w // 2), (0, 0)
    padded = np.pad(part, padding)
    corner = left - more_w // 2, top - more_h // 2
    return cv2.resize(padded, (W, H), interpolation=cv2.INTER_LINEAR), padded.shape[1::-1], corner


def opencv_blur(heatmap):
    cv2 = pytest.importorskip("cv2")
    return cv2.GaussianBlur(heatmap, (11, 11), 0)


def mmpose_blur(heatmap):
    blurred = opencv_blur(np.pad(heatmap, 5))[5:-5, 5:-5]
    return blurred * (heatmap.max() / blurred.max())


def dark(heatmap, blur):
    """The highest cell and a Newton step in the logarithm, in float32 with a float64 inverse, as the families do it."""
    py, px = np.unravel_index(heatmap.argmax(), heatmap.shape)
    log = np.pad(np.log(np.clip(blur(heatmap), 0.001, 50)), 1, mode="edge")
    here = {(i, j): log[py + 1 + i, px + 1 + j] for i in (-1, 0, 1) for j in (-1, 0, 1)}
    dx, dy = 0.5 * (here[0, 1] - here[0, -1]), 0.5 * (here[1, 0] - here[-1, 0])
    dxx = here[0, 1] - 2 * here[0, 0] + here[0, -1]
    dyy = here[1, 0] - 2 * here[0, 0] + here[-1, 0]
    dxy = here[1, 1] - here[0, 1] - here[1, 0] + here[0, 0] + here[0, 0] - here[0, -1] - here[-1, 0] + here[-1, -1]
    hessian = np.array([[dxx, 0.5 * dxy], [0.5 * dxy, dyy]], np.float64) + np.finfo(np.float32).eps * np.eye(2)
    return (px, py) - np.linalg.inv(hessian) @ (dx, dy)


def quarter(heatmap):
    py, px = np.unravel_index(heatmap.argmax(), heatmap.shape)
    if not (1 < px < w - 1 and 1 < py < h - 1):
        return np.array([px, py], float)
    right, down = heatmap[py, px + 1] - heatmap[py, px - 1], heatmap[py + 1, px] - heatmap[py - 1, px]
    return np.array([px, py]) + 0.25 * np.sign([right, down])


def family_input(name, image, box):
    """The family's crop, uint8."""
    if name == "easy":
        return easy_input(image, box)[0]
    return {"plain": official_plain_input}.get(name, official_udp_input)(image, box)


def family_keypoints(name, maps, image, box):
    """The family's keypoints (K, 2) from heatmaps (K, h, w)."""
    centre, scale = centre_scale(box)
    size = scale * 200
    if name == "plain":
        return np.array([quarter(m) for m in maps]) * (size / (w, h)) + centre - size / 2
    cells = np.array([dark(m, mmpose_blur if name == "mmpose" else opencv_blur) for m in maps])
    if name == "mmpose":  # by way of the input, W and H wide
        return cells / (w - 1, h - 1) * (W, H) / (W, H) * size + centre - size / 2
    if name == "easy":
        _, (width, height), corner = easy_input(image, box)
        half = np.array([width // 2, height // 2])
        return cells * (width / (w - 1), height / (h - 1)) + half - np.array([width, height]) / 2 + corner
    return cells * (size / (w - 1, h - 1)) + centre - size / 2


# --------------------------------------------------------------------------------------------------------------- tests


def test_the_table():
    assert set(PIPELINES) == {"udp", "plain", "mmpose", "hf", "easy"}
    for name, pipeline in PIPELINES.items():
        assert isinstance(pipeline, Pipeline) and pipeline.name == name
        assert pipeline.crop in CROP_MODES and pipeline.decode in DECODE_MODES
        assert pipeline.shift is (name == "plain")
    assert astuple(PIPELINES["mmpose"]) == ("mmpose", "udp", "mmpose", False)
    with pytest.raises(AttributeError):
        PIPELINES["udp"].shift = True


@pytest.mark.parametrize("name", ["udp", "plain", "mmpose", "easy"])
def test_the_crop_is_the_familys_within_one_grey_level(name):
    cv2 = pytest.importorskip("cv2")
    level = 0 if name == "easy" else 1 if int(cv2.__version__.split(".")[0]) >= 5 else 9
    for box in boxes():
        theirs = family_input(name, PHOTO, box)
        off = np.abs(theirs.astype(int) - crop(PHOTO, box, mode=PIPELINES[name].crop).pixels)
        assert off.max() <= level and off.mean() < 0.3


@pytest.mark.parametrize("name", ["udp", "plain", "mmpose", "easy"])
def test_the_same_heatmaps_give_the_familys_keypoints_within_a_hundredth_of_a_pixel(name):
    """Also on the border, where the blurs differ most; a step as long as the map, which they take, is left out."""
    maps, pipeline = heatmaps(8), PIPELINES[name]
    for m, box in zip(maps, boxes(), strict=True):
        c = crop(PHOTO, box, mode=pipeline.crop)
        got, scores = decode(m, c.centre, c.scale, pipeline.decode)
        theirs = family_keypoints(name, m, PHOTO, box)
        near = np.abs(theirs - c.centre).max(axis=1) < 1.5 * max(c.scale)
        assert near.sum() >= 16 and np.abs(got - theirs)[near].max() < 0.01
        assert np.array_equal(scores, m.max(axis=(1, 2)))


@pytest.mark.parametrize("name", ["udp", "plain", "mmpose", "easy"])
def test_the_same_picture_gives_the_familys_keypoints_within_a_tenth_of_a_pixel(name):
    pipeline = PIPELINES[name]
    for box in boxes():
        theirs = network(normalised(family_input(name, PHOTO, box)))[0]
        c = crop(PHOTO, box, mode=pipeline.crop)
        got, scores = decode(network(network_input(c))[0], c.centre, c.scale, pipeline.decode)
        assert np.abs(got - family_keypoints(name, theirs, PHOTO, box)).max() < 0.1
        assert scores.min() > 0.8 and np.ptp(got, axis=0).max() > 10


def test_the_families_differ_by_more_than_the_tolerance():
    """Otherwise the tests above could not tell one from another."""
    box, maps = boxes()[0], heatmaps(8)[0]
    points = {}
    for name, pipeline in PIPELINES.items():
        c = crop(PHOTO, box, mode=pipeline.crop)
        points[name] = decode(maps, c.centre, c.scale, pipeline.decode)[0]
    for a in points:
        assert all(np.abs(points[a] - points[b]).max() > 0.5 for b in points if a != b)


@pytest.mark.reference
def test_transformers_own_processor():
    """Its pixels to the byte, its heatmaps' keypoints within 0.01 pixel, and from the picture on within 0.1."""
    torch = pytest.importorskip("torch")
    module = pytest.importorskip("transformers.models.vitpose.image_processing_pil_vitpose")
    processor = module.VitPoseImageProcessorPil()
    people = boxes(6) + [(-120.0, -80.0, 300.0, 300.0), (0.0, 0.0, 512.0, 600.0), (3.5, 7.25, 96.0, 128.0)]
    values = processor(PHOTO, boxes=[[list(b) for b in people]], return_tensors="pt")["pixel_values"]
    crops = [crop(PHOTO, box, mode="hf") for box in people]
    ours = np.concatenate([network_input(c) for c in crops])
    assert values.shape == ours.shape and np.abs(values.numpy() - ours).max() < 2e-6
    back = (values.numpy().transpose(0, 2, 3, 1) * STD + MEAN) * 255
    assert all(np.array_equal(np.rint(b), c.pixels) for b, c in zip(back, crops, strict=True))

    centre, scale = ([getattr(c, field) for c in crops] for field in ("centre", "scale"))
    for maps, tolerance in ((heatmaps(len(people)), 0.01), (network(values.numpy()), 0.1)):
        outputs = SimpleNamespace(heatmaps=torch.from_numpy(maps.copy()))
        poses = processor.post_process_pose_estimation(outputs, boxes=[[list(b) for b in people]])[0]
        theirs = np.stack([pose["keypoints"].numpy() for pose in poses])
        got, scores = decode(maps if tolerance < 0.1 else network(ours), centre, scale, "hf")
        near = np.abs(theirs - np.array(centre)[:, None]).max(axis=2) < 1.5 * np.max(scale, axis=1)[:, None]
        assert near.mean() > 0.98 and np.abs(got - theirs)[near].max() < tolerance
        assert np.abs(scores - np.stack([pose["scores"].numpy() for pose in poses])).max() < 1e-3
