"""Draws docs/mask_rules.png: which layer owns a cell under each rule, at each resolution.

python docs/figures/mask_rules.py
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw

from cnc_jax.soft_guidance import MaskRule, layer_shares
from input_pipeline.contact_sheet import Picture, contact_sheet
from input_pipeline.images import write_png

SIZE = 512
LEVELS = (64, 32, 16, 8)


def object_mask() -> np.ndarray:
    """Returns the mask of a ball, a thin pole and a small far ball, drawn at 512 x 512."""
    image = Image.new("L", (SIZE, SIZE))
    draw = ImageDraw.Draw(image)
    draw.ellipse((80, 210, 300, 430), fill=255)
    draw.line((390, 90, 410, 430), fill=255, width=14)
    draw.ellipse((150, 60, 200, 110), fill=255)
    return np.asarray(image, np.float32) / 255


def main() -> None:
    """Writes the picture."""
    mask = object_mask()
    rows = []
    for rule in get_args(MaskRule):
        row = [Picture.mask("the mask, 512 x 512", mask)]
        for level in LEVELS:
            shares = layer_shares(jnp.asarray(mask)[None, None], (level, level), rule)
            cells = np.kron(np.asarray(shares[0, 0]), np.ones((SIZE // level, SIZE // level)))
            row.append(Picture.mask(f"{rule}, {level} x {level}", cells.astype(np.float32)))
        rows.append(row)
    write_png(Path(__file__).parents[1] / "mask_rules.png", contact_sheet(rows, cell=200))


if __name__ == "__main__":
    main()
