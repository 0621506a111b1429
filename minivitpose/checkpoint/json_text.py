"""JSON out of a file that nobody vouches for: bounded in depth, each key once, no endless numbers."""

import json
import re

from minivitpose.checkpoint.errors import DAMAGED, CheckpointError, quoted

MAX_BRACKETS = 100_000  # a header of safetensors has six for each tensor
QUOTED = re.compile(r'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)


def parse_object(data: bytes | memoryview, what: str, deepest: int) -> dict:
    """The JSON object in `data`. what: its name in messages. Raises CheckpointError for anything else."""
    try:
        text = str(data, "utf-8")
        check_nesting(text, what, deepest)
        entries = json.loads(
            text,
            object_pairs_hook=lambda pairs: unique(pairs, what),
            parse_constant=lambda name: refuse_constant(name, what),
        )
    except ValueError as error:  # not UTF-8, not JSON, or an endless number
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{what} is not valid JSON: {error}", fix=DAMAGED) from None
    if not isinstance(entries, dict):
        raise CheckpointError(f"{what} is not a JSON object", fix=DAMAGED)
    return entries


def check_nesting(text: str, what: str, deepest: int) -> None:
    """Raises CheckpointError if brackets are nested deeper than `deepest`, or there are absurdly many."""
    brackets = re.findall(r"[\[\]{}]", QUOTED.sub("", text))
    if len(brackets) > MAX_BRACKETS:
        raise CheckpointError(f"{what} is absurdly long", found=f"{len(brackets)} brackets", fix=DAMAGED)
    depth = 0
    for bracket in brackets:
        depth += 1 if bracket in "[{" else -1
        if depth > deepest:
            raise CheckpointError(f"{what} is nested too deeply", expected=f"{deepest} levels at most", fix=DAMAGED)


def unique(pairs: list[tuple[str, object]], what: str) -> dict:
    entries = {}
    for name, value in pairs:
        if name in entries:
            raise CheckpointError(f"{what} has the key {quoted(name)} twice", fix=DAMAGED)
        entries[name] = value
    return entries


def refuse_constant(name: str, what: str) -> None:
    raise CheckpointError(f"{what} has the number {name}", fix=DAMAGED)
