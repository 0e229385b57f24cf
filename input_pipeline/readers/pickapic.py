"""Pick-a-Pic v1: pairs of generated images, of which a person preferred one, in parquet files.

The prompts come from the public: without a filter many pictures are not fit for everybody. The
default filter is that of Compose and Conquer, which takes the preferred image of each pair and
leaves out prompts of less than three words or with a word of its list, among them common ones
such as "woman" and "girl".
"""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NamedTuple

from input_pipeline.readers.examples import PHOTO_FIELDS, photo_record, place
from input_pipeline.readers.layout import Layout, Tally, clean_caption, digest
from input_pipeline.readers.pictures import stored_photo
from input_pipeline.schema import Record, RecordError

Tie = Literal["first", "second", "drop"]
_TIES: tuple[Tie, ...] = ("first", "second", "drop")
_TEXT_COLUMNS = ("caption", "label_0", "label_1", "image_0_uid", "image_1_uid")
_IMAGE_COLUMNS = ("jpg_0", "jpg_1")
_LAYOUT = f"""\
  FOLDER/*.parquet      the data set's files, with the columns
                        {", ".join(_TEXT_COLUMNS)},
                        {", ".join(_IMAGE_COLUMNS)}"""


class _Row(NamedTuple):
    """Where an image lies and what is said of it."""

    file: int
    group: int
    row: int
    column: str
    uid: str
    caption: str


class PickAPicReader:
    """A record source: one record for each image that was preferred, in the order of the files.

    Only the texts are read at first. A row group's images are read when one of them is asked for
    and kept for the next, so read records in order, or shuffle within what fits `cached_columns`.

    Args:
      folder: of the parquet files, such as those of one split.
      stop_words: prompts with one of them are left out; compared in lower case with what stands
        between spaces, colons removed. None takes upstream's list, () none.
      min_words: prompts with fewer words are left out.
      tie: which image of a pair counts if none was preferred: "second" as upstream, "first", or
        "drop" to leave it out.
      name: of the data set.
      cached_columns: how many columns of images to keep in memory; a row group has two.

    Raises:
      LayoutError: files are missing, or are no such files; or no record is left.
      ImportError: pyarrow is not installed.
    """

    fields = PHOTO_FIELDS
    palette = None

    def __init__(
        self,
        folder: str | Path,
        stop_words: Collection[str] | None = None,
        *,
        min_words: int = 3,
        tie: Tie = "second",
        name: str = "pickapic",
        cached_columns: int = 4,
    ) -> None:
        if tie not in _TIES:
            raise ValueError(f"tie is {tie!r}, expected one of {list(_TIES)}")
        if isinstance(stop_words, str):
            raise ValueError(f"stop_words is the text {stop_words!r}, expected a list of words")
        self.name = name
        words = upstream_stop_words() if stop_words is None else stop_words
        choice = _Choice(frozenset(word.lower() for word in words), min_words, tie)
        layout, tally = Layout(name, _LAYOUT), Tally()
        names = sorted(n for n in layout.file_names(folder) if n.endswith(".parquet"))
        if not names:
            layout.note(f"folder {folder} holds no parquet file")
        self._paths = tuple(str(Path(folder) / file_name) for file_name in names)
        rows: dict[str, _Row] = {}
        for file, path in enumerate(self._paths):
            for row in _file_rows(file, path, choice, layout, tally):
                if row.uid in rows:
                    tally.add("duplicate image", row.uid)
                else:
                    rows[row.uid] = row
        layout.check()
        layout.check_any(rows, tally)
        self._rows = tuple(rows.values())
        self._columns = _Columns(cached_columns)
        self.left_out, self.left_out_examples = tally.counts, tally.examples
        self.contents = digest(tuple(row) for row in self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Record:
        row = self._rows[index]
        path = self._paths[row.file]
        where = place(
            self.name, row.uid, f"{path}, row {row.row} of group {row.group}, {row.column}"
        )
        data = self._columns.value(path, row, where)
        return photo_record(self.name, row.uid, (row.caption,), stored_photo(data, where))


@functools.cache
def upstream_stop_words() -> tuple[str, ...]:
    """Returns the words by which Compose and Conquer filters prompts."""
    file = resources.files("input_pipeline") / "data" / "pickapic_stop_words.txt"
    return tuple(file.read_text(encoding="utf-8").split())


class _Choice(NamedTuple):
    """Which prompts and images are taken."""

    stop_words: frozenset[str]
    min_words: int
    tie: Tie

    def reason_against(self, caption: str) -> str | None:
        """Returns why a prompt is left out, or None."""
        # Upstream removes colons from prompts. Here they stay, but the choice is the same.
        words = caption.replace(":", "").lower().split()
        if not words:
            return "no caption"
        if not self.stop_words.isdisjoint(words):
            return "filtered by stop word"
        return f"fewer than {self.min_words} words" if len(words) < self.min_words else None

    def image(self, first: float | None, second: float | None) -> int | None:
        """Returns which image of a pair is taken, 0 or 1, or None for neither."""
        if first is not None and second is not None and first != second:
            # Unlabelled pairs may have NaN, which is neither more nor less: they are ties.
            if first > second:
                return 0
            if first < second:
                return 1
        return {"first": 0, "second": 1, "drop": None}[self.tie]


class _Columns:
    """The columns of row groups that were used last.

    Args:
      capacity: how many are kept.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = max(1, capacity)
        self._kept: OrderedDict[tuple[str, int, str], Any] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Columns, (self._capacity,)

    def value(self, path: str, row: _Row, where: str) -> bytes:
        """Returns the image of a row.

        Raises:
          RecordError: it cannot be read, or there is none.
        """
        try:
            value = self._column(path, row.group, row.column)[row.row].as_py()
        # pyarrow's errors derive from these.
        except (OSError, ValueError, LookupError, TypeError, NotImplementedError) as error:
            raise RecordError(f"{where} cannot be read: {error}") from error
        if not isinstance(value, bytes) or not value:
            raise RecordError(f"{where} holds no image")
        return value

    def _column(self, path: str, group: int, column: str) -> Any:
        key = (path, group, column)
        with self._lock:
            if key not in self._kept:
                with _parquet().ParquetFile(path) as file:
                    table = file.read_row_group(group, columns=[column])
                self._kept[key] = table.column(column)
            self._kept.move_to_end(key)
            while len(self._kept) > self._capacity:
                self._kept.popitem(last=False)
            return self._kept[key]


def _file_rows(
    file: int, path: str, choice: _Choice, layout: Layout, tally: Tally
) -> Iterator[_Row]:
    """Yields the rows of a file that are taken."""
    try:
        with _parquet().ParquetFile(path) as parquet_file:
            missing = {*_TEXT_COLUMNS, *_IMAGE_COLUMNS} - set(parquet_file.schema_arrow.names)
            if missing:
                layout.note(f"file {path} has no columns {', '.join(sorted(missing))}")
                return
            for group in range(parquet_file.num_row_groups):
                table = parquet_file.read_row_group(group, columns=list(_TEXT_COLUMNS))
                yield from _group_rows(file, group, table.to_pylist(), choice, tally)
    except (OSError, ValueError, NotImplementedError) as error:
        layout.note(f"file {path} cannot be read: {error}")


def _group_rows(
    file: int, group: int, rows: list[dict[str, Any]], choice: _Choice, tally: Tally
) -> Iterator[_Row]:
    for number, row in enumerate(rows):
        caption = clean_caption(row["caption"] or "")
        reason = choice.reason_against(caption)
        image = choice.image(row["label_0"], row["label_1"])
        uid = row[f"image_{image or 0}_uid"]
        if reason is None and image is None:
            reason = "no preference"
        if reason is None and not uid:
            reason = "no image id"
        if reason is not None:
            tally.add(reason, uid or f"row {number} of group {group}")
        else:
            yield _Row(file, group, number, _IMAGE_COLUMNS[image or 0], uid, caption)


def _parquet() -> Any:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError(
            "reading Pick-a-Pic needs pyarrow, which is not installed; "
            'install the extra of this project that brings it: pip install ".[prepare]"'
        ) from error
    return parquet
