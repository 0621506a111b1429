"""The loss that ViTPose is trained with: how far the heatmaps are from those that were drawn around the keypoints."""

import numpy as np


def heatmap_loss(heatmaps, targets, target_weight):
    """The mean over all of ((heatmaps - targets) weight)^2, a float.

    heatmaps, targets (B, K, Hm, Wm); target_weight (B, K), 0 for a keypoint that nobody marked. The weight is squared
    too, and keypoints of weight 0 count in the mean: so it is in mmpose's JointsMSELoss(use_target_weight=True), which
    ViTPose is trained with. (The loss of the same name in HRNet is half of it.) Summed in float64.
    """
    off = (heatmaps - targets) * target_weight[:, :, None, None]
    return float(np.square(off, dtype=np.float64).mean())


def heatmap_loss_backward(heatmaps, targets, target_weight):
    """dL/dheatmaps = 2 (heatmaps - targets) weight^2 / (B K Hm Wm). -> (B, K, Hm, Wm)."""
    return (heatmaps - targets) * (np.square(target_weight) * (2 / heatmaps.size))[:, :, None, None]
