"""What people do: each pose is a distribution of joint angles, with the feet on the ground where they should be.

A pose function takes a random generator and a Build and returns a Stance. Legs that carry weight are posed by where
their feet are, and the angles are then solved for, so no foot hangs in the air or sinks.
"""

from dataclasses import dataclass

import numpy as np

from minivitpose.synthetic.body import AWAY, SIDES, about_x, about_y, neutral, reach_with_leg, within_limits


@dataclass(frozen=True)
class Stance:
    """angles: name -> degrees; tilt (3, 3): the pelvis' axes before the person is turned to face somewhere; lift:
    metres between the lowest point and the ground; seat: None, or the height of what the person sits on.
    """

    name: str
    angles: dict
    tilt: np.ndarray
    lift: float = 0.0
    seat: float | None = None


def between(rng, low, high):
    """Random, rather in the middle than at the ends."""
    return low + (high - low) * (rng.random() + rng.random()) / 2


def side_first(rng):
    """The two sides of the body, in random order."""
    return SIDES if rng.random() < 0.5 else SIDES[::-1]


def set_leg(angles, build, side, foot, height, tilt, toes=0.0):
    """Solve a leg for a foot at (away from the body's middle, forward) on the ground, the pelvis ``height`` above it.

    toes: degrees by which the heel is raised.
    """
    away = AWAY[side]
    hip = tilt[:, 0] * (away * build.hip)
    up = build.ankle + 0.55 * build.foot * np.sin(np.radians(max(toes, 0)))
    target = np.array([away * foot[0], foot[1], up - height]) - hip
    bend, spread, knee = reach_with_leg(build, away, tilt.T @ target)
    set_side(angles, side, hip_bend=bend, hip_spread=spread, knee_bend=knee)
    pitch = np.degrees(np.arcsin(np.clip(tilt[2, 1], -1, 1)))
    angles[f"{side}_ankle_bend"] = knee - bend - pitch - toes


def set_side(angles, side, **values):
    angles.update({f"{side}_{name}": value for name, value in values.items()})


def easy_trunk(rng, angles, more=1.0):
    """A little of everything in the trunk and the neck."""
    angles["spine_bend"] = between(rng, -6, 12) * more
    angles["spine_side"] = between(rng, -9, 9) * more
    angles["spine_turn"] = between(rng, -18, 18) * more
    angles["neck_bend"] = between(rng, -14, 20)
    angles["neck_side"] = between(rng, -14, 14)
    angles["neck_turn"] = between(rng, -50, 50)


def easy_arm(rng, angles, side):
    """One of the things that arms do when nothing is to be done."""
    kind = rng.random()
    a = {
        "shoulder_bend": between(rng, -18, 22),
        "shoulder_spread": between(rng, 4, 24),
        "elbow_bend": between(rng, 4, 45),
    }
    a |= {
        "shoulder_turn": between(rng, -25, 25),
        "elbow_turn": between(rng, -40, 40),
        "wrist_bend": between(rng, -15, 25),
    }
    if kind > 0.85:  # hand on the hip
        a |= {"shoulder_bend": between(rng, -25, -5), "shoulder_spread": between(rng, 38, 55)}
        a |= {"elbow_bend": between(rng, 85, 110), "shoulder_turn": between(rng, -68, -50)}
    elif kind > 0.70:  # forearm before the body
        a |= {
            "shoulder_bend": between(rng, 5, 35),
            "elbow_bend": between(rng, 60, 120),
            "shoulder_turn": between(rng, -55, 5),
        }
    elif kind > 0.62:  # waving
        a |= {"shoulder_bend": between(rng, 0, 40), "shoulder_spread": between(rng, 60, 120)}
        a |= {"elbow_bend": between(rng, 50, 120), "shoulder_turn": between(rng, 50, 70)}
    elif kind > 0.56:  # hand at the head
        a |= {
            "shoulder_bend": between(rng, 50, 100),
            "shoulder_spread": between(rng, 20, 70),
            "elbow_bend": between(rng, 115, 140),
        }
    set_side(angles, side, **a)


def standing(rng, build):
    """On both feet, more or less at ease, the weight perhaps on one leg."""
    angles = neutral()
    easy_trunk(rng, angles)
    tilt = about_y(between(rng, -6, 6)) @ about_x(between(rng, -6, 4))
    reach = build.leg * between(rng, 0.955, 0.995)
    width = build.hip * between(rng, 0.6, 2.8)
    ahead = build.leg * between(rng, -0.16, 0.16)
    first, second = side_first(rng)
    set_leg(angles, build, first, (width, ahead / 2), reach + build.ankle, tilt)
    set_leg(angles, build, second, (width, -ahead / 2), reach + build.ankle, tilt)
    for side in SIDES:
        angles[f"{side}_hip_turn"] = between(rng, -5, 25)
        easy_arm(rng, angles, side)
    return Stance("standing", angles, tilt)


def walking(rng, build, hurry=None):
    """A stride: one leg ahead, the other behind on its toes, the arms against the legs. In a hurry it is a run."""
    angles = neutral()
    easy_trunk(rng, angles, 0.5)
    hurry = rng.random() ** 2 if hurry is None else hurry
    stride = build.leg * (between(rng, 0.12, 0.42) + 0.12 * hurry)
    tilt = about_x(between(rng, -8, 2) - 10 * hurry)
    height = build.leg * (between(rng, 0.945, 0.985) - 0.05 * hurry) + build.ankle
    front, back = side_first(rng)
    width = build.hip * between(rng, 0.3, 1.1)
    set_leg(angles, build, front, (width, stride), height, tilt, between(rng, -18, 5))
    if rng.random() < 0.55 + 0.3 * hurry:  # the back leg swings
        bend = between(rng, -10, 35) + 25 * hurry
        set_side(
            angles, back, hip_bend=bend, knee_bend=between(rng, 30, 70) + 35 * hurry, ankle_bend=between(rng, -30, 5)
        )
    else:
        set_leg(angles, build, back, (width, -stride), height, tilt, between(rng, 20, 42))
    swing = between(rng, 12, 40) + 15 * hurry
    for side, sign in ((front, -1), (back, 1)):
        a = {"shoulder_bend": sign * swing + between(rng, -8, 12), "shoulder_spread": between(rng, 4, 20)}
        a |= {"elbow_bend": between(rng, 8, 40) + 60 * hurry, "shoulder_turn": between(rng, -35, 10)}
        set_side(angles, side, **a, elbow_turn=between(rng, -20, 20))
        if rng.random() < 0.12:
            easy_arm(rng, angles, side)
    angles["spine_turn"] += (1 if front == "left" else -1) * between(rng, 0, 12)
    return Stance("walking", angles, tilt)


def sitting(rng, build):
    """On a seat, the feet on the ground before it, the hands somewhere near the knees."""
    angles = neutral()
    easy_trunk(rng, angles)
    angles["spine_bend"] += between(rng, -10, 25)
    tilt = about_x(between(rng, -2, 18))
    seat = build.shank * between(rng, 0.78, 1.05) + build.ankle
    hips = seat + 0.075 * build.girth
    for side in SIDES:
        foot = (build.hip * between(rng, 0.6, 3.2), build.thigh * between(rng, 0.75, 1.25))
        set_leg(angles, build, side, foot, hips, tilt)
        kind = rng.random()
        if kind < 0.6:  # hand on the thigh
            a = {
                "shoulder_bend": between(rng, 15, 45),
                "shoulder_spread": between(rng, 2, 22),
                "elbow_bend": between(rng, 30, 80),
            }
            set_side(angles, side, **a, shoulder_turn=between(rng, -40, 5), elbow_turn=between(rng, -30, 30))
        else:
            easy_arm(rng, angles, side)
    return Stance("sitting", angles, tilt, seat=seat)


def reaching(rng, build):
    """An arm, or both, up, forward or to the side for something; the trunk may follow."""
    stance = standing(rng, build)
    angles = stance.angles
    first, second = side_first(rng)
    for side in (first, second) if rng.random() < 0.45 else (first,):
        kind = rng.random()
        if kind < 0.45:  # up
            a = {"shoulder_bend": between(rng, 120, 174), "shoulder_spread": between(rng, -5, 35)}
        elif kind < 0.75:  # forward
            a = {"shoulder_bend": between(rng, 55, 110), "shoulder_spread": between(rng, -10, 30)}
        else:  # to the side
            a = {"shoulder_bend": between(rng, -5, 40), "shoulder_spread": between(rng, 65, 120)}
        set_side(angles, side, **a, elbow_bend=between(rng, 0, 55), shoulder_turn=between(rng, -30, 30))
    if rng.random() < 0.3:  # down to the ground or a shelf
        angles["spine_bend"] = between(rng, 20, 70)
        angles["neck_bend"] = between(rng, -35, 5)
        tilt = stance.tilt @ about_x(-between(rng, 5, 40))
        reach = build.leg * between(rng, 0.85, 0.98)
        for side in SIDES:
            set_leg(
                angles,
                build,
                side,
                (build.hip * between(rng, 0.8, 2), build.leg * between(rng, -0.1, 0.2)),
                reach + build.ankle,
                tilt,
            )
        return Stance("reaching", angles, tilt)
    return Stance("reaching", angles, stance.tilt)


def crouching(rng, build):
    """Deep in the knees, or a lunge as in sports."""
    angles = neutral()
    easy_trunk(rng, angles)
    angles["spine_bend"] += between(rng, 0, 30)
    tilt = about_x(-between(rng, 0, 28))
    height = build.leg * between(rng, 0.5, 0.85) + build.ankle
    apart = build.leg * between(rng, 0, 0.5)
    first, second = side_first(rng)
    for side, sign in ((first, 1), (second, -1)):
        foot = build.hip * between(rng, 0.9, 3.5), sign * apart + build.leg * 0.05
        set_leg(angles, build, side, foot, height, tilt, between(rng, 0, 30) if sign < 0 else 0)
        easy_arm(rng, angles, side)
        angles[f"{side}_shoulder_bend"] += between(rng, 0, 60)
    return Stance("crouching", angles, tilt)


def jumping(rng, build):
    """In the air: tucked, stretched, or like a jumping jack."""
    angles = neutral()
    easy_trunk(rng, angles)
    jack, up = rng.random() < 0.35, between(rng, 20, 170)
    for side in SIDES:
        spread = between(rng, 50, 140) if jack else between(rng, 10, 60)
        a = {"shoulder_bend": between(rng, -10, 25) if jack else up + between(rng, -25, 25), "shoulder_spread": spread}
        a |= {"elbow_bend": between(rng, 0, 70), "shoulder_turn": between(rng, -30, 30)}
        bend = between(rng, -12, 15) if jack else between(rng, -15, 85)
        a |= {"hip_bend": bend, "hip_spread": between(rng, 15, 40) if jack else between(rng, 0, 22)}
        a |= {"knee_bend": between(rng, 0, 30) if jack else max(bend, 0) + between(rng, 5, 55)}
        set_side(angles, side, **a, ankle_bend=between(rng, -45, -10), elbow_turn=between(rng, -30, 30))
    return Stance("jumping", angles, about_x(between(rng, -15, 12)), lift=between(rng, 0.08, 0.5) * build.height / 1.75)


def lying(rng, build):
    """On the back, the belly or a side."""
    angles = neutral()
    easy_trunk(rng, angles, 0.4)
    kind = rng.random()
    if kind < 0.55:  # on the back, knees perhaps up
        tilt, lowest, highest = about_x(between(rng, 84, 94)), 0, 55
    elif kind < 0.75:
        tilt, lowest, highest = about_x(between(rng, -94, -86)), -6, 6
    else:
        side = 1 if rng.random() < 0.5 else -1
        tilt, lowest, highest = about_y(side * between(rng, 80, 96)), 0, 60
    for side in SIDES:
        bend = between(rng, lowest, highest) if rng.random() < 0.6 else between(rng, lowest, min(highest, 8))
        a = {
            "hip_bend": bend,
            "knee_bend": max(2 * bend - 6, 0) + between(rng, 0, 12),
            "hip_spread": between(rng, 2, 16),
        }
        a |= {"ankle_bend": between(rng, -35, -5), "elbow_bend": between(rng, 4, 80)}
        if kind < 0.75:
            a |= {
                "shoulder_spread": between(rng, 6, 130),
                "shoulder_bend": between(rng, 0, 12),
                "shoulder_turn": between(rng, 10, 65),
            }
            if kind >= 0.55:  # nothing may push the chest off the ground
                a |= {
                    "shoulder_spread": between(rng, 6, 165),
                    "shoulder_bend": between(rng, -14, -2),
                    "elbow_bend": between(rng, 0, 22),
                }
        else:  # both arms before the body
            a |= {
                "shoulder_spread": between(rng, -15, 8),
                "shoulder_bend": between(rng, 25, 100),
                "hip_spread": between(rng, -3, 6),
            }
        set_side(angles, side, **a)
    return Stance("lying", angles, tilt)


POSES = {
    standing: 0.26,
    walking: 0.25,
    sitting: 0.14,
    reaching: 0.14,
    crouching: 0.08,
    jumping: 0.08,
    lying: 0.05,
}  # how often each is drawn


def draw_stance(rng, build, chances=POSES):
    """A random pose for this body, every angle within its joint's limits."""
    edges = np.cumsum(list(chances.values()))
    i = int(np.searchsorted(edges, rng.random() * edges[-1], side="right"))
    stance = list(chances)[min(i, len(edges) - 1)](rng, build)
    return Stance(stance.name, within_limits(stance.angles), stance.tilt, stance.lift, stance.seat)
