"""Tables as cohorts bring them: CSV, plain or gzip, whose errors name file, line and column."""

import csv
import gzip
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from trainer.cohorts.case import CohortError


def find(folders: tuple[Path, ...], names: tuple[str, ...]) -> Path | None:
    """Return the first file that is there, plain or with ``.gz`` added; None where none is."""
    for folder in folders:
        for name in names:
            for path in (folder / name, folder / f"{name}.gz"):
                if path.is_file():
                    return path
    return None


def open_text(path: Path) -> TextIO:
    """Open a file for reading as UTF-8, unpacking gzip.

    Raises
    ------
    CohortError
        The file is not there.
    """
    try:
        if path.suffix == ".gz":
            return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
        return path.open(encoding="utf-8-sig", newline="")
    except OSError as error:
        raise CohortError(f"{path}: expected the table of the cohort, found none ({error.strerror})") from error


def read_names(path: Path) -> frozenset[str]:
    """Read a list of file names, one on a line."""
    with open_text(path) as lines:
        try:
            return frozenset(lines.read().split())
        except (OSError, EOFError, UnicodeDecodeError) as error:
            raise CohortError(f"{path}: expected a list of names, found bytes that do not read ({error})") from error


@dataclass(frozen=True)
class Table:
    """A CSV file with the index of each column."""

    path: Path
    columns: dict[str, int]

    @classmethod
    def of(cls, path: Path, needed: tuple[str, ...] = ()) -> "Table":
        """Read the header.

        Raises
        ------
        CohortError
            The file is not there or empty, or a column of `needed` is missing.
        """
        with open_text(path) as lines:
            try:
                header = next(csv.reader(lines), None)
            except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
                raise CohortError(f"{path}: expected a CSV table, found bytes that do not read ({error})") from error
        if not header:
            raise CohortError(f"{path}: expected a line of column names, found an empty file")
        columns = {name.strip(): index for index, name in enumerate(header)}
        missing = [name for name in needed if name not in columns]
        if missing:
            raise CohortError(f"{path}, line 1: expected the columns {', '.join(missing)}, found {', '.join(columns)}")
        return cls(path, columns)

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield (line number, cells) of each row; a short row is filled up with empty cells."""
        width = max(self.columns.values()) + 1
        with open_text(self.path) as lines:
            reader = csv.reader(lines)
            try:
                next(reader)
                for cells in reader:
                    if cells:
                        yield reader.line_num, cells if len(cells) >= width else cells + [""] * (width - len(cells))
            except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
                raise CohortError(
                    f"{self.path}, after line {reader.line_num}: the table does not read to its end ({error})"
                ) from error

    def records(self) -> Iterator[tuple[int, dict[str, str]]]:
        """Yield (line number, cell by column name), for tables small enough not to count the microseconds."""
        for line, cells in self.rows():
            yield line, {name: cells[index].strip() for name, index in self.columns.items()}

    def wrong(self, line: int, column: str, found: str, expected: str) -> CohortError:
        """Return the error for a cell that cannot be read."""
        return CohortError(f"{self.path}, line {line}, column {column!r}: expected {expected}, found {found!r}")


def number(text: str) -> float:
    """Return the number in a cell, NaN where it is empty or none."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


# NIH's first release wrote 058Y, 013M or 026D, as DICOM does (PS3.5 6.2, Age String); later ones whole years.
_UNITS = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}


def years(text: str) -> float:
    """Return an age in years from a number of years or an age string with its unit, NaN where it is neither."""
    text = text.strip().upper()
    if text and text[-1] in _UNITS:
        return number(text[:-1]) * _UNITS[text[-1]]
    return number(text)
