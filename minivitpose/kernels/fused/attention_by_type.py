"""Attention in float32 or in pairs of bfloat16, as qkv holds the one or the other."""

import numpy as np

from minivitpose.kernels.amx import SIDE
from minivitpose.kernels.blocks import STRIP
from minivitpose.kernels.fused import attention as in_floats
from minivitpose.kernels.fused import attention_in_pairs as in_pairs
from minivitpose.kernels.jit import by_type, holds
from minivitpose.kernels.micro_kernel import COLUMNS
from minivitpose.kernels.simd import aligned


def has_whole_blocks(tokens, d):
    """Whether heads of d channels of so many tokens fill whole blocks; if so, qkv may hold bfloat16."""
    return not tokens % STRIP and not d % SIDE


def new_keys(heads, tokens, d, pairs):
    """Room for what prepare_keys makes of so many heads, those of all crops."""
    if pairs:
        return aligned(heads * sum(in_pairs.rows_of_head(tokens, d)), COLUMNS, dtype=np.uint32)
    return aligned(heads * -(-tokens // COLUMNS) * d, COLUMNS)


@by_type
def prepare_keys(counters, step, qkv, crops, tokens, heads, d, keys):
    return in_pairs.prepare_pairs if holds(qkv, np.uint16) else in_floats.prepare_keys


@by_type
def attention(counters, step, threads, qkv, crops, tokens, heads, d, scale, keys, scores, z):
    return in_pairs.attention_in_pairs if holds(qkv, np.uint16) else in_floats.attention
