"""Writes PyTorch and zip files byte by byte, without PyTorch: correct ones, and wrong ones as a test needs them."""

import struct
import zlib
from dataclasses import dataclass, field

import numpy as np

STORAGE_CLASS = {
    "float64": "DoubleStorage", "float32": "FloatStorage", "float16": "HalfStorage", "int64": "LongStorage",
    "int32": "IntStorage", "int16": "ShortStorage", "int8": "CharStorage", "uint8": "ByteStorage",
    "bool": "BoolStorage",
}  # fmt: skip


# ---- pickles ---------------------------------------------------------------------------------------------------


@dataclass
class Name:
    """GLOBAL: a class or function."""

    module: str
    name: str


@dataclass
class Call:
    """REDUCE: a function called with arguments; then SETITEMS with items and BUILD with a state, if there are any."""

    function: Name
    arguments: tuple = ()
    items: dict | None = None
    state: object = None


@dataclass
class Persistent:
    """BINPERSID: something outside the pickle."""

    identifier: tuple


@dataclass
class Raw:
    """Opcodes as they are."""

    code: bytes


def pickled(thing: object, protocol: int = 2, python2: bool = False) -> bytes:
    """A whole pickle. Each Name and each Persistent that comes again is fetched from the memo, as torch.save does."""
    writer = PickleWriter(protocol, python2)
    body = writer.encode(thing) + b"."
    frame = b"\x95" + struct.pack("<Q", len(body)) if protocol >= 4 else b""
    return b"\x80" + bytes([protocol]) + frame + body


class PickleWriter:
    """One method for each type of thing."""

    def __init__(self, protocol: int, python2: bool):
        self.protocol, self.python2, self.memo = protocol, python2, {}

    def encode(self, thing: object) -> bytes:
        if id(thing) in self.memo:
            return self.numbered(b"hj", self.memo[id(thing)])
        code = getattr(self, f"write_{type(thing).__name__}")(thing)
        if not isinstance(thing, Name | Persistent):
            return code
        number = self.memo[id(thing)] = len(self.memo)
        return code + (b"\x94" if self.protocol >= 4 else self.numbered(b"qr", number))

    def encode_all(self, things) -> bytes:
        return b"".join(map(self.encode, things))

    def numbered(self, codes: bytes, number: int) -> bytes:
        return codes[:1] + bytes([number]) if number < 256 else codes[1:] + struct.pack("<I", number)

    def write_Raw(self, thing: Raw) -> bytes:
        return thing.code

    def write_Name(self, thing: Name) -> bytes:
        if self.protocol >= 4:
            return self.write_str(thing.module) + self.write_str(thing.name) + b"\x93"
        return f"c{thing.module}\n{thing.name}\n".encode()

    def write_Call(self, thing: Call) -> bytes:
        code = self.encode(thing.function) + self.encode(thing.arguments) + b"R"
        code += self.write_items(thing.items) if thing.items else b""
        return code + (b"" if thing.state is None else self.encode(thing.state) + b"b")

    def write_Persistent(self, thing: Persistent) -> bytes:
        return self.encode(thing.identifier) + b"Q"

    def write_items(self, thing: dict) -> bytes:
        return b"(" + b"".join(self.encode(key) + self.encode(value) for key, value in thing.items()) + b"u"

    def write_dict(self, thing: dict) -> bytes:
        return b"}" + self.write_items(thing)

    def write_list(self, thing: list) -> bytes:
        return b"](" + self.encode_all(thing) + b"e"

    def write_tuple(self, thing: tuple) -> bytes:
        short = {0: b")", 1: b"\x85", 2: b"\x86", 3: b"\x87"}.get(len(thing))
        return self.encode_all(thing) + short if short else b"(" + self.encode_all(thing) + b"t"

    def write_str(self, thing: str) -> bytes:
        raw = thing.encode()
        if self.python2:
            return b"U" + bytes([len(raw)]) + raw
        if self.protocol >= 4 and len(raw) < 256:
            return b"\x8c" + bytes([len(raw)]) + raw
        return b"X" + struct.pack("<I", len(raw)) + raw

    def write_bytes(self, thing: bytes) -> bytes:
        return b"B" + struct.pack("<I", len(thing)) + thing

    def write_bool(self, thing: bool) -> bytes:
        return b"\x88" if thing else b"\x89"

    def write_NoneType(self, thing: None) -> bytes:
        return b"N"

    def write_int(self, thing: int) -> bytes:
        if 0 <= thing < 256:
            return b"K" + bytes([thing])
        if 0 <= thing < 65536:
            return b"M" + struct.pack("<H", thing)
        if -(2**31) <= thing < 2**31:
            return b"J" + struct.pack("<i", thing)
        raw = thing.to_bytes(thing.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + bytes([len(raw)]) + raw

    def write_float(self, thing: float) -> bytes:
        return b"G" + struct.pack(">d", thing)


# ---- tensors ---------------------------------------------------------------------------------------------------

ORDERED_DICT = Name("collections", "OrderedDict")
REBUILD_V1 = Name("torch._utils", "_rebuild_tensor")
REBUILD_V2 = Name("torch._utils", "_rebuild_tensor_v2")
REBUILD_V3 = Name("torch._utils", "_rebuild_tensor_v3")
PARAMETER = Name("torch._utils", "_rebuild_parameter")


def contiguous_strides(shape: tuple) -> tuple:
    return tuple(int(np.prod(shape[i + 1 :], dtype=np.int64)) for i in range(len(shape)))


@dataclass
class TorchFile:
    """The storages of a file in the making. The methods make what stands in its pickle; `zip` and `legacy` write it."""

    storages: dict[str, bytes] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    legacy_ids: bool = False  # the old format has a sixth element in the id of a storage

    def storage(self, data, storage_class=None, *, key=None, count=None, view=None, module="torch") -> Persistent:
        """data: an array, written as it lies in memory, or bytes."""
        array = np.asarray(data) if not isinstance(data, bytes) else np.frombuffer(data, np.uint8)
        key = str(len(self.storages)) if key is None else key
        count = array.size if count is None else count
        self.storages[key], self.counts[key] = array.tobytes(), count
        name = storage_class or STORAGE_CLASS[array.dtype.newbyteorder("=").name]
        extra = (view,) if self.legacy_ids else ()
        return Persistent(("storage", Name(module, name), key, "cpu", count, *extra))

    def view(self, storage, shape, stride=None, offset=0, *, rebuild=REBUILD_V2, more=None) -> Call:
        stride = contiguous_strides(shape) if stride is None else stride
        more = () if rebuild is REBUILD_V1 else (False, Call(ORDERED_DICT), *(more or ()))
        return Call(rebuild, (storage, offset, tuple(shape), tuple(stride), *more))

    def tensor(self, array, storage_class=None) -> Call:
        """A tensor with a storage of its own."""
        array = np.asarray(array)
        return self.view(self.storage(array.ravel(), storage_class), array.shape)

    def zip(self, saved, *, folder="archive", protocol=2, python2=False, byteorder="little", pickle=None, **options):
        """The bytes of a zip file. pickle: use these bytes for data.pkl instead."""
        pickle = pickled(saved, protocol, python2) if pickle is None else pickle
        records = [Record(f"{folder}/data.pkl", pickle)]
        records += [Record(f"{folder}/byteorder", byteorder.encode())] if byteorder else []
        records += [Record(f"{folder}/data/{key}", raw) for key, raw in self.storages.items()]
        return zip_file([*records, Record(f"{folder}/version", b"3\n")], **options)

    def legacy(self, saved, *, protocol=2, python2=False, little_endian=True, pickle=None, keys=None, counts=None):
        """The bytes of a legacy file. keys, counts: write these instead of the true ones."""
        machine = {"protocol_version": 1001, "little_endian": little_endian, "type_sizes": {"short": 2, "int": 4}}
        keys = sorted(self.storages) if keys is None else keys
        head = [0x1950A86A20F9469CFC6C, 1001, machine]
        pickles = [pickled(thing, protocol, python2) for thing in head]
        pickles += [pickled(saved, protocol, python2) if pickle is None else pickle, pickled(keys, protocol, python2)]
        counts = self.counts | (counts or {})
        rows = [struct.pack("<q", counts[key]) + raw for key, raw in sorted(self.storages.items())]
        return b"".join(pickles + rows)


def state_dict(file: TorchFile, arrays: dict) -> Call:
    """What torch.nn.Module.state_dict returns: an OrderedDict with a state of its own. Arrays become tensors."""
    items = {key: file.tensor(value) if isinstance(value, np.ndarray) else value for key, value in arrays.items()}
    return Call(ORDERED_DICT, items=items, state={"_metadata": Call(ORDERED_DICT)})


# ---- zip -------------------------------------------------------------------------------------------------------


@dataclass
class Record:
    """One record. What is None is computed; anything else is written as it is, true or not."""

    name: str | bytes
    content: bytes
    method: int = 0
    crc: int | None = None
    size: int | None = None
    packed: bytes | None = None
    flags: int = 0x808
    local_name: bytes | None = None
    header: int | None = None


def zip_file(records: list[Record], *, checksums=True, align=64, zip64=False, comment=b"", count=None) -> bytes:
    """A zip as PyTorch writes it: sizes behind the records, the content aligned by padding."""
    body, directory = bytearray(), bytearray()
    for record in records:
        name = record.name if isinstance(record.name, bytes) else record.name.encode()
        packed = record.packed if record.packed is not None else pack(record)
        crc = (zlib.crc32(record.content) if checksums else 0) if record.crc is None else record.crc
        size = len(record.content) if record.size is None else record.size
        header = len(body) if record.header is None else record.header
        local = name if record.local_name is None else record.local_name
        padding = -(len(body) + 30 + len(local)) % align
        body += struct.pack(
            "<4sHHHHHIIIHH", b"PK\3\4", 0, record.flags, record.method, 0, 0, 0, 0, 0, len(local), padding
        )
        body += (
            local + b"\0" * padding + packed + struct.pack("<4sIII", b"PK\7\x08", crc, len(packed), size & 0xFFFFFFFF)
        )
        wide = size >= 0xFFFFFFFF or zip64
        extra = struct.pack("<HHQQQ", 1, 24, size, len(packed), header) if wide else b""
        numbers = (0xFFFFFFFF,) * 3 if wide else (len(packed), size, header)
        directory += struct.pack(
            "<4sHHHHHHIIIHHHHHII", b"PK\1\2", 0, 0, record.flags, record.method, 0, 0, crc, *numbers[:2], len(name),
            len(extra), 0, 0, 0, 0, numbers[2],
        ) + name + extra  # fmt: skip
    return bytes(body + directory) + zip_end(len(body), len(directory), count or len(records), zip64, comment)


def zip_end(start: int, size: int, count: int, zip64: bool, comment: bytes) -> bytes:
    wide = b""
    if zip64:
        wide = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 0, 45, 0, 0, count, count, size, start)
        wide += struct.pack("<4sIQI", b"PK\6\7", 0, start + size, 1)
        start, size, count = 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFF
    return wide + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, count, count, size, start, len(comment)) + comment


def pack(record: Record) -> bytes:
    if record.method == 0:
        return record.content
    machine = zlib.compressobj(9, zlib.DEFLATED, -15)
    return machine.compress(record.content) + machine.flush()
