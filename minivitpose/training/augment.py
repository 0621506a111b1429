"""What is changed at random in a crop, so that no two steps see the same: as in the recipe that ViTPose was trained by.

Source: TopDownRandomFlip, TopDownHalfBodyTransform, TopDownGetRandomScaleRotation of mmpose, with the numbers of the
ViTPose configs (settings.py); colour is this package's own. Rotation and scale are normal, their settings the standard
deviations: cut off at twice that of the rotation, at once that of the scale.
"""

import numpy as np
from numba import njit

from minivitpose.kernels.jit import CACHE
from minivitpose.pose.crop import crop_matrix

MANY = 8  # more joints than this must be marked before half of the body is cut away
HALF_PADDING = 1.5  # how much wider and higher than the joints the crop of half a body is
ROTATED = 0.6  # share of the crops that are turned at all


def random_matrix(rng, centre, scale, keypoints, skeleton, settings, size=(256, 192), mode="udp"):
    """The affine map of an augmented crop, crop pixel -> picture pixel, without the flip: (2, 3) float64.

    centre, scale: of the person's crop, in pixels of the picture; keypoints (K, 3) x, y, visibility there;
    settings: a Settings; mode: "udp" or "plain", as the model's targets.
    """
    if rng.random() < settings.half_body:
        centre, scale = half_body(rng, centre, scale, keypoints, skeleton, size)
    share = np.clip(1 + settings.scale * rng.standard_normal(), 1 - settings.scale, 1 + settings.scale)
    share = max(share, 0.1)
    turned = rng.random() < ROTATED
    rotation = np.clip(settings.rotation * rng.standard_normal(), -2 * settings.rotation, 2 * settings.rotation)
    return crop_matrix(centre, np.multiply(scale, share), size, mode, rotation * turned)


def half_body(rng, centre, scale, keypoints, skeleton, size):
    """Centre and scale around the upper or the lower joints; as they were where too few are marked."""
    marked = keypoints[:, 2] > 0
    upper = np.isin(np.arange(len(keypoints)), skeleton.upper)
    if marked.sum() <= MANY or not upper.any():
        return centre, scale
    above, under = (keypoints[marked & half, :2] for half in (upper, ~upper))
    wanted = rng.standard_normal() < 0.5  # 69 %: mmpose draws from the normal distribution here
    chosen = above if len(above) > 2 and (wanted or len(under) <= 2) else under if len(under) > 2 else above
    if len(chosen) < 2:
        return centre, scale
    (w, h), aspect = np.ptp(chosen, axis=0), size[1] / size[0]
    if max(w, h) < 1:
        return centre, scale
    width, height = max(w, h * aspect), max(h, w / aspect)
    return tuple(chosen.mean(axis=0)), (width * HALF_PADDING, height * HALF_PADDING)


def flipped(images, keypoints, flip_index):
    """Crops and their keypoints in a mirror. images (..., W, 3), keypoints (..., K, 3) in crop pixels."""
    keypoints = keypoints[..., list(flip_index), :].copy()
    keypoints[..., 0] = images.shape[-2] - 1 - keypoints[..., 0]
    return images[..., ::-1, :], keypoints


def recoloured(rng, image, strength):
    """Brightness, contrast and saturation changed by up to ``strength``, as a share. (H, W, 3) uint8 -> the same."""
    if not strength:
        return image
    found = np.empty_like(image)
    recolour(image, *(1 + strength * rng.uniform(-1, 1, 3)).astype(np.float32), found)
    return found


@njit(nogil=True, cache=CACHE, error_model="numpy")
def recolour(image, bright, contrast, saturation, found):
    """Colours move from the pixel's own grey, then from the picture's mean grey, then from black.

    The first and the last loop run over one row of bytes, without a branch: so the compiler makes vectors of them.
    """
    colours, new = image.reshape(-1), found.reshape(-1)
    own = np.empty(colours.size // 3, np.float32)
    for i in range(own.size):
        r, g, b = colours[3 * i], colours[3 * i + 1], colours[3 * i + 2]
        own[i] = np.float32(0.299) * r + np.float32(0.587) * g + np.float32(0.114) * b
    mean = 0.0
    for grey in own:
        mean += grey
    mean = np.float32(mean / own.size)
    for i in range(own.size):
        for c in range(3):
            x = own[i] + saturation * (colours[3 * i + c] - own[i])
            x = bright * (mean + contrast * (x - mean))
            x = x if x > 0 else np.float32(0)
            x = x if x < 255 else np.float32(255)
            new[3 * i + c] = np.uint8(np.int32(x + np.float32(0.5)))
