"""Mistakes on the way from the image to tokens and back to a map."""

import numpy as np

from minivitpose.layers import conv2d, patch_embed
from minivitpose.teach.mistakes.table import mistake


@mistake(
    "patch_embed",
    "no padding",
    "the image is not padded",
    "ViTPose pads it with 2 zeros on each side before it cuts patches, as in training.",
)
def _(images, weight, bias):
    return conv2d(images, weight, bias, weight.shape[2], 0)


@mistake(
    "patch_embed",
    "padding on one side",
    "all of the padding is put before the first row and column",
    "Put 2 on each side: np.pad(images, ((0, 0), (0, 0), (2, 2), (2, 2))).",
)
def _(images, weight, bias):
    return conv2d(np.pad(images, ((0, 0), (0, 0), (4, 0), (4, 0))), weight, bias, weight.shape[2])


@mistake(
    "patch_embed",
    "wrong stride",
    "the patches overlap, by half",
    "The stride is the patch size, weight.shape[2]: each next patch begins where one ends.",
)
def _(images, weight, bias):
    return conv2d(images, weight, bias, weight.shape[2] // 2, 2)


@mistake(
    "patch_embed",
    "kernel flipped",
    "the kernel is flipped, as a mathematician's convolution does",
    "Do not flip: multiply pixel (a, b) of the patch by weight[..., a, b].",
)
def _(images, weight, bias):
    return patch_embed(images, weight[:, :, ::-1, ::-1], bias)


@mistake(
    "patch_embed",
    "rows and columns swapped",
    "the patch is laid out by columns, the kernel by rows",
    "Keep the axes of both in the order channel, row, column before you flatten them.",
)
def _(images, weight, bias):
    return patch_embed(images, weight.swapaxes(2, 3), bias)


@mistake(
    "patch_embed",
    "colours in the wrong order",
    "red and blue are swapped (BGR)",
    "The weights are for RGB: leave the order of the channels as it is.",
)
def _(images, weight, bias):
    return patch_embed(images, weight[:, ::-1], bias)


@mistake("patch_embed", "missing bias", "the bias is left out", "Add bias[c] to every number of channel c.")
def _(images, weight, bias):
    return patch_embed(images, weight)


@mistake(
    "to_tokens",
    "reshaped without transposing",
    "(B, C, Hp, Wp) is reshaped straight to (B, N, C): the shape fits, yet a row mixes patches",
    "Flatten to (B, C, N) first, then swap the last two axes.",
)
def _(x):
    return x.reshape(len(x), -1, x.shape[1])


@mistake(
    "to_tokens",
    "patches by columns",
    "the patches are read down the columns",
    "Read along the rows: Wp is the axis that changes fastest.",
)
def _(x):
    return x.transpose(0, 3, 2, 1).reshape(len(x), -1, x.shape[1])


@mistake(
    "to_tokens",
    "channels first",
    "the result stays (B, C, N)",
    "Swap the last two axes: a token is a row, its channels are the columns.",
)
def _(x):
    return x.reshape(*x.shape[:2], -1)


@mistake(
    "positions",
    "slot 0 forgotten",
    "slot 0 is left out",
    "It belonged to a class token that ViTPose has not, yet it is added to every token.",
)
def _(x, pos_embed):
    return x + pos_embed[:, 1:]


@mistake(
    "positions",
    "slot 0 as a token",
    "slot 0 goes in front as a token of its own",
    "ViTPose has no class token: add slot 0 to all N tokens.",
)
def _(x, pos_embed):
    first = np.broadcast_to(pos_embed[:, :1], (len(x), 1, x.shape[2]))
    return np.concatenate([first, x + pos_embed[:, 1:]], axis=1)


@mistake(
    "positions",
    "positions off by one",
    "token n gets slot n",
    "Slot 0 is not a place: token n stands at slot n + 1, and gets slot 0, too.",
)
def _(x, pos_embed):
    return x + pos_embed[:, :-1]


@mistake(
    "positions",
    "positions off by one, the last for all",
    "the last slot is taken for that of the class token",
    "Slot 0 is: x + pos_embed[:, 1:] + pos_embed[:, :1].",
)
def _(x, pos_embed):
    return x + pos_embed[:, :-1] + pos_embed[:, -1:]


@mistake(
    "to_map",
    "reshaped without transposing",
    "(B, N, C) is reshaped straight to (B, C, Hp, Wp): the shape fits, a channel's map mixes channels",
    "First swap the last two axes to (B, C, N), then reshape.",
)
def _(x, grid):
    return x.reshape(len(x), x.shape[2], *grid)


@mistake(
    "to_map",
    "rows and columns swapped",
    "the tokens fill the map down its columns",
    "They are in reading order: reshape to (B, C, Hp, Wp), rows first.",
)
def _(x, grid):
    return x.transpose(0, 2, 1).reshape(len(x), -1, *grid[::-1]).swapaxes(2, 3)
