"""ViTPose+: one backbone for six datasets, and how one plain model is taken out of it, exactly.

Only the second layer of each MLP differs. fc2 gives the first C - part channels for all datasets; the last ``part``
channels come from the dataset's own expert. Rows of a matrix are independent of each other, so an expert's rows
written below those of fc2 make an ordinary fc2, to the last bit. Each dataset also has a head of its own.
Sources: Xu et al., ViTPose++, 2022; ViTAE-Transformer/ViTPose, tools/model_split.py.
"""

import re
from dataclasses import dataclass, field

import numpy as np

from minivitpose.checkpoint.errors import CheckpointError, quoted
from minivitpose.config import ConfigError, dataset_name, keypoints_of

EXPERTS = ("coco", "aic", "mpii", "ap10k", "apt36k", "coco_wholebody")  # expert 0, 1, ...; head i - 1 is of dataset i
EXPERT = re.compile(r"backbone\.blocks\.([0-9]{1,6})\.mlp\.experts\.([0-9]{1,6})\.(weight|bias)")
HEAD = re.compile(r"associate_keypoint_heads\.([0-9]{1,6})\.")
OWN_HEAD = "keypoint_head"


@dataclass(frozen=True)
class Parts:
    """What a file holds beside one plain model.

    experts: how many experts, each giving ``rows`` rows of fc2; joined: fc2 has all its rows already, so that the
    experts are leftovers. heads: associate head's number -> its keypoints; own: keypoints of keypoint_head.
    """

    experts: int = 0
    rows: int = 0
    joined: bool = False
    heads: dict = field(default_factory=dict)
    own: int | None = None

    @property
    def open(self):
        """Whether an expert has to be chosen."""
        return self.experts > 0 and not self.joined

    @property
    def several(self):
        """Whether the file holds more than one plain model, or leftovers of one that did."""
        return bool(self.experts or self.heads)

    @property
    def datasets(self):
        """dataset -> its head, for the datasets whose own head is in the file."""
        with_head = {EXPERTS[j + 1]: f"associate_keypoint_heads.{j}" for j in self.heads if j + 1 < len(EXPERTS)}
        return {EXPERTS[0]: OWN_HEAD} | dict(sorted(with_head.items(), key=lambda row: EXPERTS.index(row[0])))


@dataclass(frozen=True)
class Choice:
    """One plain model of those in a file: its head, its expert (None: fc2 is whole), its dataset if one was named."""

    head: str = OWN_HEAD
    expert: int | None = None
    dataset: str | None = None
    keypoints: int | None = None  # rows of the final layer to keep; None is all


def find_parts(shapes):
    """The Parts of a file, from its official name -> shape. Raises CheckpointError for absurd numbers."""
    numbers, rows = set(), 0
    for name, shape in shapes.items():
        if found := EXPERT.fullmatch(name):
            numbers.add(int(found[2]))
            rows = rows or (shape[0] if found[3] == "weight" and shape else 0)
    heads = {int(found[1]): None for name in shapes if (found := HEAD.match(name))}
    for number in (*numbers, *heads):
        if number > len(shapes):
            raise CheckpointError("experts and heads are numbered wrongly", expected="0, 1, ...", found=str(number))
    heads = {j: keypoints_in(shapes, f"associate_keypoint_heads.{j}") for j in sorted(heads)}
    channels = shapes.get("backbone.patch_embed.proj.weight", ())[:1]
    fc2 = next((shape for name, shape in shapes.items() if name.endswith(".mlp.fc2.weight")), ())[:1]
    experts = max(numbers, default=-1) + 1
    return Parts(experts, rows, bool(experts) and fc2 == channels, heads, keypoints_in(shapes, OWN_HEAD))


def keypoints_in(shapes, head):
    """Rows of a head's final layer, or None."""
    final = [name for name in shapes if name.startswith(f"{head}.final_layer.") and len(shapes[name]) == 4]
    last = max(final, key=lambda name: [int(p) for p in name.split(".") if p.isascii() and p.isdecimal()], default=None)
    return shapes[last][0] if last else None


def choose(parts, dataset=None, expert=None):
    """The Choice for what the caller asked for.

    dataset: a name in config.DATASETS; takes that dataset's own head and expert, where the file has several.
    expert: a name in EXPERTS or a number; takes that expert with the file's first head, or with the dataset's if both
    are given. Raises CheckpointError where the file does not have it.
    """
    dataset = None if dataset is None else known(dataset)
    chosen = None if expert is None else expert_number(parts, expert)
    head, found = OWN_HEAD, None
    if dataset is not None and (parts.heads or (parts.open and chosen is None)):
        head = head_of(parts, dataset)
    if parts.open:
        chosen = expert_number(parts, dataset or EXPERTS[0]) if chosen is None else chosen
    if dataset is not None:
        found = parts.own if head == OWN_HEAD else parts.heads[int(head.rpartition(".")[2])]
        expected = keypoints_of(dataset)
        if found is not None and found < expected:
            raise CheckpointError(
                f"dataset {dataset!r} does not go with {head}",
                expected=f"{expected} keypoints",
                found=str(found),
                fix=f"the datasets of {found} keypoints may fit, or leave the dataset out",
            )
        found = expected
    return Choice(head, chosen, dataset, found)


def known(dataset):
    try:
        return dataset_name(dataset)
    except ConfigError as error:
        raise CheckpointError(str(error)) from None


def expert_number(parts, expert):
    """The number of an expert, from its name or number."""
    if parts.joined:
        raise CheckpointError(
            f"expert {quoted(expert)} cannot be chosen: fc2 is already joined with one",
            fix="leave expert out: the experts in this file are leftovers of the model it was split from",
        )
    if not parts.experts:
        raise CheckpointError(
            f"expert {quoted(expert)} cannot be chosen: the file has none", fix="leave expert out, or take a ViTPose+"
        )
    names = EXPERTS[: parts.experts]
    number = expert
    if isinstance(expert, str) and not (expert.isascii() and expert.isdecimal() and len(expert) < 7):
        try:
            number = names.index(dataset_name(expert))
        except ValueError:
            number = None
    number = int(number) if isinstance(number, str | np.integer) else number
    if type(number) is not int or not 0 <= number < parts.experts:
        raise CheckpointError(
            f"unknown expert {quoted(expert)}", expected=f"{', '.join(names)} or a number from 0 to {parts.experts - 1}"
        )
    return number


def head_of(parts, dataset):
    """The head of a dataset in a file of several heads or several experts."""
    if parts.joined and dataset != EXPERTS[0]:
        raise CheckpointError(
            f"dataset {dataset!r} cannot be taken out of this file: fc2 is already joined with {EXPERTS[0]}'s expert",
            fix=f"take it out of the whole ViTPose+ file, or load dataset {EXPERTS[0]!r}",
        )
    if dataset in parts.datasets:
        return parts.datasets[dataset]
    fix = ""
    if parts.open and dataset in EXPERTS[: parts.experts]:
        fix = f"expert={dataset!r} takes its expert with the head that is there"
    raise CheckpointError(
        f"the file has no head for dataset {dataset!r}", expected=f"one of {', '.join(parts.datasets)}", fix=fix
    )


# --------------------------------------------------------------------------------- one plain model out of a file, exact


def own_shapes(shapes, choice):
    """Official name -> shape of the chosen model alone; fc2 still in pieces."""
    return {own_name(name, choice): shape for name, shape in shapes.items() if is_chosen(name, choice)}


def is_chosen(name, choice):
    """Whether a parameter is of the chosen model: no expert, and of no other head."""
    is_head = name.startswith(f"{OWN_HEAD}.") or HEAD.match(name)
    return not EXPERT.fullmatch(name) and (name.startswith(f"{choice.head}.") or not is_head)


def own_name(name, choice):
    """A parameter's name in the plain model."""
    return OWN_HEAD + name.removeprefix(choice.head) if name.startswith(f"{choice.head}.") else name


def in_pieces(shapes, parts, choice):
    """Official name -> shape as the file holds it, of the plain model's: fc2 in pieces, the head under its own name."""
    found = {}
    for name, shape in shapes.items():
        if parts.open and ".mlp.fc2." in name:
            found[name] = (shape[0] - parts.rows, *shape[1:])
            for expert in range(parts.experts):
                found[name.replace(".fc2.", f".experts.{expert}.")] = (parts.rows, *shape[1:])
        elif name.startswith(f"{OWN_HEAD}."):
            found[choice.head + name.removeprefix(OWN_HEAD)] = shape
        else:
            found[name] = shape
    return found


def plain(arrays, parts, choice):
    """Official name -> array of the chosen model: fc2 joined with its expert, the head under the usual name.

    Final layers keep the first ``choice.keypoints`` rows: some files have more rows than their dataset has keypoints.
    """
    found = {own_name(name, choice): x for name, x in arrays.items() if is_chosen(name, choice)}
    if parts.open:
        for name in [name for name in found if ".mlp.fc2." in name]:
            expert = name.replace(".fc2.", f".experts.{choice.expert}.")
            found[name] = np.concatenate([found[name], arrays[expert]])
    if choice.keypoints is not None:
        last = final_layer(found)
        found |= {name: found[name][: choice.keypoints] for name in found if name.rpartition(".")[0] == last}
    return found


def final_layer(arrays):
    """The name of the layer that gives the heatmaps."""
    final = {name.rpartition(".")[0] for name in arrays if name.startswith(f"{OWN_HEAD}.final_layer")}
    return max(final, key=lambda name: [int(p) for p in name.split(".") if p.isdecimal()])
