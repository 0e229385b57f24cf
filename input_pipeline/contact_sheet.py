"""Contact sheets: labelled pictures in a grid, to look at many of them at once."""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from input_pipeline.images import to_uint8

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

    _Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_PAPER = (252, 252, 250)
_MAT = (236, 236, 233)
_RULE = (205, 205, 200)
_INK = (34, 34, 38)
_MAX_LABEL_LINES = 6
_MAX_LABEL_LETTERS = 2000
_LETTERS_OF_FONT = frozenset(map(chr, range(32, 127))) | {"\u2019", "\u201c", "\u201d"}
_NEAR_LETTERS = str.maketrans({"\u2013": "-", "\u2014": "-", "\u00d7": "x", "\u2018": "'"})


@dataclass(frozen=True)
class Picture:
    """One cell of a contact sheet: its label and its pixels in 0..255.

    Which range an array has cannot be told from its values, so each kind has its constructor.
    """

    label: str
    pixels: UInt8[np.ndarray, "h w 3"]

    def __post_init__(self) -> None:
        pixels = np.asarray(self.pixels)
        if pixels.dtype != np.uint8 or pixels.shape[2:] != (3,) or 0 in pixels.shape:
            raise ValueError(
                f"picture {self.label!r} has shape {pixels.shape} and type {pixels.dtype}, "
                "expected uint8 [h w 3]; "
                "make it with Picture.photo, Picture.depth_map or Picture.mask"
            )

    @classmethod
    def photo(cls, label: str, photo: Float[np.ndarray, "h w 3"]) -> Picture:
        """Return the cell of a photo in [-1, 1]."""
        return cls(label, to_uint8(photo))

    @classmethod
    def depth_map(cls, label: str, depth_map: Float[np.ndarray, "h w 3"]) -> Picture:
        """Return the cell of a depth, edge or normal map in [0, 1]."""
        values = np.asarray(depth_map)
        if values.dtype.kind not in "bf":
            raise ValueError(
                f"picture {label!r} has type {values.dtype}, expected floats in [0, 1] or bool; "
                "give uint8 pixels to Picture itself"
            )
        return cls(label, to_uint8(values * np.float32(2) - 1))

    @classmethod
    def mask(cls, label: str, mask: Float[np.ndarray, "h w"]) -> Picture:
        """Return the cell of a one-channel mask or depth map in [0, 1], or of a bool mask."""
        mask = np.asarray(mask)
        if mask.ndim != 2:
            raise ValueError(f"picture {label!r} has shape {mask.shape}, expected [h w]")
        return cls.depth_map(label, np.repeat(mask[..., None], 3, axis=-1))


@dataclass(frozen=True)
class _Layout:
    """Distances of a sheet in pixels, all in proportion to its cells."""

    cell: int
    gap: int
    margin: int
    label_font: _Font
    title_font: _Font

    @classmethod
    def of_cell(cls, cell: int) -> _Layout:
        label_size = min(max(cell / 18, 10), 24)
        return cls(
            cell=cell,
            gap=max(cell // 16, 6),
            margin=max(cell // 10, 10),
            label_font=ImageFont.load_default(label_size),
            title_font=ImageFont.load_default(label_size * 1.5),
        )

    def line_height(self, font: _Font) -> int:
        """Return the distance from one line of text to the next."""
        return round(font.getbbox("Alg|")[3] * 1.25)


def contact_sheet(
    rows: Sequence[Sequence[Picture | None]], *, cell: int = 256, title: str | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """Return one picture with all pictures in a grid, each above its label.

    Args:
        rows: Pictures from left to right; None leaves a cell empty, rows may differ in length.
        cell: Side of the square that each picture is fitted in, whole, at least 32.
        title: Text above the grid.

    Raises:
        ValueError: If there is no picture or the cells are too small for a label.
    """
    if cell < 32 or not any(picture for row in rows for picture in row):
        count = sum(picture is not None for row in rows for picture in row)
        raise ValueError(
            f"a contact sheet of {count} pictures in cells of {cell}: expected at least one "
            "picture and cells of at least 32 pixels"
        )
    layout = _Layout.of_cell(cell)
    columns = max(len(row) for row in rows)
    width = 2 * layout.margin + columns * cell + (columns - 1) * layout.gap
    title_lines = _wrap(title or "", layout.title_font, width - 2 * layout.margin)
    labels = [
        [_wrap(picture.label, layout.label_font, cell) if picture else [] for picture in row]
        for row in rows
    ]
    title_height = _text_height(title_lines, layout, layout.title_font)
    row_heights = [
        cell + _text_height(max(row, key=len, default=[]), layout, layout.label_font)
        for row in labels
    ]
    height = 2 * layout.margin + title_height + sum(row_heights) + layout.gap * (len(rows) - 1)
    sheet = Image.new("RGB", (width, height), _PAPER)
    _draw_lines(sheet, title_lines, (layout.margin, layout.margin), layout, layout.title_font)
    top = layout.margin + title_height
    for row, row_labels, row_height in zip(rows, labels, row_heights, strict=True):
        for column, (picture, lines) in enumerate(zip(row, row_labels, strict=True)):
            if picture is not None:
                left = layout.margin + column * (cell + layout.gap)
                _draw_picture(sheet, picture, (left, top), cell)
                text_top = top + cell + layout.gap // 2
                _draw_lines(sheet, lines, (left, text_top), layout, layout.label_font)
        top += row_height + layout.gap
    return np.array(sheet)


def _text_height(lines: list[str], layout: _Layout, font: _Font) -> int:
    """Return the room that lines of text take, with the gap that parts them from a picture."""
    return len(lines) * layout.line_height(font) + layout.gap // 2 if lines else 0


def _draw_picture(sheet: Image.Image, picture: Picture, corner: tuple[int, int], cell: int) -> None:
    """Draw a picture whole on a square mat with a thin frame, which white skies need."""
    left, top = corner
    image = Image.fromarray(np.ascontiguousarray(picture.pixels))
    scale = cell / max(image.size)
    width, height = (max(round(n * scale), 1) for n in image.size)
    resample = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
    fitted = image.resize((width, height), resample)
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((left - 1, top - 1, left + cell, top + cell), fill=_MAT, outline=_RULE)
    sheet.paste(fitted, (left + (cell - width) // 2, top + (cell - height) // 2))


def _draw_lines(
    sheet: Image.Image,
    lines: list[str],
    corner: tuple[int, int],
    layout: _Layout,
    font: _Font,
) -> None:
    """Draw lines of text downwards from a corner."""
    draw = ImageDraw.Draw(sheet)
    left, top = corner
    for index, line in enumerate(lines):
        draw.text((left, top + index * layout.line_height(font)), line, fill=_INK, font=font)


def _wrap(text: str, font: _Font, width: int) -> list[str]:
    """Return text in lines no wider than `width`; what exceeds six lines ends in an ellipsis."""
    # No more than this fits, and measuring a text of a megabyte would take minutes.
    letters = _in_font(text[:_MAX_LABEL_LETTERS])[:_MAX_LABEL_LETTERS]
    is_cut = len(text) > _MAX_LABEL_LETTERS
    lines = [
        line for paragraph in letters.splitlines() for line in _wrap_words(paragraph, font, width)
    ]
    if is_cut or len(lines) > _MAX_LABEL_LINES:
        last = lines[:_MAX_LABEL_LINES][-1]
        while last and font.getlength(last + "...") > width:
            last = last[:-1]
        lines = [*lines[: _MAX_LABEL_LINES - 1], last.rstrip() + "..."]
    return lines


def _in_font(text: str) -> str:
    """Return text in the letters that Pillow's own font has: no accents, `?` for other scripts."""
    letters = unicodedata.normalize("NFKD", text.translate(_NEAR_LETTERS))
    return "".join(
        letter if letter in _LETTERS_OF_FONT or letter.isspace() else "?"
        for letter in letters
        if not unicodedata.combining(letter)
    )


def _wrap_words(paragraph: str, font: _Font, width: int) -> list[str]:
    """Return the lines of a paragraph, broken between words and inside those that are too wide."""
    lines: list[str] = []
    line = ""
    for word in paragraph.split():
        joined = f"{line} {word}" if line else word
        if font.getlength(joined) <= width:
            line = joined
            continue
        if line:
            lines.append(line)
        line = word
        while font.getlength(line) > width:
            fitting = max(_longest_prefix(line, font, width), 1)
            lines.append(line[:fitting])
            line = line[fitting:]
    return [*lines, line] if line else lines


def _longest_prefix(word: str, font: _Font, width: int) -> int:
    """Return how many first letters of a word are no wider than `width`."""
    lengths = range(1, len(word) + 1)
    return bisect_right(lengths, width, key=lambda count: font.getlength(word[:count]))
