"""What our HTML pages are made of: one file each, with everything in it, which opens offline."""

from __future__ import annotations

import base64
import html
import io
from typing import Any

import numpy as np
from PIL import Image

_STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2rem auto; max-width: 1500px; padding: 0 1rem;
  color: #222; background: #fafafa }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse } td, th { padding: .15rem .8rem .15rem 0; text-align: left }
.good { color: #06632b } .bad { color: #a3000f }
figure { margin: 0 } figcaption { font-size: .8rem; color: #555 }
pre { background: #f0f0f0; padding: .6rem; overflow-x: auto; white-space: pre-wrap }
img { max-width: 100% } svg text { font-size: 10px; fill: #555 }
"""


def document(title: str, body: str, style: str = "") -> str:
    """Returns a page.

    Args:
      title: of the page, as plain text.
      body: HTML.
      style: rules beside those that all pages share.
    """
    head = f'<meta charset="utf-8"><title>{text(title)}</title><style>{_STYLE}{style}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n{body}\n</body></html>\n'


def text(value: Any) -> str:
    """Returns a value as HTML that shows it.

    Args:
      value: anything.
    """
    return html.escape(str(value))


def thumbnail(pixels: np.ndarray, side: int) -> str:
    """Returns a picture as a `data:` address, its longer side of a size.

    Args:
      pixels: uint8 [h w 3].
      side: in pixels; small pictures are enlarged without blur, so that each pixel can be seen.
    """
    picture = Image.fromarray(pixels)
    factor = side / max(picture.size)
    width, height = (max(1, round(length * factor)) for length in picture.size)
    method = Image.Resampling.NEAREST if factor > 1 else Image.Resampling.LANCZOS
    buffer = io.BytesIO()
    picture.resize((width, height), method).save(buffer, "PNG")
    return png_address(buffer.getvalue())


def png_address(png: bytes) -> str:
    """Returns a PNG file as a `data:` address.

    Args:
      png: the file.
    """
    return "data:image/png;base64," + base64.b64encode(png).decode()
