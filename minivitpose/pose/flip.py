"""The flip test: run the network on the picture and on its mirror image, turn the second result back, take the mean.

All published ViTPose results were measured with it; it costs a second run and brings about half a point of AP.
"""

import numpy as np


def flip_images(images):
    """Mirror images left to right. (..., H, W) -> (..., H, W), a copy of the same dtype."""
    return np.ascontiguousarray(np.asarray(images)[..., ::-1])


def flip_heatmaps(heatmaps, flip_index, shift=False):
    """The heatmaps of mirrored images -> those of the images: left and right change names, then every row is turned.

    heatmaps (..., K, Hm, Wm); flip_index K channel numbers, as ``Skeleton.flip_index`` -> a copy, same shape and dtype.
    ``shift`` moves everything one column to the right and leaves column 0, as official code does for the sets without
    UDP: there the cell of a point x is x / 4, and turned back it lies 3/4 of a cell too far left. Without it, twice is
    the identity. Raises ValueError if flip_index does not fit. Source: flip_back and shift_heatmap in ViTPose.
    """
    heatmaps, index = np.asarray(heatmaps), np.asarray(flip_index)
    if heatmaps.ndim < 3:
        raise ValueError(f"heatmaps: expected (K, Hm, Wm) or (B, K, Hm, Wm), found {heatmaps.shape}")
    K = heatmaps.shape[-3]
    if index.shape != (K,) or sorted(index.tolist()) != list(range(K)):
        raise ValueError(f"flip_index: expected each number from 0 to {K - 1} once, one a channel, found {flip_index}")
    turned = np.ascontiguousarray(heatmaps[..., index.astype(int), :, ::-1])
    if shift:
        turned[..., 1:] = turned[..., :-1]
    return turned


def flip_test(model, images, flip_index, shift=False):
    """The mean of the heatmaps of the images and of their mirror images.

    model: (B, 3, H, W) -> (B, K, Hm, Wm); the rest as in flip_heatmaps -> (B, K, Hm, Wm), dtype of the model's result.
    """
    mirrored = flip_heatmaps(model(flip_images(images)), flip_index, shift)
    return (model(images) + mirrored) * mirrored.dtype.type(0.5)
