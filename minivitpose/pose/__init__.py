"""What surrounds the network: pictures, crops, decoding, skeletons, and the estimator that joins them."""

from minivitpose.pose.coco_fields import CocoError
from minivitpose.pose.coco_json import boxes_by_image, read_coco
from minivitpose.pose.crop import BoxError, Crop, check_box, crop, network_input, whole_picture
from minivitpose.pose.decode import cells_to_crop, decode_argmax
from minivitpose.pose.estimate import Pose, PoseError, estimate, estimate_each
from minivitpose.pose.image import ImageError, as_image, read_image
from minivitpose.pose.pipelines import PIPELINES, Pipeline
from minivitpose.pose.skeletons import COCO, SKELETONS, Skeleton, skeleton_for

__all__ = [
    "COCO",
    "PIPELINES",
    "SKELETONS",
    "BoxError",
    "CocoError",
    "Crop",
    "ImageError",
    "Pipeline",
    "Pose",
    "PoseError",
    "Skeleton",
    "as_image",
    "boxes_by_image",
    "cells_to_crop",
    "check_box",
    "crop",
    "decode_argmax",
    "estimate",
    "estimate_each",
    "network_input",
    "read_coco",
    "read_image",
    "skeleton_for",
    "whole_picture",
]
