"""Attention on vectors or on the matrix unit, as qkv holds float32 or bfloat16."""

import numpy as np

from minivitpose.kernels.amx import AMX, SIDE
from minivitpose.kernels.fused import attention as on_vectors
from minivitpose.kernels.fused import attention_in_blocks as in_blocks
from minivitpose.kernels.jit import by_type, holds
from minivitpose.kernels.micro_kernel import COLUMNS
from minivitpose.kernels.simd import aligned


def has_whole_blocks(tokens, d):
    """Whether the matrix unit can take heads of d channels of so many tokens; if so, qkv may hold bfloat16."""
    return AMX and not tokens % SIDE and not d % SIDE


def new_keys(heads, tokens, d, blocks):
    """Room for what prepare_keys makes of so many heads, those of all crops."""
    if blocks:
        return aligned(heads * sum(in_blocks.rows_of_head(tokens, d)), COLUMNS, dtype=np.uint32)
    return aligned(heads * -(-tokens // COLUMNS) * d, COLUMNS)


@by_type
def prepare_keys(counters, step, qkv, crops, tokens, heads, d, keys):
    return in_blocks.prepare_pairs if holds(qkv, np.uint16) else on_vectors.prepare_keys


@by_type
def attention(counters, step, threads, qkv, crops, tokens, heads, d, scale, keys, scores, z):
    return in_blocks.attention_in_blocks if holds(qkv, np.uint16) else on_vectors.attention
