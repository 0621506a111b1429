"""What the course looks at: one drawn scene, the crop of one person in it, and what the bundled model makes of it."""

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import numpy as np

from minivitpose import estimate, load, load_reference, synthetic
from minivitpose.model import ViTPose
from minivitpose.pose import Crop, crop, skeleton_for
from minivitpose.pose.skeletons import Skeleton
from minivitpose.trace import Cache, Reference

SCENE, PERSON = 9, 3  # the seed of the scene, and who in it is looked at closely


@dataclass(frozen=True, eq=False)
class Example:
    """model: the bundled one, engine "numpy". image (H, W, 3) uint8 and boxes [(x, y, w, h), ...]: the scene; people:
    what is true of them; person: the number of the one in ``crop``. images (1, 3, 256, 192) float32: the crop as the
    network takes it; heatmaps (1, 17, 64, 48) and cache (every activation by name): what comes out. poses: of
    everybody. reference: what PyTorch computed of the same images.
    """

    model: ViTPose
    image: np.ndarray
    people: list
    boxes: list
    person: int
    crop: Crop
    images: np.ndarray
    heatmaps: np.ndarray
    cache: Cache
    poses: list
    skeleton: Skeleton
    reference: Reference

    @property
    def params(self):
        """The model's parameters, nested by the checkpoint's names."""
        return self.model.params

    @property
    def block(self):
        """The parameters of the first block: norm1, attn {qkv, proj}, norm2, mlp {fc1, fc2}."""
        return self.params["backbone"]["blocks"]["0"]

    def token_of(self, keypoint):
        """The number of the token in whose patch the person's keypoint truly is. keypoint: its name, "left_wrist"."""
        k = self.skeleton.keypoints.index(keypoint)
        return token_at(self.crop.from_picture(self.people[self.person].keypoints[k, :2]), self.model.config)


@lru_cache(maxsize=1)
def example():
    """The course's example, computed once -> Example. Its arrays are shared: copy before you change one."""
    model, reference = load("mini", engine="numpy"), recorded()
    scene, person = scene_and_crop(model.config.image_size)
    boxes = [one.box for one in scene.people]
    heatmaps, cache = model.run_with_cache(reference.images)
    skeleton = skeleton_for(model.config.num_keypoints)
    poses = estimate(model, scene.image, boxes)
    return Example(
        model,
        scene.image,
        scene.people,
        boxes,
        PERSON,
        person,
        reference.images,
        heatmaps,
        cache,
        poses,
        skeleton,
        reference,
    )


def scene_and_crop(size):
    """The example's Scene and the Crop of the person who is looked at closely. size (height, width)."""
    scene = synthetic.scene(SCENE, split="test")
    return scene, crop(scene.image, scene.people[PERSON].box, size)


@lru_cache(maxsize=1)
def recorded():
    """PyTorch's activations of the bundled model for the example's crop -> Reference, a sample of each."""
    return load_reference(files("minivitpose") / "data" / "mini-activations.npz")


def token_at(xy, config):
    """The number of the token whose patch has this point of the crop in it. xy in crop pixels."""
    column, row = np.floor((np.asarray(xy) + config.padding) / config.stride).astype(int)
    height, width = config.grid
    return int(row.clip(0, height - 1) * width + column.clip(0, width - 1))
