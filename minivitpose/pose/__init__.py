"""What surrounds the network: pictures, crops, decoding, skeletons, and the estimator that joins them."""

from minivitpose.pose.crop import BoxError, Crop, check_box, crop, network_input, whole_picture
from minivitpose.pose.decode import cells_to_crop, decode_argmax
from minivitpose.pose.estimate import Pose, PoseError, estimate, estimate_each
from minivitpose.pose.image import ImageError, as_image, read_image
from minivitpose.pose.skeletons import COCO, Skeleton, skeleton_for

__all__ = [
    "COCO",
    "BoxError",
    "Crop",
    "ImageError",
    "Pose",
    "PoseError",
    "Skeleton",
    "as_image",
    "cells_to_crop",
    "check_box",
    "crop",
    "decode_argmax",
    "estimate",
    "estimate_each",
    "network_input",
    "read_image",
    "skeleton_for",
    "whole_picture",
]
