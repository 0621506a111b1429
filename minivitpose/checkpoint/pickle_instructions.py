"""A pickle as a list of instructions: what `pickletools.dis` prints, bounded, and without Python's pickle.

An instruction is one byte, the opcode, and for some of them an argument. The table INSTRUCTIONS has all that
PyTorch, NumPy and Python 2 and 3 write in protocols 2 to 5; their meanings are in `unpickle`.
Source: CPython's Lib/pickletools.py.
"""

import struct
from collections.abc import Iterator

from minivitpose.checkpoint.errors import DAMAGED, CheckpointError

MAX_INSTRUCTIONS = 200_000  # a checkpoint of ViTPose-H with its optimizer has 50 000
MAX_TEXT = 8 << 20  # bytes of text that are kept; what exceeds it is skipped
MAX_INTEGER = 256  # bytes in an integer
MAX_LINE = 512  # characters in the name of a module or class


class Skipped:
    """Stands for a text that was too long to be worth keeping."""


class Cursor:
    """A place in the bytes that only moves forward and never past the end."""

    def __init__(self, data: memoryview, position: int):
        self.data, self.position, self.text_left = data, position, MAX_TEXT

    def take(self, count: int) -> memoryview:
        start, self.position = self.position, self.position + count
        if self.position > len(self.data):
            raise CheckpointError(f"a pickle ends in the middle of an instruction, at byte {start}", fix=DAMAGED)
        return self.data[start : self.position]

    def take_text(self, count: int) -> bytes | Skipped:
        """`count` bytes, or Skipped if all texts together have become too long."""
        taken = self.take(count)
        self.text_left -= count
        return bytes(taken) if self.text_left >= 0 else Skipped()

    def take_line(self) -> str:
        window = bytes(self.data[self.position : self.position + MAX_LINE])
        line, newline, _ = window.partition(b"\n")
        if not newline:
            raise CheckpointError(f"a pickle has a name without an end, at byte {self.position}", fix=DAMAGED)
        self.position += len(line) + 1
        return decode(line, self.position)


def decode(text: bytes, position: int) -> str:
    try:
        return str(text, "utf-8")
    except UnicodeDecodeError:
        raise CheckpointError(f"a pickle has text that is not UTF-8, before byte {position}", fix=DAMAGED) from None


# Readers of arguments: each takes a cursor behind the opcode and returns the argument.


def constant(value):
    return lambda cursor: value


def integer(size: int, signed: bool = False):
    return lambda cursor: int.from_bytes(cursor.take(size), "little", signed=signed)


def long_integer(size: int):
    """A length of `size` bytes, then that many bytes of a signed integer."""

    def read(cursor: Cursor) -> int:
        count = int.from_bytes(cursor.take(size), "little")
        if count > MAX_INTEGER:
            raise CheckpointError(f"a pickle has an integer of {count} bytes", expected=f"at most {MAX_INTEGER}")
        return int.from_bytes(cursor.take(count), "little", signed=True)

    return read


def binary(size: int):
    """A length of `size` bytes, then that many bytes."""
    return lambda cursor: cursor.take_text(int.from_bytes(cursor.take(size), "little"))


def text(size: int):
    """A length of `size` bytes, then that many bytes of UTF-8."""

    def read(cursor: Cursor) -> str | Skipped:
        taken = cursor.take_text(int.from_bytes(cursor.take(size), "little"))
        return decode(taken, cursor.position) if isinstance(taken, bytes) else taken

    return read


def python2_text(size: int):
    """Python 2 had one type for texts and bytes: a text if it can be one."""

    def read(cursor: Cursor) -> str | bytes | Skipped:
        taken = cursor.take_text(int.from_bytes(cursor.take(size), "little"))
        return str(taken, "ascii") if isinstance(taken, bytes) and taken.isascii() else taken

    return read


def double(cursor: Cursor) -> float:
    return struct.unpack(">d", cursor.take(8))[0]


def two_lines(cursor: Cursor) -> tuple[str, str]:
    return cursor.take_line(), cursor.take_line()


NOTHING = constant(None)

INSTRUCTIONS = {  # opcode: (name, reader of its argument, what the machine does with it)
    b"\x80": ("PROTO", integer(1), "check_protocol"),
    b"\x95": ("FRAME", integer(8), "skip"),
    b"N": ("NONE", constant(None), "push"),
    b"\x88": ("NEWTRUE", constant(True), "push"),
    b"\x89": ("NEWFALSE", constant(False), "push"),
    b"K": ("BININT1", integer(1), "push"),
    b"M": ("BININT2", integer(2), "push"),
    b"J": ("BININT", integer(4, signed=True), "push"),
    b"\x8a": ("LONG1", long_integer(1), "push"),
    b"\x8b": ("LONG4", long_integer(4), "push"),
    b"G": ("BINFLOAT", double, "push"),
    b"X": ("BINUNICODE", text(4), "push"),
    b"\x8c": ("SHORT_BINUNICODE", text(1), "push"),
    b"\x8d": ("BINUNICODE8", text(8), "push"),
    b"U": ("SHORT_BINSTRING", python2_text(1), "push"),
    b"T": ("BINSTRING", python2_text(4), "push"),
    b"B": ("BINBYTES", binary(4), "push"),
    b"C": ("SHORT_BINBYTES", binary(1), "push"),
    b"\x8e": ("BINBYTES8", binary(8), "push"),
    b"\x96": ("BYTEARRAY8", binary(8), "push"),
    b")": ("EMPTY_TUPLE", constant(()), "push"),
    b"]": ("EMPTY_LIST", lambda cursor: [], "push"),
    b"}": ("EMPTY_DICT", lambda cursor: {}, "push"),
    b"\x8f": ("EMPTY_SET", NOTHING, "start_set"),
    b"(": ("MARK", NOTHING, "mark"),
    b"t": ("TUPLE", NOTHING, "tuple_from_mark"),
    b"\x85": ("TUPLE1", constant(1), "tuple_of"),
    b"\x86": ("TUPLE2", constant(2), "tuple_of"),
    b"\x87": ("TUPLE3", constant(3), "tuple_of"),
    b"\x91": ("FROZENSET", NOTHING, "frozenset_from_mark"),
    b"a": ("APPEND", NOTHING, "append"),
    b"e": ("APPENDS", NOTHING, "append_from_mark"),
    b"s": ("SETITEM", NOTHING, "set_item"),
    b"u": ("SETITEMS", NOTHING, "set_items_from_mark"),
    b"\x90": ("ADDITEMS", NOTHING, "pop_mark"),
    b"0": ("POP", NOTHING, "drop"),
    b"1": ("POP_MARK", NOTHING, "pop_mark"),
    b"2": ("DUP", NOTHING, "duplicate"),
    b"q": ("BINPUT", integer(1), "remember"),
    b"r": ("LONG_BINPUT", integer(4), "remember"),
    b"\x94": ("MEMOIZE", NOTHING, "remember"),
    b"h": ("BINGET", integer(1), "recall"),
    b"j": ("LONG_BINGET", integer(4), "recall"),
    b"c": ("GLOBAL", two_lines, "name_global"),
    b"\x93": ("STACK_GLOBAL", NOTHING, "name_global"),
    b"R": ("REDUCE", NOTHING, "call"),
    b"\x81": ("NEWOBJ", NOTHING, "call"),
    b"\x92": ("NEWOBJ_EX", NOTHING, "call_with_keywords"),
    b"b": ("BUILD", NOTHING, "set_state"),
    b"Q": ("BINPERSID", NOTHING, "look_up"),
    b".": ("STOP", NOTHING, "stop"),
}
BY_CODE = {code[0]: row for code, row in INSTRUCTIONS.items()}


def instructions(data: memoryview, start: int = 0) -> Iterator[tuple[int, str, object, str]]:
    """Yields (position, name, argument, action) for each instruction of the pickle that begins at byte `start`.

    The first three are what `pickletools.dis` prints. The position after STOP is the pickle's end.
    """
    cursor = Cursor(data, start)
    for _ in range(MAX_INSTRUCTIONS):
        position = cursor.position
        code = cursor.take(1)[0]
        if code not in BY_CODE:
            raise CheckpointError(
                f"a pickle has the unknown instruction 0x{code:02x} at byte {position}",
                expected="pickle protocol 2 to 5, as torch.save writes it",
                fix=DAMAGED,
            )
        name, read_argument, action = BY_CODE[code]
        yield position, name, read_argument(cursor), action
        if name == "STOP":
            return
    raise CheckpointError(f"a pickle has more than {MAX_INSTRUCTIONS} instructions", fix="save only the state_dict")
