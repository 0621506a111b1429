"""A zip file is a row of records and, at the very end, a directory that says where they are.

Read by hand, since a checkpoint wants what Python's zipfile does not give: records as views of the mapped file,
and strictness. Names are unique, no record overlaps another, each agrees with its own header, nothing expands
beyond an honest multiple of the file, and the CRC-32 of everything that is read is checked.
Source: the .ZIP File Format Specification (APPNOTE.TXT).
"""

import struct
import zlib
from dataclasses import dataclass

from minivitpose.checkpoint.errors import DAMAGED, CheckpointError, quoted

SMALL = 32 << 20  # bytes that the records of any file may expand to
HONEST_GROWTH = 20  # beyond that, they may together be so many times as large as the file
MAX_RECORDS = 20_000
MAX_NAME = 256
MAX_EXTRA_BLOCKS = 16

END = struct.Struct("<4sHHHHIIH")  # signature, disks (2), entries (2), directory size, directory start, comment size
END64 = struct.Struct("<4sQHHIIQQQQ")  # the same in 64 bits
LOCATOR64 = struct.Struct("<4sIQI")  # where END64 is
ENTRY = struct.Struct("<4sHHHHHHIIIHHHHHII")  # one record in the directory
HEADER = struct.Struct("<4sHHHHHIIIHH")  # the header in front of a record
STORED, DEFLATED = 0, 8


@dataclass(frozen=True, slots=True)
class Record:
    """One file in the archive: `packed` bytes from `start` on that expand to `size` bytes."""

    name: str
    method: int
    crc: int
    packed: int
    size: int
    header: int
    start: int


class ZipArchive:
    """The records of a zip file by name. Raises CheckpointError for anything irregular."""

    def __init__(self, data: memoryview):
        self.data = data
        self.records: dict[str, Record] = {}
        directory, size, count = find_directory(data)
        position = directory
        for _ in range(count):
            record, position = read_entry(data, position)
            if record.name in self.records:
                raise CheckpointError(f"the zip has two records named {quoted(record.name)}", fix=DAMAGED)
            self.records[record.name] = record
        if position != directory + size:
            raise CheckpointError("the directory of the zip has another length than it says", fix=DAMAGED)
        self.check_overlap(directory)
        self.check_growth()
        self.has_checksums = any(record.crc for record in self.records.values())

    def check_overlap(self, directory: int) -> None:
        end = 0
        for record in sorted(self.records.values(), key=lambda record: record.header):
            if record.header < end:
                raise CheckpointError(f"record {quoted(record.name)} of the zip overlaps another", fix=DAMAGED)
            end = record.start + record.packed
        if end > directory:
            raise CheckpointError("a record of the zip reaches into the directory", fix=DAMAGED)

    def check_growth(self) -> None:
        total, allowed = sum(r.size for r in self.records.values()), SMALL + HONEST_GROWTH * len(self.data)
        if total > allowed:
            raise CheckpointError(
                f"the zip would expand to {total} bytes, which looks like a zip bomb",
                expected=f"at most {allowed} bytes from a file of this size",
                fix="if the weights are really so uniform, save them without compression",
            )

    def read(self, name: str, check: bool = True) -> memoryview:
        """The bytes of a record: a view of the file if it is stored, a copy if it is compressed.

        check: whether the bytes must have the CRC-32 that the directory gives.
        """
        record = self.records[name]
        packed = self.data[record.start : record.start + record.packed]
        content = packed if record.method == STORED else inflate(packed, record)
        if check and zlib.crc32(content) != record.crc:
            raise CheckpointError(
                f"record {quoted(name)} is damaged",
                expected=f"CRC-32 {record.crc:08x}",
                found=f"{zlib.crc32(content):08x}",
                fix="download or save the file again",
            )
        return content


def inflate(packed: memoryview, record: Record) -> memoryview:
    machine = zlib.decompressobj(wbits=-15)
    try:
        content = machine.decompress(packed, record.size + 1)
    except zlib.error:
        raise CheckpointError(f"record {quoted(record.name)} cannot be decompressed", fix=DAMAGED) from None
    if len(content) != record.size:
        raise CheckpointError(
            f"record {quoted(record.name)} does not have the size that the zip's directory gives",
            expected=f"{record.size} bytes",
            found=f"{len(content)}" + ("" if machine.eof else " or more"),
            fix=DAMAGED,
        )
    return memoryview(content)


def fields(layout: struct.Struct, data: memoryview, position: int, signature: bytes, what: str) -> tuple:
    """The fields behind the signature of the structure at `position`."""
    if not 0 <= position <= len(data) - layout.size or bytes(data[position : position + 4]) != signature:
        raise CheckpointError(f"{what} of the zip is not where it should be", fix=DAMAGED)
    return layout.unpack_from(data, position)[1:]


def find_end(data: memoryview) -> int:
    """Where the last structure of the zip begins: its signature, so far from the end as its comment is long."""
    tail = bytes(data[-(END.size + 0xFFFF) :])
    found = len(tail)
    while (found := tail.rfind(b"PK\5\6", 0, found)) >= 0:
        rest = len(tail) - found - END.size
        if rest >= 0 and rest == int.from_bytes(tail[found + END.size - 2 : found + END.size], "little"):
            return len(data) - len(tail) + found
    raise CheckpointError("the file begins like a zip, but its directory at the end is missing", fix=DAMAGED)


def find_directory(data: memoryview) -> tuple[int, int, int]:
    """(start of the directory, its size in bytes, its number of entries)."""
    position = find_end(data)
    disk, _, _, count, size, start, _ = fields(END, data, position, b"PK\5\6", "the end")
    if 0xFFFF in (disk, count) or 0xFFFFFFFF in (size, start):
        position = fields(LOCATOR64, data, position - LOCATOR64.size, b"PK\6\7", "the 64-bit locator")[1]
        _, _, _, disk, _, _, count, size, start = fields(END64, data, position, b"PK\6\6", "the 64-bit end")
    if disk != 0 or start + size > position:
        raise CheckpointError("the directory of the zip is not where it should be", fix=DAMAGED)
    if count > MAX_RECORDS:
        raise CheckpointError(f"the zip has {count} records", expected=f"at most {MAX_RECORDS}")
    return start, size, count


def read_entry(data: memoryview, position: int) -> tuple[Record, int]:
    """Reads one entry of the directory: (the record, where the next entry begins)."""
    entry = fields(ENTRY, data, position, b"PK\1\2", "an entry in the directory")
    _, _, flags, method, _, _, crc, packed, size, name_size, extra_size, comment_size, _, _, _, header = entry
    position += ENTRY.size
    raw_name = bytes(data[position : position + name_size])
    name = checked_name(raw_name)
    position += name_size
    if 0xFFFFFFFF in (size, packed, header):
        extra = bytes(data[position : position + extra_size])
        size, packed, header = wide_fields(extra, [size, packed, header], name)
    if flags & 1 or method not in (STORED, DEFLATED):
        raise CheckpointError(
            f"record {quoted(name)} is encrypted or compressed in an unusual way", fix="zip it plainly"
        )
    if method == STORED and packed != size:
        raise CheckpointError(f"record {quoted(name)} of the zip has two sizes", fix=DAMAGED)
    start = find_content(data, header, raw_name, name)
    return Record(name, method, crc, packed, size, header, start), position + extra_size + comment_size


def checked_name(raw: bytes) -> str:
    """A record's name. It is never used as a path, but a name that is one betrays a hostile file."""
    try:
        name = str(raw, "utf-8")
    except UnicodeDecodeError:
        raise CheckpointError("a record of the zip has a name that is not UTF-8", fix=DAMAGED) from None
    if not name or len(name) > MAX_NAME or name[0] == "/" or "\\" in name or ".." in name.split("/"):
        raise CheckpointError(f"a record of the zip has the name {quoted(name)}", expected="a plain name", fix=DAMAGED)
    return name


def wide_fields(extra: bytes, narrow: list[int], name: str) -> list[int]:
    """Replaces each field that is all ones by its 64-bit value from the extra block with number 1."""
    for _ in range(MAX_EXTRA_BLOCKS):
        number, size = struct.unpack("<HH", extra[:4].ljust(4, b"\0"))
        block, extra = extra[4 : 4 + size], extra[4 + size :]
        if number == 1 and len(block) >= 8 * narrow.count(0xFFFFFFFF):
            wide = iter(struct.unpack(f"<{len(block) // 8}Q", block[: len(block) // 8 * 8]))
            return [next(wide) if value == 0xFFFFFFFF else value for value in narrow]
    raise CheckpointError(f"record {quoted(name)} of the zip lacks its 64-bit size", fix=DAMAGED)


def find_content(data: memoryview, header: int, raw_name: bytes, name: str) -> int:
    """Where the bytes of a record begin: behind its own header, name and padding."""
    *_, name_size, extra_size = fields(HEADER, data, header, b"PK\3\4", f"the header of {quoted(name)}")
    start = header + HEADER.size
    if bytes(data[start : start + name_size]) != raw_name:
        raise CheckpointError(f"record {quoted(name)} has another name in its own header", fix=DAMAGED)
    return start + name_size + extra_size
