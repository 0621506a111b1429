"""Small random COCO content for the tests of evaluation, with all that makes matching hard."""

import numpy as np

EDGES = (32.0**2, 96.0**2, 1e10, 32.0**2 - 1e-3, 96.0**2 + 1e-3)


def world(seed, num_keypoints=17, categories=1):
    """-> (dict of annotations, list of results): crowds, people without keypoints, ties, duplicates, empty pictures."""
    rng = np.random.default_rng(seed)
    ids = rng.choice(np.arange(1, 90), rng.integers(1, 9), replace=False).tolist()
    images = [{"id": i, "file_name": f"{i:06d}.png", "height": 480, "width": 640} for i in ids]
    content = {"images": images, "annotations": [], "categories": []}
    content["categories"] = [{"id": c, "name": f"kind {c}"} for c in range(1, categories + 1)]
    results, with_boxes = [], rng.random() < 0.3
    for image in ids:
        kind = rng.choice(["people", "people", "people", "crowds", "nobody", "empty", "many"])
        people = [person(rng, num_keypoints, image, kind == "crowds", categories) for _ in range(people_in(rng, kind))]
        if len(people) > 1 and rng.random() < 0.3:
            people.append(dict(people[0]))  # the same person twice: whoever comes last is found first
        content["annotations"] += people
        for _ in range({"empty": 0, "many": 30}.get(kind, rng.integers(0, 7))):
            results.append(result(rng, num_keypoints, image, people, categories))
            if rng.random() < 0.15:
                results.append(dict(results[-1]))
    for i, entry in enumerate(content["annotations"]):
        entry["id"] = i + 1
    for entry in results:
        if with_boxes:
            entry["bbox"] = [0.0, 0.0, *np.sqrt(rng.choice([*EDGES, 100.0, 5000.0, 20000.0]) * np.ones(2))]
    order = rng.permutation(len(results))
    return content, [results[i] for i in order]


def people_in(rng, kind):
    return 0 if kind in ("nobody", "empty") and rng.random() < 0.7 else int(rng.integers(1, 5))


def person(rng, num_keypoints, image, crowd, categories):
    side = rng.choice([20.0, 32.0, 60.0, 96.0, 150.0])
    x, y = rng.uniform(0, 300, 2)
    points = np.c_[rng.uniform((x, y), (x + side, y + side), (num_keypoints, 2)).round(2), np.zeros(num_keypoints)]
    points[:, 2] = rng.choice([0, 1, 2], num_keypoints, p=[0.3, 0.2, 0.5])
    crowd = crowd or rng.random() < 0.1
    if rng.random() < 0.15:
        points[:, 2] = 0
    area = rng.choice([*EDGES, 0.0]) if rng.random() < 0.2 else side * side * rng.uniform(0.3, 1)
    return {
        "image_id": image,
        "category_id": int(rng.integers(1, categories + 1)),
        "bbox": [x, y, side, side * rng.uniform(0.5, 1.5)],
        "area": float(area),
        "iscrowd": int(crowd),
        "keypoints": points.ravel().tolist(),
        "num_keypoints": int((points[:, 2] > 0).sum()),
    }


def result(rng, num_keypoints, image, people, categories):
    points = rng.uniform(0, 450, (num_keypoints, 2))
    category = int(rng.integers(1, categories + 1))
    if people and rng.random() < 0.85:
        one = people[rng.integers(len(people))]
        category = one["category_id"] if rng.random() < 0.9 else category
        spread = np.sqrt(one["area"] if one["area"] < 1e9 else 1e3) * rng.choice([0, 0.02, 0.05, 0.1, 0.2])
        points = np.reshape(one["keypoints"], (-1, 3))[:, :2] + rng.normal(0, 1, (num_keypoints, 2)) * spread
        if rng.random() < 0.2:  # exactly on a threshold: some keypoints perfect, the others nowhere
            points[rng.random(num_keypoints) < 0.5] += 1e6
    score = float(rng.choice([0.2, 0.5, 0.5, 0.9])) if rng.random() < 0.5 else float(rng.random())
    points = np.c_[points, rng.random(num_keypoints)]
    return {"image_id": image, "category_id": category, "keypoints": points.ravel().tolist(), "score": score}
