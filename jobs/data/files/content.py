"""A file's content: unpacked if it is packed, and as text in the encoding that it has. Knows no rows.

Called by `jobs.data.files.rows` and by the readers of single kinds of files.
"""

import bz2
import gzip
import lzma
import zlib
from pathlib import Path

from configs.errors import DataError

UTF_8 = "utf-8"
PACKED = (".gz", ".zst", ".bz2", ".xz")
"""Suffixes behind the one that names the kind; the content's first bytes decide, not they."""
_BOMS = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_HEAD = 1000


def name_of(path: Path) -> str:
    """The file's name without the suffix of its packing."""
    return path.stem if path.suffix.lower() in PACKED else path.name


def is_packed(path: Path) -> bool:
    return _unpacker(_head(path)) is not None


def unpacked(path: Path) -> bytes:
    """Raises DataError for a file that cannot be read or whose packing is broken."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}", hint="check its permissions") from None
    unpack = _unpacker(content)
    if unpack is None:
        return content
    try:
        return unpack(content)
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        raise DataError(
            f"{path} is packed and cannot be unpacked: {str(error) or type(error).__name__}",
            hint="the file is cut off or damaged: fetch or write it anew",
        ) from None


def text(path: Path, encoding: str = UTF_8) -> str:
    """The file's text. Of UTF-8, bytes that are none become lone surrogates, which no dialogue may hold.

    A byte order mark wins over `encoding`. Raises DataError for what cannot be decoded at all.
    """
    content = unpacked(path)
    marked = next((codec for mark, codec in _BOMS.items() if content.startswith(mark)), None)
    if marked is None and encoding == UTF_8:
        _refuse_binary(content[:_HEAD], path)
        return content.decode("utf-8-sig", "surrogateescape")
    try:
        return content.decode(marked or encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not {marked or encoding}: {error.reason} at byte {error.start}",
            hint="write it as UTF-8, or say which encoding it has: --set data.encoding=cp1252",
        ) from None


def head(path: Path) -> bytes:
    """The first bytes of what is in the file."""
    return unpacked(path)[:_HEAD] if is_packed(path) else _head(path)


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}", hint="check its permissions") from None


def _refuse_binary(beginning: bytes, path: Path) -> None:
    """UTF-16 without its mark has a NUL in every second byte of plain text."""
    for codec, nuls in (("utf-16-le", beginning[1::2]), ("utf-16-be", beginning[0::2])):
        if len(beginning) >= 4 and not any(nuls):
            raise DataError(
                f"{path} is binary, or UTF-16 without a byte order mark",
                hint=f"if it is text, write it as UTF-8 or say --set data.encoding={codec}",
            )


def _unpacker(content: bytes):
    for magic, unpack in ((b"\x1f\x8b", gzip.decompress), (b"BZh", bz2.decompress), (b"\xfd7zXZ\0", lzma.decompress)):
        if content.startswith(magic):
            return unpack
    return _zstandard if content.startswith(b"\x28\xb5\x2f\xfd") else None


def _zstandard(content: bytes) -> bytes:
    import pyarrow  # Python itself unpacks Zstandard from 3.14 on

    with pyarrow.CompressedInputStream(pyarrow.BufferReader(content), "zstd") as stream:
        return stream.read()
