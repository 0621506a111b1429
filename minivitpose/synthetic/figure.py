"""A skeleton becomes a figure: flesh, clothes, hair and a face, made of solids; and the 17 points of COCO on it."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from minivitpose.synthetic.body import AWAY, SIDES
from minivitpose.synthetic.paint import CURLS, HOOPS, paint
from minivitpose.synthetic.solids import FLAT, NEAR, cone, egg, table

# Parts whose surfaces flow into each other: their normals are blended. L stands for each side.
FLOW = """
skull jaw, skull nose, jaw nose, skull ear.L, neck jaw, neck ribs, neck yoke, neck trap.L, trap.L yoke, trap.L ribs,
trap.L cap.L, yoke ribs, yoke cap.L, ribs cap.L, cap.L upper_arm.L, ribs belly, belly pelvis, belly paunch, ribs paunch,
pelvis paunch, pelvis hip.L, hip.L seat.L, pelvis seat.L, pelvis thigh.L, seat.L thigh.L, belly thigh.L,
upper_arm.L forearm.L, forearm.L palm.L, palm.L fingers.L, palm.L thumb.L, thigh.L shank.L, shank.L calf.L,
thigh.L calf.L, heel.L toes.L, hair locks, hair back, hair tail, skirt pelvis, skirt belly
"""

TRUNK = ("ribs", "belly", "paunch", "yoke", "trap.left", "trap.right", "cap.left", "cap.right")


@dataclass(frozen=True)
class Figure:
    """solids (P, COLUMNS), paints (P, n), near (P, NEAR) indices or -1; keypoints (17, 3) in metres, COCO's order."""

    solids: np.ndarray
    paints: np.ndarray
    near: np.ndarray
    keypoints: np.ndarray


def figure(build, joints, outfit, owner=0):
    """The figure of a person whose joints are where ``body.joints`` says."""
    rows = {}  # name -> (solid, paint)
    face = head(rows, build, joints, outfit)
    trunk(rows, build, joints, outfit)
    for side in SIDES:
        arm(rows, build, joints, outfit, side)
        leg(rows, build, joints, outfit, side)
    if outfit.skirt:
        skirt(rows, build, joints, outfit)
    names = list(rows)
    limbs = [joints[f"{side}_{j}"][0] for j in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle") for side in SIDES]
    solids = table([r[0] for r in rows.values()], owner)
    paints = np.array([r[1] for r in rows.values()])
    for name in TRUNK:  # a pattern runs over the whole shirt
        if name in names:
            paints[names.index(name), -1] = names.index("ribs")
    return Figure(solids, paints, neighbours(tuple(names)), np.array(face + limbs))


def flow_pairs():
    """FLOW as pairs of names."""
    pairs = [tuple(p.split()) for p in FLOW.replace("\n", " ").split(",")]
    both = [tuple(n.replace(".L", f".{side}") for n in p) for p in pairs for side in SIDES]
    return list(dict.fromkeys(both))


PAIRS = flow_pairs()


@cache
def neighbours(names):
    """Which solids blend into each -> (P, NEAR) indices, -1 where there are no more."""
    index = {name: i for i, name in enumerate(names)}
    near = np.full((len(names), NEAR), -1, np.int64)
    used = [0] * len(names)
    for a, b in PAIRS:
        if a in index and b in index:
            for i, j in ((index[a], index[b]), (index[b], index[a])):
                if used[i] < NEAR:
                    near[i, used[i]] = j
                    used[i] += 1
    near.flags.writeable = False
    return near


def head(rows, build, joints, outfit):
    """Skull, face, ears and hair -> nose, left eye, right eye, left ear, right ear, each (3,), on the surface."""
    p, R = joints["head"]
    size = build.head / 0.232  # the numbers below are of a head of 23 cm from chin to crown
    centre = p + R @ np.array([0, 0.012, 0.105]) * size
    skin, hair = paint(outfit.skin, gloss=0.12), paint(outfit.hair, gloss=0.25, grain=0.35)

    def at(x, y, z):
        return centre + R @ np.array([x, y, z]) * size

    def ball(x, y, z, rx, ry, rz, turned=R):
        return egg(at(x, y, z), turned, (rx * size, ry * size, rz * size))

    def rod(a, b, r1, r2, flatten=(1, 1)):
        return cone(at(*a), at(*b), r1 * size, r2 * size, R[:, 0], flatten)

    neck, R_neck = joints["neck"]
    wide = 0.052 * build.limb
    rows["neck"] = (cone(neck - R_neck[:, 2] * 0.04, at(0, -0.018, -0.05), wide * 1.1, wide, R_neck[:, 0]), skin)
    rows["skull"] = ball(0, -0.002, 0.018, 0.076, 0.094, 0.098), skin
    rows["jaw"] = (rod((0, 0.018, -0.045), (0, 0.046, -0.082), 0.062, 0.032, (1, 0.9)), skin)
    rows["nose"] = (rod((0, 0.090, 0.008), (0, 0.104, -0.026), 0.008, 0.0145), paint(outfit.skin * 0.96, gloss=0.15))
    dark = paint(np.minimum(outfit.hair * 0.7, 0.35))
    rows["mouth"] = (ball(0, 0.0735, -0.060, 0.024, 0.010, 0.0065), paint(outfit.skin * np.array([0.82, 0.48, 0.46])))
    points = [at(0, 0.1185, -0.028)]
    for side in SIDES:
        x = AWAY[side]
        rows[f"eye.{side}"] = (
            ball(x * 0.033, 0.0795, 0.014, 0.0165, 0.009, 0.0115),
            paint((0.95, 0.95, 0.93), gloss=0.5),
        )
        rows[f"iris.{side}"] = (ball(x * 0.032, 0.0855, 0.014, 0.0085, 0.0055, 0.0085), paint(outfit.eyes, gloss=0.6))
        rows[f"brow.{side}"] = (rod((x * 0.019, 0.0870, 0.038), (x * 0.049, 0.0760, 0.0345), 0.0052, 0.0042), dark)
        points.append(at(x * 0.032, 0.091, 0.014))
    for side in SIDES:
        x = AWAY[side]
        rows[f"ear.{side}"] = (
            ball(x * 0.079, -0.008, -0.004, 0.013, 0.021, 0.031),
            paint(outfit.skin * 0.93, gloss=0.1),
        )
        points.append(at(x * 0.0915, -0.008, -0.004))
    haircut(rows, build, joints, outfit, ball, rod, hair)
    return points


def haircut(rows, build, joints, outfit, ball, rod, hair):
    """What grows or sits on the head."""
    cut = outfit.haircut
    if outfit.beard:
        rows["beard"] = (rod((0, 0.020, -0.060), (0, 0.048, -0.088), 0.059, 0.034, (1, 0.9)), hair)
    if cut == "bald":
        return
    if cut == "cap":
        cap = paint(outfit.second, gloss=0.05)
        rows["hair"] = ball(0, -0.012, 0.000, 0.081, 0.092, 0.090), hair
        rows["cap"] = ball(0, -0.002, 0.052, 0.084, 0.102, 0.076), cap
        rows["brim"] = (ball(0, 0.092, 0.071, 0.064, 0.070, 0.007), paint(outfit.second * 0.8))
        return
    if cut == "curls":
        rows["hair"] = (
            ball(0, -0.026, 0.050, 0.112, 0.106, 0.105),
            paint(outfit.hair, pattern=CURLS, pitch=0.022, grain=0.6),
        )
        return
    thick = 0.004 if cut == "crop" else 0.010
    rows["hair"] = (ball(0, -0.018, 0.030, 0.079 + thick, 0.090 + thick, 0.092 + thick), hair)
    if cut == "short":
        rows["locks"] = ball(0.02, 0.045, 0.098, 0.050, 0.040, 0.026), hair
    if cut in ("long", "bob"):
        low = -0.11 if cut == "bob" else -0.235
        rows["back"] = (rod((0, -0.040, 0.02), (0, -0.068, low), 0.086, 0.062, (1, 0.62)), hair)
        for x in (-1, 1):
            lock = rod((x * 0.072, -0.012, 0.04), (x * 0.078, -0.010, max(low, -0.16)), 0.022, 0.014, (0.8, 1.4))
            rows[f"lock{x}"] = lock, hair
    if cut == "bun":
        rows["tail"] = ball(0, -0.085, 0.105, 0.042, 0.042, 0.040), hair
    if cut == "tail":
        rows["tail"] = rod((0, -0.112, 0.05), (0, -0.150, -0.01), 0.028, 0.034), hair
        rows["tail2"] = rod((0, -0.150, -0.01), (0, -0.135, -0.17), 0.034, 0.012), hair


def trunk(rows, build, joints, outfit):
    """Chest, belly, hips and shoulders."""
    g = build.girth
    pelvis, R0 = joints["pelvis"]
    waist, R1 = joints["waist"]
    chest, R2 = joints["chest"]
    neck = joints["neck"][0]
    shirt = paint(outfit.shirt, outfit.second, pattern=outfit.pattern, pitch=outfit.pitch, grain=0.12)
    bottom = paint(outfit.trousers, grain=0.12)
    stand = outfit.loose * 0.6
    flat = (1, 0.74)
    rows["pelvis"] = (egg(pelvis + R0[:, 2] * 0.025 * g, R0, (0.160 * g, 0.116 * g, 0.115 * g)), bottom)
    low = waist - R0[:, 2] * 0.01
    rows["belly"] = (cone(low, chest + R2[:, 2] * 0.03, 0.142 * g + stand, 0.136 * g + stand, R1[:, 0], flat), shirt)
    top = chest + R2[:, 2] * (0.60 * build.chest)
    rows["ribs"] = (
        cone(chest + R2[:, 2] * 0.05, top, 0.142 * g + stand, 0.126 * g + stand, R2[:, 0], (1.04, 0.76)),
        shirt,
    )
    if g > 1.08 * build.height / 1.75:
        out = 0.14 * g
        rows["paunch"] = (egg(waist + R1 @ np.array([0, 0.030 * g, 0.04]), R1, (out, 0.106 * g, 1.25 * out)), shirt)
    ends = [joints[f"{side}_shoulder"][0] for side in SIDES]
    inner = [e + (ends[1 - i] - e) * 0.12 for i, e in enumerate(ends)]
    r = 0.050 * build.limb + stand
    rows["yoke"] = (
        cone(inner[0] - R2[:, 2] * 0.012, inner[1] - R2[:, 2] * 0.012, r * 1.15, r * 1.15, R2[:, 1], (1, 1)),
        shirt,
    )
    for side, end in zip(SIDES, ends, strict=True):
        start = neck + R2[:, 0] * (AWAY[side] * 0.03) - R2[:, 2] * 0.015
        rows[f"trap.{side}"] = (cone(start, end + (neck - end) * 0.15, 0.044 * build.limb, r * 0.95, R2[:, 1]), shirt)
        rows[f"cap.{side}"] = egg(end, R2, (r * 1.04, r * 1.04, r * 1.04)), shirt
        seat = pelvis + R0 @ np.array([AWAY[side] * 0.070, -0.047, -0.028]) * g
        if 0 < outfit.leg < 1:  # cloth over the top of a bare thigh
            r = 0.085 * build.limb + outfit.loose
            rows[f"hip.{side}"] = (egg(joints[f"{side}_hip"][0], R0, (r * 1.02, r * 1.02, r * 1.02)), bottom)
        rows[f"seat.{side}"] = egg(seat, R0, (0.080 * g, 0.077 * g, 0.088 * g)), bottom


def covered(rows, name, a, b, r1, r2, share, cloth, skin, stand, flare=1.0):
    """A limb's half, the first ``share`` of it in cloth."""
    if share >= 1:
        rows[name] = cone(a, b, r1 + stand, r2 + stand * flare), cloth
        return
    rows[name] = cone(a, b, r1, r2), skin
    if share > 0:
        end = a + (b - a) * share
        wide = r1 + (r2 - r1) * share + stand * flare + 0.004
        rows[f"hem.{name}"] = (cone(a + (end - a) * 0.03, end, r1 + stand - 0.004, wide, kind=FLAT), cloth)


def arm(rows, build, joints, outfit, side):
    """Upper arm, forearm, hand."""
    (shoulder, _), (elbow, R), (wrist, H) = (joints[f"{side}_{j}"] for j in ("shoulder", "elbow", "wrist"))
    m, skin = build.limb, paint(outfit.skin, gloss=0.1)
    cloth = paint(
        outfit.shirt,
        outfit.second,
        pattern=outfit.pattern if outfit.pattern == HOOPS else 0,
        pitch=outfit.pitch,
        grain=0.12,
    )
    stand = outfit.loose
    covered(rows, f"upper_arm.{side}", shoulder, elbow, 0.050 * m, 0.041 * m, outfit.sleeve, cloth, skin, stand)
    covered(rows, f"forearm.{side}", elbow, wrist, 0.043 * m, 0.028 * m, outfit.sleeve - 1, cloth, skin, stand * 0.7)
    s = build.height / 1.75 * 1.02

    def at(x, y, z):
        return wrist + H @ np.array([x, y, z]) * s

    rows[f"palm.{side}"] = (egg(at(0, 0.002, -0.050), H, (0.019 * s, 0.043 * s, 0.054 * s)), skin)
    rows[f"fingers.{side}"] = (
        cone(at(0, 0, -0.085), at(0, 0.002, -0.158), 0.034 * s, 0.020 * s, H[:, 0], (0.45, 1)),
        skin,
    )
    rows[f"thumb.{side}"] = (cone(at(0, 0.030, -0.035), at(0, 0.056, -0.095), 0.015 * s, 0.011 * s, H[:, 0]), skin)


def leg(rows, build, joints, outfit, side):
    """Thigh, shank, foot."""
    (hip, _), (knee, R), (ankle, F) = (joints[f"{side}_{j}"] for j in ("hip", "knee", "ankle"))
    m, skin = build.limb, paint(outfit.skin, gloss=0.1)
    cloth = paint(outfit.trousers, grain=0.12)
    stand = outfit.loose * 0.9
    covered(rows, f"thigh.{side}", hip, knee, 0.085 * m, 0.054 * m, outfit.leg, cloth, skin, stand)
    low = outfit.leg - 1
    end = ankle + (knee - ankle) * 0.02
    covered(rows, f"shank.{side}", knee, end, 0.054 * m, 0.034 * m, low, cloth, skin, stand, 1.6)
    calf = knee + (ankle - knee) * 0.32 - R[:, 1] * 0.016 * m
    wide = stand if low > 0.3 else 0.0
    rows[f"calf.{side}"] = (egg(calf, R, (0.046 * m + wide, 0.048 * m + wide, 0.115 * m)), cloth if low > 0.3 else skin)
    length, down, shoe = build.foot, build.ankle, paint(outfit.shoes, gloss=0.3)
    s = length / 0.26

    def at(x, y, z):
        return ankle + F @ np.array([x, y, z])

    heel, toe = 0.043 * s, 0.031 * s
    rows[f"heel.{side}"] = (
        cone(at(0, heel - 0.26 * length, heel - down), at(0, 0.42 * length, 0.036 * s - down), heel, 0.036 * s),
        shoe,
    )
    rows[f"toes.{side}"] = (
        cone(
            at(0, 0.36 * length, 0.038 * s - down),
            at(0, 0.76 * length - toe, toe - down),
            0.043 * s,
            0.036 * s,
            F[:, 2],
            (0.86, 1.12),
        ),
        shoe,
    )
    rows[f"sock.{side}"] = (egg(ankle, F, (0.040 * m, 0.044 * m, 0.045 * m)), cloth if low > 0.8 else shoe)


def skirt(rows, build, joints, outfit):
    """A cone about both thighs, wide enough for them."""
    pelvis, R = joints["pelvis"]
    hips = [joints[f"{side}_hip"][0] for side in SIDES]
    ends = [h + (joints[f"{side}_knee"][0] - h) * outfit.skirt * 2 for h, side in zip(hips, SIDES, strict=True)]
    foot = (ends[0] + ends[1]) / 2
    hip = build.hip + 0.085 * build.limb + 0.012
    wide = np.linalg.norm(ends[0] - ends[1]) / 2 + 0.085 * build.limb + 0.03
    cloth, flat = paint(outfit.trousers, grain=0.12), (1, 0.8)
    rows["skirt"] = (
        cone(pelvis + R[:, 2] * 0.08, pelvis - R[:, 2] * 0.01, 0.13 * build.girth, hip, R[:, 0], flat),
        cloth,
    )
    rows["hem"] = (cone(pelvis - R[:, 2] * 0.01, foot, hip, max(wide, 1.15 * hip), R[:, 0], flat, FLAT), cloth)
