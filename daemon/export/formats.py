"""The formats of an export. Each gets the columns, then chunks of rows. `close` ends the output."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from enum import StrEnum
from typing import IO, TYPE_CHECKING, Any, Protocol

import msgspec

from daemon.errors import ConfigError

if TYPE_CHECKING:
    from daemon.export.rows import Row


class Format(StrEnum):
    """Choices of `--format`."""

    CSV = "csv"
    NDJSON = "ndjson"
    PARQUET = "parquet"


class Writer(Protocol):
    def write(self, rows: Sequence[Row]) -> None: ...

    def close(self) -> None:
        """Leaves the file open."""


def writer(format_: Format, file: IO[bytes], columns: Sequence[str], texts: int) -> Writer:
    """`texts`: how many of the first columns hold text. The others are 64-bit integers. Raises ConfigError if the
    format needs a package that is not installed."""
    match format_:
        case Format.CSV:
            return _Csv(file, columns)
        case Format.NDJSON:
            return _Ndjson(file, columns)
        case Format.PARQUET:
            return _Parquet(file, columns, texts)


FORMULA_BEGINS = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet takes a cell that begins so for a formula: https://owasp.org/www-community/attacks/CSV_Injection"""


class _Csv:
    """RFC 4180 with a header, UTF-8. A text that a spreadsheet would run gets a `'` in front."""

    def __init__(self, file: IO[bytes], columns: Sequence[str]) -> None:
        self._text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        self._csv = csv.writer(self._text)
        self._csv.writerow(columns)

    def write(self, rows: Sequence[Row]) -> None:
        self._csv.writerows([[_inert(cell) for cell in row] for row in rows])

    def close(self) -> None:
        self._text.detach()


def _inert(cell: str | int) -> str | int:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA_BEGINS) else cell


class _Ndjson:
    """One object on each line."""

    def __init__(self, file: IO[bytes], columns: Sequence[str]) -> None:
        self._file = file
        self._columns = columns
        self._encoder = msgspec.json.Encoder()

    def write(self, rows: Sequence[Row]) -> None:
        self._file.write(self._encoder.encode_lines([dict(zip(self._columns, row, strict=True)) for row in rows]))

    def close(self) -> None:
        pass


class _Parquet:
    """One row group for each chunk."""

    def __init__(self, file: IO[bytes], columns: Sequence[str], texts: int) -> None:
        try:
            import pyarrow  # noqa: PLC0415  (an extra that only Parquet needs)
            from pyarrow import parquet  # noqa: PLC0415
        except ImportError:
            raise ConfigError("--format parquet needs pyarrow: pip install 'tallyd[parquet]'.") from None
        self._arrow: Any = pyarrow
        self._schema = pyarrow.schema(
            [(name, pyarrow.string() if at < texts else pyarrow.int64()) for at, name in enumerate(columns)]
        )
        self._parquet = parquet.ParquetWriter(file, self._schema)

    def write(self, rows: Sequence[Row]) -> None:
        self._parquet.write_table(self._arrow.table(list(zip(*rows, strict=True)), schema=self._schema))

    def close(self) -> None:
        self._parquet.close()
