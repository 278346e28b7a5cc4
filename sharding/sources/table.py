"""Tables of collections: CSV and TSV, read row by row with the number of the line, for messages that name it."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

# Free text of a track, such as an artist's biography, is longer than the csv module's 128 KiB.
csv.field_size_limit(1 << 24)


def table_rows(
    table: Path, columns: Sequence[str] = (), *, delimiter: str = ",", encoding: str = "utf-8-sig"
) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, row by column name); ValueError where one of `columns` is absent or a row is too long.

    A row that is too short has empty texts at its end.  utf-8-sig: with a byte order mark or without, which
    spreadsheets put in front and which would rename the first column.
    """
    rows = plain_rows(table, delimiter=delimiter, encoding=encoding)
    header = [name.strip() for name in next(rows, (0, []))[1]]
    absent = [name for name in columns if name not in header]
    if absent:
        raise ValueError(
            f"{table} has no column {' nor '.join(map(repr, absent))}; its columns are {', '.join(header)}"
        )
    for line, row in rows:
        if len(row) > len(header):
            raise ValueError(
                f"{table} line {line}: has more fields than the header, {len(row)} > {len(header)}"
            )
        yield line, dict(zip(header, [*row, *[""] * (len(header) - len(row))], strict=True))


def plain_rows(
    table: Path, *, delimiter: str = ",", encoding: str = "utf-8-sig", skip_space: bool = False
) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of each row that is not empty.  skip_space: "a, b" is "a" and "b"."""
    try:
        with table.open(encoding=encoding, newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, skipinitialspace=skip_space)
            for row in reader:
                if row:
                    yield reader.line_num, row
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{table}: {error}") from error


def seconds(text: str, table: Path, line: int) -> float:
    """A time of a table's row, in s."""
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"{table} line {line}: {text!r} is no time in seconds") from error


def refuse_absent(table: Path, absent: Sequence[tuple[int, str]]) -> None:
    """FileNotFoundError for the files that a table names, with the line that does, and that are not there."""
    if absent:
        line, name = absent[0]
        others = f" (nor {len(absent) - 1} others that it names)" if len(absent) > 1 else ""
        raise FileNotFoundError(f"{table} line {line}: there is no {name}{others}")


def warn_absent(table: Path, num_named: int, absent: Sequence[tuple[int, str]]) -> None:
    """Say how many of the files that a table names are not there, for collections that are never complete."""
    if absent:
        line, name = absent[0]
        warnings.warn(
            f"{table} line {line}: there is no {name}; {len(absent)} of the {num_named} clips that it names are "
            "not there and are left out",
            stacklevel=3,
        )
