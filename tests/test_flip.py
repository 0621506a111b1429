"""The flip test: mirror, run, turn back, take the mean."""

import numpy as np
import pytest

from minivitpose.pose.flip import flip_heatmaps, flip_images, flip_test
from minivitpose.pose.skeletons import COCO, SKELETONS

RNG = np.random.default_rng(0)


def official(heatmaps, pairs, shift):
    """The rule in loops: a pair's maps change places, column x becomes w - 1 - x, and all may go one to the right."""
    B, K, h, w = heatmaps.shape
    source = {k: k for k in range(K)} | dict(pairs) | {b: a for a, b in pairs}
    out = np.empty_like(heatmaps)
    for k in range(K):
        for x in range(w):
            out[:, k, :, x] = heatmaps[:, source[k], :, w - 1 - (max(x - 1, 0) if shift else x)]
    return out


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_images_are_mirrored_in_a_copy(dtype):
    images = RNG.standard_normal((2, 3, 8, 6)).astype(dtype)
    flipped = flip_images(images)
    assert flipped.dtype == dtype and flipped.flags.c_contiguous and not np.shares_memory(flipped, images)
    assert np.array_equal(flipped[1, 2, 3], images[1, 2, 3][::-1]) and np.array_equal(flip_images(flipped), images)


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("name", ["coco", "aic", "mpii", "coco_wholebody", "interhand2d"])
def test_heatmaps_by_the_rule(name, shift):
    skeleton = SKELETONS[name]
    heatmaps = RNG.standard_normal((2, len(skeleton.keypoints), 8, 6)).astype(np.float32)
    before = heatmaps.copy()
    got = flip_heatmaps(heatmaps, skeleton.flip_index, shift)
    assert got.dtype == np.float32 and got.flags.c_contiguous and np.array_equal(heatmaps, before)
    assert np.array_equal(got, official(heatmaps, skeleton.flip_pairs, shift))
    assert np.array_equal(flip_heatmaps(heatmaps[0], skeleton.flip_index, shift), got[0])
    twice = flip_heatmaps(got, skeleton.flip_index)
    assert np.array_equal(twice, heatmaps) != shift


def test_the_shift_brings_a_plain_peak_nearer():
    """A point at crop pixel u lies in cell u / 4, in the mirror image at 191 - u: turned back, 3/4 of a cell left."""
    u = 120.0
    cell = np.arange(48)
    there, mirrored = (np.exp(-((cell - x / 4) ** 2) / 8)[None, None, None] for x in (u, 191 - u))
    offs = [np.abs(flip_heatmaps(mirrored, [0], shift) - there)[..., 3:].max() for shift in (False, True)]
    assert offs[1] < 0.5 * offs[0]


def test_a_model_that_sees_mirror_images_alike_is_unchanged():
    """A stand-in whose maps of a pair are each other's mirror images: the flip test gives what one run gives."""
    calls = []

    def model(images):
        calls.append(images.copy())
        maps = images[:, :1, ::4, ::4] + images[:, 1:2, 3::4, 3::4]  # the first half of each cell, or its mirror
        left, right = images[:, :1, ::4, ::4], images[:, :1, ::4, 3::4]
        return np.concatenate([left, right, maps * 0 + 1], axis=1)

    images = RNG.standard_normal((2, 3, 16, 12)).astype(np.float32)
    got = flip_test(model, images, (1, 0, 2))
    assert got.shape == (2, 3, 4, 3) and got.dtype == np.float32 and len(calls) == 2
    assert np.allclose(got, model(images), atol=1e-6)
    assert any(np.array_equal(c, images[..., ::-1]) for c in calls) and any(np.array_equal(c, images) for c in calls)


def test_the_mean_of_two_runs():
    def model(images):
        return images[:, :2] * np.float32(2)

    images = RNG.standard_normal((1, 3, 4, 6)).astype(np.float32)
    for shift in (False, True):
        expected = (model(images) + flip_heatmaps(model(images[..., ::-1]), (1, 0), shift)) / 2
        assert np.allclose(flip_test(model, images, (1, 0), shift), expected, atol=1e-6)


@pytest.mark.parametrize("index", [(0, 1), (0, 1, 1), (0, 1, 3), (0, 1, 2, 3), [[0, 1, 2]], "abc"])
def test_an_index_that_does_not_fit(index):
    with pytest.raises(ValueError, match="flip_index: expected each number from 0 to 2 once"):
        flip_heatmaps(np.zeros((1, 3, 4, 4), np.float32), index)
    with pytest.raises(ValueError, match=r"heatmaps: expected \(K, Hm, Wm\)"):
        flip_heatmaps(np.zeros((4, 4)), index)


@pytest.mark.reference
def test_transformers_turns_back_the_same_way():
    torch = pytest.importorskip("torch")
    modelling = pytest.importorskip("transformers.models.vitpose.modeling_vitpose")
    heatmaps = RNG.standard_normal((2, 17, 64, 48)).astype(np.float32)
    theirs = modelling.flip_back(torch.from_numpy(heatmaps), torch.tensor(COCO.flip_pairs)).numpy()
    assert np.array_equal(flip_heatmaps(heatmaps, COCO.flip_index), theirs)
