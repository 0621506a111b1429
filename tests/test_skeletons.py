"""The 18 keypoint sets: complete, consistent, and the same as COCO's own where pycocotools has them."""

import numpy as np
import pytest

from minivitpose.config import DATASETS, Config, ConfigError, dataset_name, keypoints_of
from minivitpose.pose.skeletons import COCO, LEFT, MIDDLE, RIGHT, SKELETONS, named, skeleton_for

COUNTS = {  # name: keypoints, flip pairs, links, sigmas, counted in the configs of ViTPose and mmpose
    "coco": (17, 8, 19, 17),
    "coco_25": (25, 11, 25, 0),
    "coco_wholebody": (133, 61, 65, 133),
    "mpii": (16, 6, 15, 16),
    "aic": (14, 6, 14, 14),
    "ap10k": (17, 7, 17, 17),
    "apt36k": (17, 7, 17, 17),
    "crowdpose": (14, 6, 15, 14),
    "ochuman": (17, 8, 19, 17),
    "interhand2d": (21, 0, 20, 0),
    "humanart": (17, 8, 19, 17),
    "posetrack18": (17, 7, 16, 17),
    "jhmdb": (15, 6, 14, 15),
    "halpe": (136, 61, 67, 136),
    "halpe26": (26, 11, 27, 26),
    "animalpose": (20, 8, 20, 20),
    "coco_wholebody_hand": (21, 0, 20, 21),
    "coco_wholebody_face": (68, 29, 0, 68),
}


def test_every_set_is_there():
    assert set(SKELETONS) == set(COUNTS) == {name for names in DATASETS.values() for name in names}
    assert all(SKELETONS[name].name == name and SKELETONS[name].source for name in COUNTS)


@pytest.mark.parametrize("name", COUNTS)
def test_lengths_and_indices(name):
    s = SKELETONS[name]
    K = len(s.keypoints)
    assert (K, len(s.flip_pairs), len(s.links), len(s.sigmas)) == COUNTS[name]
    assert len(set(s.keypoints)) == K and keypoints_of(name) == K
    lopsided = {s.keypoints[i] for i in set(s.upper) ^ {s.flip_index[i] for i in s.upper}}
    slip = {"L_F_Paw", "R_F_Paw"} if name in ("ap10k", "apt36k") else set()  # AP-10K's table has one of the lower body
    assert set(s.upper) < set(range(K)) and lopsided == slip
    assert len(s.weights) in (0, K) and all(w > 0 for w in s.weights + s.sigmas)
    assert len(set(map(frozenset, s.links))) == len(s.links)
    assert all(0 <= i < K for pair in s.links + s.flip_pairs for i in pair)
    assert len({i for pair in s.flip_pairs for i in pair}) == 2 * len(s.flip_pairs)
    assert np.array_equal(np.array(s.flip_index)[list(s.flip_index)], np.arange(K))
    for rgb in s.colours + s.link_colours + s.own_colours:
        assert len(rgb) == 3 and all(0 <= value <= 255 for value in rgb)
    assert len(s.colours) == K and len(s.link_colours) == len(s.links)


@pytest.mark.parametrize("name", COUNTS)
def test_left_and_right_change_places_in_a_mirror(name):
    s = SKELETONS[name]
    swap = {"left": "right", "right": "left", "middle": "middle"}
    for i, j in enumerate(s.flip_index):
        assert s.sides[j] == swap[s.sides[i]]
        if s.sides[i] == "left":
            assert s.keypoints[j].lower() in (
                s.keypoints[i].lower().replace("left", "right", 1),
                "r" + s.keypoints[i].lower()[1:],
            )
    lopsided = {frozenset(s.flip_index[i] for i in link) for link in s.links} != set(map(frozenset, s.links))
    assert not lopsided


def test_sides_and_colours():
    animal = SKELETONS["ap10k"]
    assert animal.keypoints[0] == "L_Eye" and animal.colours[0] == LEFT and animal.colours[1] == RIGHT
    assert animal.keypoints[2] == "Nose" and animal.colours[2] == MIDDLE
    hand = SKELETONS["interhand2d"]
    assert hand.colours == hand.own_colours and len(set(hand.colours)) > 3
    assert COCO.link_colours[:3] == (LEFT, LEFT, RIGHT)


def test_pycocotools_has_the_same_sigmas():
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    assert np.allclose(COCO.sigmas, cocoeval.Params("keypoints").kpt_oks_sigmas, rtol=1e-15, atol=0)


def test_the_skeleton_of_a_model():
    assert skeleton_for(17) is COCO and skeleton_for(17, "ap10k").name == "ap10k"
    assert skeleton_for(133).name == skeleton_for(133, "wholebody").name == "coco_wholebody"
    plain = skeleton_for(5)
    assert plain.keypoints[4] == "keypoint 4" and plain.links == () and plain.flip_index == (0, 1, 2, 3, 4)
    own = named(["right_ear", "tail", "left_ear", "L_hip", "R_hip", "left_horn"])
    assert own.flip_index == (2, 1, 0, 4, 3, 5) and own.sides[3:] == ("left", "right", "left")
    with pytest.raises(ConfigError, match="dataset 'mpii' has 16 keypoints, the model has 17"):
        skeleton_for(17, "mpii")
    with pytest.raises(ConfigError, match="unknown dataset 'dogs': expected one of aic, animalpose"):
        skeleton_for(17, "dogs")


@pytest.mark.parametrize(
    ("spelled", "name"),
    [
        ("COCO", "coco"),
        ("AP-10K", "ap10k"),
        ("coco-wholebody", "coco_wholebody"),
        ("coco25", "coco_25"),
        ("face", None),
    ],
)
def test_usual_spellings(spelled, name):
    assert dataset_name(spelled) == (name or "coco_wholebody_face")


def test_the_pipeline_goes_by_the_dataset():
    def pipeline(keypoints, dataset=None):
        return Config(24, 2, 3, keypoints, dataset=dataset).pipeline

    assert pipeline(17) == pipeline(16) == pipeline(17, "humanart") == pipeline(52) == "udp"
    assert pipeline(14) == pipeline(133) == pipeline(17, "ap10k") == "plain"
    assert pipeline(25) == "easy"
    assert Config(24, 2, 3, 17, pipeline="hf").pipeline == "hf"
