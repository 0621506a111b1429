"""What a training learns from: targets lie on the joints whatever was done to the crop; a step is always the same."""

import json

import numpy as np
import pytest
from PIL import Image

from minivitpose import layers, synthetic
from minivitpose.config import Config
from minivitpose.pose import crop, network_input
from minivitpose.pose.coco_json import CocoError
from minivitpose.pose.skeletons import COCO, SKELETONS
from minivitpose.training.augment import flipped, half_body, random_matrix, recoloured
from minivitpose.training.data import CocoCrops, Mannequins, augmented, held_out, held_out_people, ready
from minivitpose.training.settings import Settings
from minivitpose.training.start import fresh, waves, with_keypoints

CONFIG = Config(24, 2, 3)
SETTINGS = Settings(batch=4, seed=5)


@pytest.fixture
def people(tmp_path):
    """Three pictures with a bright dot on each of 17 joints, and a COCO file of them."""
    rng, annotations = np.random.default_rng(0), []
    (tmp_path / "images").mkdir()
    for i in range(3):
        picture = np.zeros((300, 260, 3), np.uint8)
        xy = np.stack([rng.permutation(np.linspace(40, 220, 17)), rng.permutation(np.linspace(40, 260, 17))], 1).round()
        v, u = np.mgrid[:300, :260]
        for x, y in xy:
            bell = 255 * np.exp(-((u - x) ** 2 + (v - y) ** 2) / 18)
            picture = np.maximum(picture, bell[..., None]).astype(np.uint8)
        Image.fromarray(picture).save(tmp_path / "images" / f"{i}.png")
        seen = np.full(17, 2)
        seen[i] = 0
        keypoints = np.column_stack([xy, seen]).ravel().tolist()
        entry = {"id": i + 1, "image_id": i, "category_id": 1, "bbox": [30, 30, 200, 240], "area": 2e4, "iscrowd": 0}
        annotations.append(entry | {"keypoints": keypoints, "num_keypoints": 16})
    content = {"images": [{"id": i, "file_name": f"{i}.png", "height": 300, "width": 260} for i in range(3)]}
    content |= {"annotations": annotations, "categories": [{"id": 1, "name": "person"}]}
    (tmp_path / "people.json").write_text(json.dumps(content))
    return tmp_path


def crops(people, settings=SETTINGS, **options):
    return CocoCrops(people / "people.json", people / "images", COCO, settings, CONFIG, **options)


def brightness(images):
    return images.mean(axis=1)


def test_targets_lie_on_the_joints_after_every_augmentation(people):
    """The picture is brightest at the joints, so it is bright where the targets' peaks are."""
    images, targets, weights = crops(people, Settings(batch=24, seed=5, colour=0.0))(0)
    assert images.shape == (24, 3, 256, 192) and targets.shape == (24, 17, 64, 48) and weights.shape == (24, 17)
    assert images.dtype == targets.dtype == weights.dtype == np.float32
    bright, found = brightness(images), []
    for b, k in np.argwhere((weights > 0) & (targets.max(axis=(2, 3)) > 0.9)):
        y, x = np.unravel_index(targets[b, k].argmax(), (64, 48))
        v, u = round(y * 255 / 63), round(x * 191 / 47)
        found.append(bright[b, max(0, v - 3) : v + 4, max(0, u - 3) : u + 4].max())
    assert len(found) > 250 and np.mean(np.array(found) > 1.0) > 0.97
    assert np.mean(bright > 1.0) < 0.15  # it would not hold anywhere


def test_unlabelled_joints_have_no_weight_and_others_that_of_the_dataset(people):
    plain = Settings(batch=3, flip=0, scale=0, rotation=0, half_body=0, colour=0)
    _, targets, weights = crops(people, plain)(0)
    assert sorted(np.flatnonzero(row == 0).tolist() for row in weights) == [[0], [1], [2]]
    assert all(set(row[row > 0].tolist()) <= {np.float32(w) for w in COCO.weights} for row in weights)
    assert targets[weights == 0].max() == 0


def test_a_step_is_the_same_whenever_it_is_asked_for(people):
    a, b = crops(people), crops(people)
    a(0), a(3)
    for x, y in zip(a(1), b(1), strict=True):
        assert np.array_equal(x, y)
    assert not np.array_equal(a(1)[0], a(2)[0])
    assert not np.array_equal(a(1)[0], crops(people, Settings(batch=4, seed=6))(1)[0])


def test_an_epoch_has_everybody_once(people):
    plain = Settings(batch=3, flip=0, scale=0, rotation=0, half_body=0, colour=0)
    source = crops(people, plain)
    everybody = {image.tobytes() for image in source(0)[0]}
    assert len(everybody) == 3 and {image.tobytes() for image in source(7)[0]} == everybody


def test_held_out_people_are_cut_as_the_pipeline_does_each_once(people):
    settings = Settings(batch=2, seed=5, validate_on=10)
    batches = list(held_out_people(people / "people.json", people / "images", COCO, settings, CONFIG))
    assert [len(images) for images, _, _ in batches] == [2, 1]
    found = {image.tobytes() for images, _, _ in batches for image in images}
    pictures = [np.array(Image.open(people / "images" / f"{i}.png")) for i in range(3)]
    assert found == {network_input(crop(picture, (30, 30, 200, 240)))[0].tobytes() for picture in pictures}
    few = list(held_out_people(people / "people.json", people / "images", COCO, Settings(validate_on=2), CONFIG))
    assert [len(images) for images, _, _ in few] == [2]


def test_a_broken_picture_is_said_and_replaced(people):
    (people / "images" / "1.png").write_bytes(b"none")
    said = []
    source = crops(people, say=said.append)
    for step in range(3):
        assert source(step)[0].shape == (4, 3, 256, 192)
    assert len(said) == 1 and "1.png" in said[0]
    for i in (0, 2):
        (people / "images" / f"{i}.png").unlink()
    with pytest.raises(CocoError, match="3 pictures cannot be read"):
        [crops(people, say=said.append)(step) for step in range(3)]


def test_a_file_that_does_not_fit_is_one_line(people):
    with pytest.raises(CocoError, match="expected 16 keypoints a person, found 17"):
        CocoCrops(people / "people.json", people, SKELETONS["mpii"], SETTINGS, CONFIG)
    (people / "list.json").write_text("[]")
    with pytest.raises(CocoError, match="expected annotations with keypoints"):
        CocoCrops(people / "list.json", people, COCO, SETTINGS, CONFIG)


def test_the_mirror_swaps_sides_and_keeps_points_on_their_pixels():
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (20, 10, 3), np.uint8)
    keypoints = np.column_stack([rng.integers(0, 10, 17), rng.integers(0, 20, 17), np.arange(17)]).astype(float)
    mirrored, points = flipped(image, keypoints, COCO.flip_index)
    for i, j in enumerate(COCO.flip_index):
        (x, y, v), (u, w, s) = keypoints[i].astype(int), points[j].astype(int)
        assert np.array_equal(image[y, x], mirrored[w, u]) and v == s
    back = flipped(mirrored, points, COCO.flip_index)
    assert np.array_equal(back[0], image) and np.array_equal(back[1], keypoints)


def test_half_bodies_are_around_the_upper_or_the_lower_joints():
    keypoints = np.column_stack([np.linspace(100, 200, 17), np.linspace(0, 400, 17), np.full(17, 2)])
    found = [half_body(np.random.default_rng(i), (0, 0), (1, 1), keypoints, COCO, (256, 192)) for i in range(20)]
    heights = sorted({round(centre[1]) for centre, _ in found})
    assert heights == [125, 338]  # the mean of joints 0 to 10, and of 11 to 16
    for _, (w, h) in found:
        assert w / h == pytest.approx(0.75)
    upper, rng = [], np.random.default_rng(0)
    for _ in range(600):
        (_, y), _ = half_body(rng, (0, 0), (1, 1), keypoints, COCO, (256, 192))
        upper.append(round(y) == 125)
    assert 0.63 < np.mean(upper) < 0.75  # mmpose's 0.69
    keypoints[5:, 2] = 0
    assert half_body(np.random.default_rng(0), (0, 0), (1, 1), keypoints, COCO, (256, 192)) == ((0, 0), (1, 1))


def test_scale_and_rotation_stay_in_their_ranges():
    keypoints, settings = np.zeros((17, 3)), Settings(scale=0.35, rotation=30, half_body=0)
    steps, angles = [], []
    for i in range(400):
        matrix = random_matrix(np.random.default_rng(i), (50, 60), (191, 255), keypoints, COCO, settings)
        steps.append(np.hypot(*matrix[:, 0]))
        angles.append(np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0])))
        assert np.allclose(matrix @ [95.5, 127.5, 1], (50, 60))
    assert 0.65 - 1e-9 <= min(steps) < 0.7 and 1.3 < max(steps) <= 1.35 + 1e-9
    assert -60.001 <= min(angles) < -40 and 40 < max(angles) <= 60.001
    assert 0.3 < np.mean(np.abs(angles) < 1e-9) < 0.5


def test_colours_change_within_the_strength_and_not_without():
    image = np.random.default_rng(0).integers(40, 200, (30, 30, 3), np.uint8)
    assert recoloured(np.random.default_rng(0), image, 0) is image
    changed = [recoloured(np.random.default_rng(i), image, 0.2) for i in range(30)]
    means = np.array([x.mean() for x in changed]) / image.mean()
    assert all(x.dtype == np.uint8 for x in changed) and 0.79 < means.min() < 0.9 and 1.1 < means.max() < 1.21


def test_colours_move_from_grey_from_the_mean_and_from_black():
    image = np.random.default_rng(1).integers(0, 256, (20, 10, 3), np.uint8)
    found = recoloured(np.random.default_rng(7), image, 0.3)
    bright, contrast, saturation = 1 + 0.3 * np.random.default_rng(7).uniform(-1, 1, 3)
    grey = image @ np.array([0.299, 0.587, 0.114])
    x = grey[..., None] + saturation * (image - grey[..., None])
    x = np.clip(bright * (grey.mean() + contrast * (x - grey.mean())), 0, 255)
    assert np.abs(found - x).max() < 0.5 + 1e-3 and found.min() == 0 and found.max() == 255


def test_mannequins_are_the_same_at_every_step_whatever_was_drawn_before():
    settings = Settings(batch=2, seed=1, reuse=2, steps=2)
    source = Mannequins(COCO, settings, CONFIG)
    images, targets, weights = source(0)
    assert images.shape == (2, 3, 256, 192) and targets.shape == (2, 17, 64, 48) and weights.shape == (2, 17)
    second = source(1)
    assert not np.array_equal(second[0], images) and min(source.drawn) >= 1 and len(source.drawn) <= 4
    for x, y in zip(second, Mannequins(COCO, settings, CONFIG)(1), strict=True):
        assert np.array_equal(x, y)


def test_a_mannequin_scene_serves_as_often_as_it_should(monkeypatch):
    drawn, calls, asked = [], 0, 0
    source = Mannequins(COCO, Settings(batch=64, reuse=4.0), CONFIG)

    def batch(seed, numbers, size, **options):
        nonlocal calls
        calls += 1
        drawn.extend(numbers)
        return np.zeros((len(numbers), *size, 3), np.uint8), np.zeros((len(numbers), 17, 3), np.float32)

    monkeypatch.setattr("minivitpose.training.data.synthetic.batch", batch)
    monkeypatch.setattr("minivitpose.training.data.augmented", lambda *a: (np.zeros((1, 1, 3), np.uint8), a[4]))
    monkeypatch.setattr("minivitpose.training.data.ready", lambda *a: None)
    for step in range(600):
        source(step)
        asked += 64
    assert len(set(drawn)) == len(drawn) and len(source.drawn) <= 2048 + 3 * 16  # and the ends of three more windows
    assert 3.3 < asked / len(drawn) < 4.5
    assert calls <= 600 / 3  # those of four steps together


def test_the_last_steps_draw_nothing_for_later():
    source = Mannequins(COCO, Settings(batch=2, seed=1, reuse=2, steps=3), CONFIG)
    source(2)
    assert len(source.drawn) <= 2


def test_a_share_of_the_mannequins_has_cameras_beyond_both_worlds(monkeypatch):
    asked = []

    def batch(seed, numbers, size, **options):
        asked.append(options["beyond"])
        return np.zeros((len(numbers), *size, 3), np.uint8), np.zeros((len(numbers), 17, 3), np.float32)

    monkeypatch.setattr("minivitpose.training.data.synthetic.batch", batch)
    Mannequins(COCO, Settings(batch=2, steps=1, beyond=0.25), CONFIG)(0)
    assert asked == [0.25]


def test_mannequin_targets_lie_on_the_joints_of_the_cut_crop():
    """Uncut and undisturbed, the middle of the wide drawing is the crop that the pipeline cuts."""
    plain = Settings(batch=3, seed=2, reuse=1, flip=0, scale=0, rotation=0, half_body=0, colour=0)
    source = Mannequins(COCO, plain, CONFIG)
    images, targets, _ = source(0)
    first, *others = np.random.default_rng((2, 0, 2)).integers(0, 3, 3).tolist()
    pixels, keypoints, *_ = synthetic.batch(2, [first, *others], whom="any")
    expected, wanted, _ = ready(pixels, keypoints, COCO, CONFIG)
    assert np.abs(images - expected).mean() < 0.2 and np.corrcoef(images.ravel(), expected.ravel())[0, 1] > 0.97
    assert np.abs(targets - wanted).max() < 0.05


def test_held_out_scenes_are_not_those_of_the_training():
    settings = Settings(batch=2, seed=1, validate_on=3)
    batches = list(held_out(COCO, settings, CONFIG))
    assert [len(images) for images, _, _ in batches] == [2, 1]
    trained = ready(*synthetic.batch(1, 2)[:2], COCO, CONFIG)
    assert not np.array_equal(batches[0][0], trained[0])


def test_plain_models_learn_from_plain_crops():
    """The crop of a model with plain targets is the one that its pipeline cuts, as for the others."""
    image, keypoints = np.random.default_rng(0).integers(0, 256, (200, 150, 3), np.uint8), np.full((17, 3), 60.0)
    still = Settings(flip=0, scale=0, rotation=0, half_body=0, colour=0)
    for dataset, mode in (("coco", "udp"), ("ap10k", "plain")):
        config = Config(24, 2, 3, dataset=dataset)
        expected = crop(image, (20, 30, 90, 120), mode=mode)
        rng, rectangle = np.random.default_rng(1), (expected.centre, expected.scale)
        pixels, points = augmented(rng, image, *rectangle, keypoints, SKELETONS[dataset], still, config)
        assert np.array_equal(pixels, expected.pixels)
        assert np.allclose(points[0, :2], expected.from_picture((60, 60)))


def test_ready_follows_the_pipeline_of_the_dataset():
    keypoints = np.full((1, 17, 3), 2.0)
    keypoints[..., :2] = (100.3, 90.6)
    image = np.zeros((1, 256, 192, 3), np.uint8)
    udp = ready(image, keypoints, COCO, CONFIG)[1]
    plain = ready(image, keypoints, SKELETONS["ap10k"], Config(24, 2, 3, dataset="ap10k"))[1]
    assert plain.max() == 1 and udp.max() < 1


def test_new_weights_and_a_new_last_layer():
    params = fresh(CONFIG, 3)
    assert not params["backbone"]["pos_embed"][:, 0].any() and not params["backbone"]["last_norm"]["bias"].any()
    assert params["keypoint_head"]["deconv_layers"]["0"]["weight"].std() == pytest.approx(0.001, rel=0.05)
    qkv = params["backbone"]["blocks"]["0"]["attn"]["qkv"]["weight"]
    fc1 = params["backbone"]["blocks"]["0"]["mlp"]["fc1"]["weight"]
    assert np.abs(fc1).max() <= np.sqrt(6 / (24 + 96)) and fc1.dtype == qkv.dtype == np.float32
    assert all(
        np.array_equal(a, b)
        for a, b in zip(fresh(CONFIG, 3)["backbone"]["pos_embed"], params["backbone"]["pos_embed"], strict=True)
    )
    grown, config = with_keypoints(params, CONFIG, None, 5)
    assert config.num_keypoints == 5 and grown["keypoint_head"]["final_layer"]["weight"].shape == (5, 256, 1, 1)
    assert np.array_equal(grown["backbone"]["blocks"]["0"]["attn"]["qkv"]["weight"], qkv)


def test_new_attention_with_heads_wider_than_the_channels_allow():
    attn = fresh(Config(24, 1, 3, head_dim=16), 1)["backbone"]["blocks"]["0"]["attn"]
    q, k, v = np.split(attn["qkv"]["weight"], 3)
    assert q.shape == (48, 24) and np.array_equal(q, k)
    assert np.allclose(attn["proj"]["weight"], -0.4 * v.T, rtol=2e-7, atol=0)  # each rounded once


def test_new_positions_tell_how_far_apart_patches_are():
    table = waves((16, 12), 98)
    assert table.shape == (192, 98) and not table[:, 96:].any()
    alike = (table @ table.T).reshape(16, 12, 16, 12)
    assert np.allclose(alike[2, 3, 4, 8], alike[11, 1, 13, 6]) and np.allclose(np.einsum("ijij->ij", alike), 12)
    along = alike[8, 0, 8], alike[:, 6, 0, 6]  # patches of one row, of one column
    assert all((np.diff(a[:3]) < 0).all() and a[3:].max() < a[1] for a in along)


def test_new_attention_looks_near_and_takes_away_what_is_common():
    """A token sees itself and its neighbours; the projection times the values' matrix is about -0.4."""
    config = Config(96, 1, 3)
    p = fresh(config, 1)["backbone"]
    x = p["pos_embed"][:, 1:]
    block = p["blocks"]["0"]
    qkv, proj = block["attn"]["qkv"], block["attn"]["proj"]
    q, k, _ = layers.split_heads(layers.linear(layers.layer_norm(x, **block["norm1"]), **qkv), 3)
    seen = layers.softmax(q @ k.swapaxes(2, 3) / np.sqrt(32))[0].mean(axis=0)
    rows, columns = np.divmod(np.arange(192), 12)
    far = np.hypot(rows[:, None] - rows, columns[:, None] - columns)
    near, away = seen[far <= 1.5].sum() / 192, seen[far > 4].sum() / 192  # 4 % and 80 % of all pairs
    assert near > 0.4 and away < 0.35
    product = proj["weight"] @ qkv["weight"][192:]
    assert np.trace(product) / 96 == pytest.approx(-0.4, abs=0.03)
    assert np.abs(product + 0.4 * np.eye(96)).max() < 0.25
