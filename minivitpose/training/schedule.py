"""The learning rate over the steps of a training, as a factor from 0 to 1."""

import math


def schedule(step, steps, warm_up=0, kind="cosine", final=0.0, stay=0.75, drops=(170 / 210, 200 / 210), drop=0.1):
    """The factor for step 0 .. steps - 1.

    Warm-up rises linearly over the first ``warm_up`` steps, from nearly nothing. Then "cosine" falls along half a wave
    to ``final``; "step" multiplies by ``drop`` at each of the shares ``drops`` of all steps, by default where ViTPose's
    own configs do, after epochs 170 and 200 of 210; "constant" stays; "linear" stays until the share ``stay`` of all
    steps and falls along a line to ``final``. Raises ValueError for another kind.
    """
    if step < warm_up:
        return (step + 1) / (warm_up + 1)
    if kind == "cosine":
        done = (step - warm_up) / max(1, steps - warm_up)
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    if kind == "step":
        return drop ** sum(step >= share * steps for share in drops)
    if kind == "constant":
        return 1.0
    if kind == "linear":
        done = (step - stay * steps) / max(1, (1 - stay) * steps)
        return 1 - (1 - final) * min(1.0, max(0.0, done))
    raise ValueError(f"unknown schedule {kind!r}: expected 'cosine', 'step', 'linear' or 'constant'")
