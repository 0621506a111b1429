"""What the keypoints are: names, which is whose mirror image, what is joined to what, how far annotators disagree.

All 18 public sets stand in data/skeletons.json, with the file that each comes from. The colours tell left from right
for everybody: blue and orange from the palette of Okabe and Ito (2008).
"""

import json
from dataclasses import dataclass
from importlib.resources import files

from minivitpose.config import DATASETS, ConfigError, dataset_name

LEFT = (86, 180, 233)  # sky blue
RIGHT = (230, 159, 0)  # orange
MIDDLE = (240, 240, 240)
SIDES = {"left": LEFT, "right": RIGHT, "middle": MIDDLE}


@dataclass(frozen=True)
class Skeleton:
    """The keypoints of one dataset; index i in each field is channel i of the heatmaps.

    keypoints: K names; flip_pairs: pairs of indices that change places in a mirror; links: pairs of indices to join by
    a line; sigmas: K numbers, the spread of the annotations relative to the person's size, none if not known (COCO's
    OKS has k = 2 sigma); weights: K numbers, how much each counts in the training loss, none if all count the same;
    upper: indices of the upper body, none if not known; own_colours, own_link_colours: RGB triples 0 to 255 of the
    dataset's authors; source: where the table comes from.
    """

    name: str
    keypoints: tuple
    flip_pairs: tuple = ()
    links: tuple = ()
    sigmas: tuple = ()
    weights: tuple = ()
    upper: tuple = ()
    own_colours: tuple = ()
    own_link_colours: tuple = ()
    source: str = ""

    @property
    def flip_index(self):
        """K indices: the channel that each keypoint's heatmap has in the mirror image."""
        index = list(range(len(self.keypoints)))
        for a, b in self.flip_pairs:
            index[a], index[b] = b, a
        return tuple(index)

    @property
    def sides(self):
        """K of "left", "right" and "middle", the person's own left and right."""
        return tuple(side(name) for name in self.keypoints)

    @property
    def colours(self):
        """K RGB triples 0 to 255: by side, or the dataset's own where no keypoint has a side, as in a hand."""
        by_side = tuple(SIDES[s] for s in self.sides)
        return by_side if self.has_sides or not self.own_colours else self.own_colours

    @property
    def link_colours(self):
        """One RGB triple a link: that of its side, MIDDLE where it joins the sides or the middle alone, or its own."""
        ends = ({self.sides[a], self.sides[b]} - {"middle"} for a, b in self.links)
        by_side = tuple(SIDES[e.pop()] if len(e) == 1 else MIDDLE for e in ends)
        return by_side if self.has_sides or not self.own_link_colours else self.own_link_colours

    @property
    def has_sides(self):
        """Whether any keypoint is of the left or the right."""
        return set(self.sides) != {"middle"}


def side(name):
    """ "left", "right" or "middle", by how the keypoint's name begins: left_eye and L_Eye are both of the left."""
    starts = {"left": ("left", "L_"), "right": ("right", "R_")}
    return next((s for s, start in starts.items() if name.startswith(start)), "middle")


def named(names):
    """The skeleton of a set of one's own, without links: who is whose mirror image goes by names such as left_eye."""
    index = {name: i for i, name in enumerate(names)}
    pairs = [(i, index.get(in_mirror(name))) for name, i in index.items() if side(name) == "left"]
    return Skeleton(f"{len(names)} keypoints", tuple(names), tuple(pair for pair in pairs if None not in pair))


def in_mirror(name):
    """The name of the right one of a pair, by that of the left one."""
    return name.replace("left", "right", 1) if name.startswith("left") else name.replace("L_", "R_", 1)


def read_skeletons():
    """name -> Skeleton, from the table."""
    table = json.loads((files("minivitpose") / "data" / "skeletons.json").read_text(encoding="utf-8"))
    rows = {name: row for name, row in table.items() if not name.startswith("_")}
    return {
        name: skeleton(name, rows[row.get("same_as", name)] | {"source": row["source"]}) for name, row in rows.items()
    }


def skeleton(name, row):
    """A row of the table as a Skeleton."""
    pairs = {field: tuple(map(tuple, row[field])) for field in ("flip_pairs", "links")}
    rows = {field: tuple(row[field]) for field in ("keypoints", "sigmas", "weights", "upper")}
    colours = {f"own_{field}": tuple(map(rgb, row[field])) for field in ("colours", "link_colours")}
    return Skeleton(name, source=row["source"], **rows, **pairs, **colours)


def rgb(text):
    """ "56b4e9" -> (86, 180, 233)."""
    return tuple(bytes.fromhex(text))


SKELETONS = read_skeletons()
COCO = SKELETONS["coco"]


def skeleton_for(num_keypoints, dataset=None):
    """The skeleton of a dataset, or the usual one for so many keypoints, as for 17 that of COCO.

    Where no dataset has so many, a plain one with numbered names and no links. Raises ConfigError for an unknown
    dataset, and for one with another number of keypoints.
    """
    if dataset is None:
        dataset = DATASETS.get(num_keypoints, (None,))[0]
    if dataset is None:
        return named([f"keypoint {i}" for i in range(num_keypoints)])
    found = SKELETONS[dataset_name(dataset)]
    if len(found.keypoints) != num_keypoints:
        raise ConfigError(f"dataset {dataset!r} has {len(found.keypoints)} keypoints, the model has {num_keypoints}")
    return found
