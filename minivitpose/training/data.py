"""What a training learns from: batches of crops with their targets, each a function of the seed and the step alone."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from minivitpose import synthetic
from minivitpose.pose.coco_json import CocoError, read_coco
from minivitpose.pose.crop import centre_and_scale, from_picture, normalised
from minivitpose.pose.encode import encode
from minivitpose.pose.image import ImageError, read_image
from minivitpose.pose.skeletons import named
from minivitpose.pose.warp_kernel import warp
from minivitpose.training.augment import flipped, random_matrix, recoloured

BROKEN = 10  # pictures that cannot be read before a training gives up
POOL = 2048  # mannequin scenes that a step takes from
TOGETHER = 4  # steps whose scenes are drawn together
MARGIN = 1.25  # they are drawn so much wider than the crop, so that turned crops are filled


class CocoCrops:
    """People of a COCO file: ``source(step)`` gives a batch, each epoch in another order.

    A picture that cannot be read is reported by ``say`` and another person takes its place.
    """

    def __init__(self, annotations, images, skeleton, settings, config, say=print):
        """annotations: path of a COCO file with keypoints; images: the folder of its pictures.

        Raises CocoError where there is nothing to learn from, or where the keypoints are of another number.
        """
        self.settings, self.config, self.skeleton = settings, config, skeleton
        self.folder, self.say, self.broken = Path(images), say, {}
        if not self.folder.is_dir():
            found = "a file" if self.folder.exists() else "nothing of that name"
            raise CocoError(f"{images}: expected the folder of the pictures of {annotations}, found {found}")
        coco = read_coco(annotations, wholebody=len(skeleton.keypoints) == 133)
        if coco.images is None or coco.keypoints is None:
            raise CocoError(f"{annotations}: expected annotations with keypoints, found none")
        K = len(skeleton.keypoints)
        if coco.keypoints.shape[1] != K:
            raise CocoError(f"{annotations}: expected {K} keypoints a person, found {coco.keypoints.shape[1]}")
        if config.dataset is None and len(set(coco.keypoint_names or ())) == K:
            self.skeleton = named(coco.keypoint_names)  # none of the public sets: the file knows left and right
        usable = ~coco.crowd & (coco.num_keypoints > 0) & (coco.boxes[:, 2:] > 1).all(axis=1)
        if not usable.any():
            raise CocoError(f"{annotations}: no person with a labelled keypoint and a box")
        self.files = [coco.images[i] for i in coco.image_ids[usable].tolist()]
        self.keypoints, self.boxes = coco.keypoints[usable], coco.boxes[usable]

    def __call__(self, step):
        """Batch number ``step``: images (B, 3, H, W), targets (B, K, Hm, Wm), target_weight (B, K), float32."""
        return self.at(step * self.settings.batch + np.arange(self.settings.batch))

    def at(self, places):
        """The same for any places (B,) in the sequence of all epochs."""
        n = len(self.files)
        order = {epoch: np.random.default_rng((self.settings.seed, epoch)).permutation(n) for epoch in set(places // n)}
        people = [order[place // n][place % n] for place in places.tolist()]
        crops = [
            self.crop(i, np.random.default_rng((self.settings.seed, place, 1)))
            for i, place in zip(people, places, strict=True)
        ]
        images, keypoints = map(np.stack, zip(*crops, strict=True))
        return ready(images, keypoints, self.skeleton, self.config)

    def crop(self, i, rng):
        """Person i, augmented: (H, W, 3) uint8, and keypoints (K, 3) in pixels of the crop."""
        image = self.picture(i, rng)
        while image is None:
            i = int(rng.integers(len(self.files)))
            image = self.picture(i, rng)
        size = self.config.image_size
        rectangle = centre_and_scale(tuple(self.boxes[i].tolist()), size)
        return augmented(rng, image, *rectangle, self.keypoints[i], self.skeleton, self.settings, self.config)

    def picture(self, i, rng):
        """The picture of person i, or None if it cannot be read, which is said once."""
        path = self.folder / self.files[i]
        if path in self.broken:
            return None
        try:
            return read_image(path)
        except ImageError as error:
            self.broken[path] = str(error)
            self.say(f"left out: {error}")
            if len(self.broken) >= min(BROKEN, len(set(self.files))):
                raise CocoError(
                    f"{len(self.broken)} pictures cannot be read, the last: {error}; check --images"
                ) from None
            return None


class Mannequins:
    """The synthetic world: ``source(step)`` gives a batch of scenes.

    To draw a scene takes longer than to learn from it. So each is drawn wider than the crop and serves ``reuse`` times
    on average, cut in another way each time: a step takes its scenes from a window of POOL numbers that moves on. What
    a step gets does not depend on what is kept: a training that goes on draws its window anew.
    """

    def __init__(self, skeleton, settings, config):
        self.settings, self.config, self.skeleton = settings, config, skeleton
        self.drawn = {}

    def __call__(self, step):
        """Batch number ``step``: images (B, 3, H, W), targets (B, K, Hm, Wm), target_weight (B, K), float32."""
        s = self.settings
        numbers, rng = self.scenes(step)
        self.draw(numbers, step)
        wide = np.array(self.drawn[numbers[0]][0].shape[1::-1]) - 1  # the last pixel, x and y
        rectangle = wide / 2, wide / MARGIN
        images, keypoints = np.empty((s.batch, *self.config.image_size, 3), np.uint8), [None] * s.batch

        def cut(i, number, rng):
            image, xyv = self.drawn[number]
            images[i], keypoints[i] = augmented(rng, image, *rectangle, xyv, self.skeleton, s, self.config)

        with ThreadPoolExecutor(os.cpu_count()) as crew:
            list(crew.map(cut, range(s.batch), numbers, rng.spawn(s.batch)))
        return ready(images, np.stack(keypoints), self.skeleton, self.config)

    def scenes(self, step):
        """The numbers of the scenes of a step, and the generator for all else that is random in it."""
        s = self.settings
        rng = np.random.default_rng((s.seed, step, 2))
        chosen = rng.integers(0, POOL if s.reuse > 1 else s.batch, s.batch)
        return (self.first(step) + chosen).tolist(), rng

    def first(self, step):
        """The first scene of a step's window."""
        return round(step * self.settings.batch / self.settings.reuse)

    def draw(self, numbers, step):
        """Draw what is missing, and forget what no step will ask for any more.

        What the steps after this one will miss is drawn too: many scenes together take less time than one by one.
        """
        first = self.first(step)
        self.drawn = {number: scene for number, scene in self.drawn.items() if number >= first}
        if set(numbers) <= self.drawn.keys():
            return
        later = range(step + 1, min(step + TOGETHER, self.settings.steps))
        wanted = set(numbers).union(*(self.scenes(i)[0] for i in later))
        missing = sorted(wanted - self.drawn.keys())
        size = tuple(round(side * MARGIN) for side in self.config.image_size)
        options = {"size": size, "margin": MARGIN, "whom": "any", "beyond": self.settings.beyond}
        images, keypoints, *_ = synthetic.batch(self.settings.seed, missing, **options)
        self.drawn |= dict(zip(missing, zip(images, keypoints, strict=True), strict=True))


def held_out_people(annotations, images, skeleton, settings, config, say=print):
    """Batches of ``validate_on`` people of a COCO file at most, cut as the pipeline would. Raises CocoError."""
    still = replace(settings, **dict.fromkeys(("flip", "rotation", "scale", "half_body", "colour"), 0))
    people = CocoCrops(annotations, images, skeleton, still, config, say)
    places = np.arange(min(settings.validate_on, len(people.files)))
    for first in range(0, len(places), settings.batch):
        yield people.at(places[first : first + settings.batch])


def held_out(skeleton, settings, config):
    """Batches of scenes that are never learnt from, as the pipeline would cut them."""
    for start in range(0, settings.validate_on, settings.batch):
        numbers = range(start, min(start + settings.batch, settings.validate_on))
        images, keypoints, *_ = synthetic.batch(settings.seed, numbers, split="val", size=config.image_size, whom="any")
        yield ready(images, keypoints, skeleton, config)


def target_mode(config):
    """The map of crop and targets that a model is trained with: "plain", or "udp" for all other pipelines."""
    return "plain" if config.pipeline == "plain" else "udp"


def augmented(rng, image, centre, scale, keypoints, skeleton, settings, config):
    """A person's crop, changed at random: (H, W, 3) uint8, and keypoints (K, 3) in its pixels.

    image (H, W, 3) uint8; centre, scale, keypoints (K, 3) in its pixels; config: of the model that learns.
    """
    size = config.image_size
    matrix = random_matrix(rng, centre, scale, keypoints, skeleton, settings, size, target_mode(config))
    pixels = recoloured(rng, warp(image, matrix, size), settings.colour)
    keypoints = np.column_stack([from_picture(keypoints[:, :2], matrix), keypoints[:, 2]])
    return flipped(pixels, keypoints, skeleton.flip_index) if rng.random() < settings.flip else (pixels, keypoints)


def ready(images, keypoints, skeleton, config):
    """Crops (B, H, W, 3) uint8 and keypoints (B, K, 3) in their pixels -> what loss_and_gradients takes, float32."""
    weights = np.float32(skeleton.weights or 1) * (keypoints[..., 2] > 0)
    shape = weights.shape
    xy, weights = keypoints[..., :2].reshape(-1, 2), weights.reshape(-1)  # all maps of the batch at once
    targets, weights = encode(xy, weights, config.image_size, config.heatmap_size, mode=target_mode(config))
    targets, weights = targets.reshape(*shape, *config.heatmap_size), weights.reshape(shape)
    return normalised(images), targets, weights
