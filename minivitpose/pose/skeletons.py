"""What the keypoints are: names, which is whose mirror image, what is joined to what, how far annotators disagree.

The colours tell left from right for everybody: blue and orange from the palette of Okabe and Ito (2008).
"""

from dataclasses import dataclass

LEFT = (86, 180, 233)  # sky blue
RIGHT = (230, 159, 0)  # orange
MIDDLE = (240, 240, 240)
SIDES = {"left": LEFT, "right": RIGHT, "middle": MIDDLE}


@dataclass(frozen=True)
class Skeleton:
    """The keypoints of one dataset; index i in each field is channel i of the heatmaps.

    keypoints: K names; flip_pairs: pairs of indices that change places in a mirror; links: pairs of indices to join by
    a line; sigmas: K numbers, the spread of the annotations relative to the person's size, none if not known (COCO's
    OKS has k = 2 sigma).
    """

    name: str
    keypoints: tuple
    flip_pairs: tuple = ()
    links: tuple = ()
    sigmas: tuple = ()

    @property
    def sides(self):
        """K of "left", "right" and "middle", the person's own left and right."""
        return tuple(side(name) for name in self.keypoints)

    @property
    def colours(self):
        """K RGB triples 0 to 255, by side."""
        return tuple(SIDES[s] for s in self.sides)

    @property
    def link_colours(self):
        """One RGB triple a link: that of its side, or MIDDLE where it joins the sides or the middle alone."""
        ends = ({self.sides[a], self.sides[b]} - {"middle"} for a, b in self.links)
        return tuple(SIDES[e.pop()] if len(e) == 1 else MIDDLE for e in ends)


def side(name):
    """ "left", "right" or "middle", by how the keypoint's name begins."""
    return next((s for s in ("left", "right") if name.startswith(s)), "middle")


# Source: the tables of COCO as ViTPose has them, configs/_base_/datasets/coco.py; sigmas from pycocotools.
COCO = Skeleton(
    "coco",
    keypoints=(
        "nose",
        *("left_eye", "right_eye", "left_ear", "right_ear"),
        *("left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist"),
        *("left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle"),
    ),
    flip_pairs=((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)),
    links=(
        *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6)),  # legs, trunk
        *((5, 7), (6, 8), (7, 9), (8, 10)),  # arms
        *((1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),  # head
    ),
    sigmas=(
        *(0.026, 0.025, 0.025, 0.035, 0.035),
        *(0.079, 0.079, 0.072, 0.072, 0.062, 0.062),
        *(0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
    ),
)


def skeleton_for(num_keypoints):
    """The usual skeleton for so many keypoints: COCO for 17, else a plain one with numbered names and no links."""
    if num_keypoints == len(COCO.keypoints):
        return COCO
    return Skeleton(f"{num_keypoints} keypoints", tuple(f"keypoint {i}" for i in range(num_keypoints)))
