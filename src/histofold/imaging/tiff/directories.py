"""The chain of a TIFF's directories: walked in plain bytes before any library believes what they say.

A directory that loops, lies beyond the end of the file, or names values that do is found here, so that nothing after
it allocates for a count that the file cannot hold, and a file cut between its pages does not pass for a shorter one.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

from histofold.core.faults import image_fault

TIFF_COPY_AGAIN = "copy or download the file again"
TIFF_MOST_PAGES = 64
"""Files of more pages are stacks, not images with their smaller copies."""

_TIFF_MOST_TAGS = 4096
# Bytes of a value, by its type in a directory.
_VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


class _TiffDialect(NamedTuple):
    """How numbers stand in a directory: struct codes of a count of tags, a tag (code, type, count) and an offset."""

    first: int
    tag_count: struct.Struct
    tag: struct.Struct
    offset: struct.Struct


def check_tiff_chain(path: Path) -> None:
    """Follow the chain of pages to its end, each directory and each of its values held against the file's size.

    Raises:
        ImageError: If the chain loops, has more than `TIFF_MOST_PAGES` pages, or leaves the file.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        dialect = _tiff_dialect(file.read(4))
        file.seek(dialect.first)
        link = file.read(dialect.offset.size)
        seen: set[int] = set()
        while True:
            if len(link) < dialect.offset.size:
                raise image_fault(path, "truncated: a directory of its pages is cut", TIFF_COPY_AGAIN)
            (position,) = dialect.offset.unpack(link)
            if position == 0:
                return
            if position in seen:
                raise image_fault(path, f"its directories form a loop at byte {position}", TIFF_COPY_AGAIN)
            if len(seen) == TIFF_MOST_PAGES:
                rule = f"it holds more than {TIFF_MOST_PAGES} pages: a stack, not one image"
                raise image_fault(path, rule, "save each page as a file of its own")
            seen.add(position)
            link = _check_tiff_directory(path, file, size, position, dialect)


def _tiff_dialect(magic: bytes) -> _TiffDialect:
    """The numbers of classic or BigTIFF, in the file's byte order."""
    order = "<" if magic[:2] == b"II" else ">"
    if magic[2:] in (b"+\0", b"\0+"):
        return _TiffDialect(8, struct.Struct(f"{order}Q"), struct.Struct(f"{order}HHQ"), struct.Struct(f"{order}Q"))
    return _TiffDialect(4, struct.Struct(f"{order}H"), struct.Struct(f"{order}HHI"), struct.Struct(f"{order}I"))


def _check_tiff_directory(path: Path, file: BinaryIO, size: int, position: int, dialect: _TiffDialect) -> bytes:
    """Check one directory and return the bytes of the link that follows it.

    Raises:
        ImageError: If it, or a value that it names, lies beyond the end of the file.
    """
    where = f"the directory at byte {position}"
    beyond = image_fault(path, f"truncated: {where} ends beyond the {size} bytes of the file", TIFF_COPY_AGAIN)
    if position + dialect.tag_count.size > size:
        raise beyond
    file.seek(position)
    (tags,) = dialect.tag_count.unpack(file.read(dialect.tag_count.size))
    if not 0 < tags <= _TIFF_MOST_TAGS:
        raise image_fault(path, f"{where} claims {tags} tags", TIFF_COPY_AGAIN)
    tag_bytes = dialect.tag.size + dialect.offset.size
    block = file.read(tags * tag_bytes)
    if len(block) < tags * tag_bytes:
        raise beyond
    for start in range(0, len(block), tag_bytes):
        code, kind, count = dialect.tag.unpack_from(block, start)
        value_bytes = count * _VALUE_BYTES.get(kind, 0)
        if value_bytes <= dialect.offset.size:
            continue  # the value stands in the tag itself, or its type is unknown and nobody reads it
        (offset,) = dialect.offset.unpack_from(block, start + dialect.tag.size)
        if offset + value_bytes > size:
            rule = f"truncated: tag {code} of {where} ends at byte {offset + value_bytes} and the file at {size}"
            raise image_fault(path, rule, TIFF_COPY_AGAIN)
    return file.read(dialect.offset.size)
