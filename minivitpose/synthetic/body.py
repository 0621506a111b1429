"""The skeleton of a mannequin: bone lengths, joint angles with their limits, and where every joint then is.

A body's own axes: x to its right, y forward, z up; lengths in metres. Angles are in degrees and 0 in the rest pose,
which stands upright with hanging arms. A positive bend is the natural one: an arm or a thigh swings forward, an elbow
and a knee fold, a limb spreads away from the body, the trunk bows forward. ``side`` and ``turn`` go to the body's left.
"""

from dataclasses import dataclass

import numpy as np

# name -> lowest and highest angle in degrees. Rounded from tables of healthy adults (American Academy of Orthopaedic
# Surgeons; Norkin and White, Measurement of Joint Motion).
LIMITS = {
    "spine_bend": (-30, 80),
    "spine_side": (-35, 35),
    "spine_turn": (-45, 45),
    "neck_bend": (-45, 45),
    "neck_side": (-35, 35),
    "neck_turn": (-70, 70),
}
ARM = {
    "shoulder_bend": (-50, 175),
    "shoulder_spread": (-20, 170),
    "shoulder_turn": (-70, 70),
    "elbow_bend": (0, 145),
    "elbow_turn": (-85, 85),
    "wrist_bend": (-60, 70),
}
LEG = {
    "hip_bend": (-25, 120),
    "hip_spread": (-25, 50),
    "hip_turn": (-40, 40),
    "knee_bend": (0, 145),
    "ankle_bend": (-50, 30),
}
SIDES = ("left", "right")
LIMITS |= {f"{side}_{name}": limits for side in SIDES for name, limits in (ARM | LEG).items()}
AWAY = {"left": -1.0, "right": 1.0}  # the sign of x on that side of the body


@dataclass(frozen=True)
class Build:
    """Bone lengths of one person in metres, and how thick the trunk and the limbs are: factors, 1 for 1.75 m and slim.

    The shares of the height follow Drillis and Contini (1966), as in Winter's Biomechanics and Motor Control.
    """

    height: float
    head: float  # chin to crown
    neck: float
    chest: float  # middle of the trunk to the base of the neck
    waist: float  # hips to the middle of the trunk
    shoulder: float  # half the distance between the shoulder joints
    hip: float  # the same of the hips
    upper_arm: float
    forearm: float
    thigh: float
    shank: float
    ankle: float  # height of the ankle above the sole
    foot: float  # length
    girth: float  # of the trunk
    limb: float  # of arms and legs

    @property
    def leg(self):
        return self.thigh + self.shank


def draw_build(rng, child):
    """A random person: lengths that go with the height, each off by a few per cent."""
    height = rng.uniform(1.08, 1.5) if child else rng.uniform(1.54, 1.96)
    grown = np.clip((height - 1.0) / 0.75, 0, 1)
    share = {
        "head": 0.172 - 0.04 * grown,
        "neck": 0.040 + 0.010 * grown,
        "chest": 0.198 - 0.006 * grown,
        "waist": 0.098,
        "shoulder": 0.098 + 0.006 * grown,
        "hip": 0.052,
        "upper_arm": 0.166 + 0.016 * grown,
        "forearm": 0.140 + 0.008 * grown,
        "thigh": 0.224 + 0.021 * grown,
        "shank": 0.222 + 0.022 * grown,
        "ankle": 0.042,
        "foot": 0.150,
    }
    factors = 1 + 0.05 * rng.uniform(-1, 1, len(share))
    lengths = {name: height * s * f for (name, s), f in zip(share.items(), factors, strict=True)}
    stout = rng.uniform(-1, 1) ** 3  # most people are near the middle
    girth = height / 1.75 * (1.0 + 0.05 * (1 - grown) + (0.42 if stout > 0 else 0.14) * stout)
    limb = height / 1.75 * (1.0 + (0.22 if stout > 0 else 0.14) * stout + 0.08 * rng.uniform(-1, 1))
    return Build(height=height, girth=girth, limb=limb, **lengths)


def neutral():
    """Every angle 0: upright, arms hanging, palms to the thighs."""
    return dict.fromkeys(LIMITS, 0.0)


def within_limits(angles):
    """The same angles, each moved to its nearest allowed value."""
    return {name: min(max(angles[name], low), high) for name, (low, high) in LIMITS.items()}


def about_x(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def about_y(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def about_z(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def trunk_turn(bend, side, turn):
    """How a piece of the trunk or the neck turns: bow forward, lean to the left, look to the left."""
    return about_z(turn) @ about_y(-side) @ about_x(-bend)


def limb_turn(away, bend, spread, turn):
    """How a limb that hangs from the trunk turns: forward, away from the body, about its own length (outward)."""
    return about_x(bend) @ about_y(-away * spread) @ about_z(-away * turn)


def joints(build, angles, pelvis=None, position=(0, 0, 0)):
    """Forward kinematics: from bone lengths and angles to places and axes.

    pelvis (3, 3): the axes of the pelvis in the world, as columns; position (3,): of the point between the hips.
    -> {name: (place (3,), axes (3, 3))}, with left_ and right_ before shoulder, elbow, wrist, hip, knee and ankle.
    """
    R, p = np.eye(3) if pelvis is None else pelvis, np.asarray(position, float)
    found = {"pelvis": (p, R)}
    half = trunk_turn(angles["spine_bend"] / 2, angles["spine_side"] / 2, angles["spine_turn"] / 2)
    p, R = p + R[:, 2] * (0.45 * build.waist), R @ half
    found["waist"] = p, R
    p, R = p + R[:, 2] * (0.55 * build.waist), R @ half
    found["chest"] = chest, trunk = p, R
    third = trunk_turn(angles["neck_bend"] / 2, angles["neck_side"] / 2, angles["neck_turn"] / 2)
    p, R = p + R[:, 2] * build.chest, R @ third
    found["neck"] = p, R
    p, R = p + R[:, 2] * build.neck, R @ third
    found["head"] = p, R
    for side in SIDES:
        found |= arm(build, angles, side, chest, trunk) | leg(build, angles, side, *found["pelvis"])
    return found


def arm(build, angles, side, chest, R):
    """Shoulder, elbow and wrist. A raised arm lifts its shoulder."""
    away, a = AWAY[side], {name: angles[f"{side}_{name}"] for name in ARM}
    turn = limb_turn(away, a["shoulder_bend"], a["shoulder_spread"], a["shoulder_turn"])
    lift = (1 - turn[2, 2]) / 2  # 0 hanging, 1 straight up
    up = 0.87 * build.chest + 0.035 * build.height * lift
    p = chest + R @ np.array([away * build.shoulder * (1 - 0.1 * lift), 0, up])
    R = R @ turn
    found = {f"{side}_shoulder": (p, R)}
    p, R = p - R[:, 2] * build.upper_arm, R @ about_x(a["elbow_bend"]) @ about_z(-away * a["elbow_turn"])
    found[f"{side}_elbow"] = p, R
    p, R = p - R[:, 2] * build.forearm, R @ about_y(away * a["wrist_bend"])
    found[f"{side}_wrist"] = p, R
    return found


def leg(build, angles, side, p, R):
    """Hip, knee and ankle; the ankle's axes are the foot's."""
    away, a = AWAY[side], {name: angles[f"{side}_{name}"] for name in LEG}
    p = p + R[:, 0] * (away * build.hip)
    R = R @ limb_turn(away, a["hip_bend"], a["hip_spread"], a["hip_turn"])
    found = {f"{side}_hip": (p, R)}
    p, R = p - R[:, 2] * build.thigh, R @ about_x(-a["knee_bend"])
    found[f"{side}_knee"] = p, R
    p, R = p - R[:, 2] * build.shank, R @ about_x(a["ankle_bend"])
    found[f"{side}_ankle"] = p, R
    return found


def reach_with_leg(build, away, target):
    """The angles that bring an ankle to a place: inverse kinematics of two bones. A place out of reach is approached.

    away: -1 left, 1 right; target (3,): from the hip, in the pelvis' axes -> hip_bend, hip_spread, knee_bend, degrees.
    """
    x, y, z = target
    length = min(max(np.sqrt(x * x + y * y + z * z), 0.45 * build.leg), 0.9995 * build.leg)
    cosine = (length**2 - build.thigh**2 - build.shank**2) / (2 * build.thigh * build.shank)
    knee = np.arccos(np.clip(cosine, -1, 1))
    back = np.arctan2(
        build.shank * np.sin(knee), build.thigh + build.shank * cosine
    )  # hip to ankle lies behind the thigh
    spread = np.arcsin(np.clip(away * x / (length * np.cos(back)), -0.7, 0.7))
    # The leg in the plane that the spread has tilted, (y, z), and how far it must swing to point at the target
    before = np.arctan2(-np.sin(back), np.cos(back) * np.cos(spread))
    bend = np.arctan2(y, -z) - before
    return np.degrees(bend), np.degrees(spread), np.degrees(knee)
