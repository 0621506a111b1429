"""The five families of programs that run ViTPose, and which crop, decoder and flip test makes the same numbers.

A model gives its best with the pipeline that it was trained with; to repeat another program's numbers, take its own.
How they differ, step by step and in pixels: ``docs/pipelines.md``.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Pipeline:
    """What stands around the network: the modes of ``crop`` and ``decode``; whether the flip test shifts a column."""

    name: str
    crop: str
    decode: str
    shift: bool


PIPELINES = {
    p.name: p
    for p in (
        # ViTPose, for COCO and MPII: unbiased crop (UDP), blur of sigma 2 reflected at the border, Newton step
        Pipeline("udp", "udp", "udp", False),
        # ViTPose, for the other sets: pixels at u of W instead of W - 1, quarter steps, shifted flip test
        Pipeline("plain", "plain", "plain", True),
        # mmpose 1.x: as "udp", but the blur has zeros beyond the border and keeps the maximum
        Pipeline("mmpose", "udp", "mmpose", False),
        # transformers: black from the border on, where "udp" fades; blur of sigma 0.8; for every dataset
        Pipeline("hf", "hf", "hf", False),
        # easy_ViTPose: whole pixels, 10 more a side, padded, resized; decoded as "udp", half a pixel off; every dataset
        Pipeline("easy", "easy", "easy", False),
    )
}
