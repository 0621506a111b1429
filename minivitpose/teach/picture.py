"""Where the error lies: a small picture, one square an element."""

import base64
import io

import numpy as np
from PIL import Image

WRONG = (213, 94, 0)  # Okabe and Ito's vermilion, which shows on white and on black; the error is its opacity
FAINT = 60  # of 255: the smallest error that counts can still be seen
LEAST, PANELS, WIDE, GAP = 9, 6, 420, 6  # elements; panels beside each other; pixels


def error_picture(error):
    """HTML with an image of an Error, or "" where a picture tells no more than the text.

    The last two axes are rows and columns, those before them panels, of which the first few are shown.
    """
    if error.off.ndim < 2 or error.off.size < LEAST:
        return ""
    panels = error.off.reshape(-1, *error.off.shape[-2:])
    shown = panels[:PANELS]
    size = int(np.clip(WIDE / (len(shown) * panels.shape[2]), 1, 14))
    image = np.concatenate([panel_pixels(panel, error.allowed, error.largest, size) for panel in shown], axis=1)
    text = f"rows are axis {error.off.ndim - 2}, columns axis {error.off.ndim - 1}"
    text += "; side by side the axes before them" if len(panels) > 1 else ""
    text += f", the first {len(shown)} of {len(panels)}" if len(panels) > len(shown) else ""
    caption = f"Where the error lies: {text}. Fuller orange is more wrong, without colour is right."
    return f"<div>{img(image, caption)}<br><small>{caption}</small></div>"


def panel_pixels(off, allowed, largest, size):
    """One panel with a frame: (rows size + 2, columns size + 2 + GAP, 4) uint8 RGBA."""
    share = off / largest if np.isfinite(largest) else np.isinf(off)
    opacity = np.where(off > allowed, FAINT + (255 - FAINT) * share, 0)
    pixels = np.zeros((*off.shape, 4), np.uint8)
    pixels[..., :3], pixels[..., 3] = WRONG, opacity
    pixels = pixels.repeat(size, axis=0).repeat(size, axis=1)
    framed = np.full((pixels.shape[0] + 2, pixels.shape[1] + 2, 4), 128, np.uint8)
    framed[1:-1, 1:-1] = pixels
    return np.pad(framed, ((0, 0), (0, GAP), (0, 0)))


def img(pixels, text):
    """RGBA pixels as an <img> that carries its own data."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png", optimize=True)
    return f'<img alt="{text}" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
