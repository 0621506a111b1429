"""What is inside a pickle, without running it.

A pickle is a small program for a machine with a stack: "push this text, push an empty dict, put the two topmost
things into the third". Python's own machine also obeys "import this function" and "call it", which is why opening
a stranger's pickle can run a stranger's code. The machine on this page reads the same instructions, but it knows
no import and no call: a function stays a name (`Global`), and a call becomes

* what the caller's table of `builders` makes of it (an OrderedDict, a description of a tensor), or else
* a `Placeholder`: a note of what the file asked for, which holds nothing and does nothing.

Everything is bounded: the number of instructions, the length of texts, and nothing here recurses.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from minivitpose.checkpoint.errors import DAMAGED, CheckpointError, quoted
from minivitpose.checkpoint.pickle_instructions import MAX_LINE, instructions

MAX_KEY = 1024  # characters in a key of a dict

SYSTEM_MODULES = {
    "os", "posix", "nt", "sys", "subprocess", "pty", "socket", "shutil", "runpy", "importlib", "ctypes",
    "multiprocessing", "commands", "webbrowser",
}  # fmt: skip
SYSTEM_FUNCTIONS = {"eval", "exec", "execfile", "compile", "open", "input", "__import__", "breakpoint"}


@dataclass(frozen=True, slots=True)
class Global:
    """A class or function that the file names. It is never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Placeholder:
    """Stands for an object the file asked for and did not get: its origin, its arguments and its state."""

    __slots__ = ("origin", "arguments", "state")

    def __init__(self, origin: str, arguments: object = None):
        self.origin, self.arguments, self.state = origin, arguments, None


Builders = Mapping[str, Callable[[tuple], object]]


class Machine:
    """The stack, the memo (numbered things to come back to) and one method for each kind of instruction."""

    def __init__(self, builders: Builders, look_up_persistent: Callable[[object], object]):
        self.builders, self.look_up_persistent = builders, look_up_persistent
        self.stack: list = []
        self.below: list[list] = []  # the stacks under each MARK
        self.memo: dict[int, object] = {}

    def run(self, data: memoryview, start: int) -> tuple[object, int]:
        """Obeys the pickle that begins at byte `start`; returns the object it describes and the pickle's end."""
        position = start
        for position, name, argument, action in instructions(data, start):
            if position == start and name != "PROTO":
                raise CheckpointError("a pickle does not begin with its protocol", expected="protocol 2 to 5")
            try:
                getattr(self, action)(argument)
            except StackError:
                raise CheckpointError(f"{name} at byte {position} of a pickle makes no sense", fix=DAMAGED) from None
        return self.pop(), position + 1

    # The stack

    def push(self, thing: object) -> None:
        self.stack.append(thing)

    def pop(self) -> object:
        if not self.stack:
            raise StackError
        return self.stack.pop()

    def top(self) -> object:
        if not self.stack:
            raise StackError
        return self.stack[-1]

    def drop(self, _) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    def duplicate(self, _) -> None:
        self.push(self.top())

    def mark(self, _) -> None:
        self.below.append(self.stack)
        self.stack = []

    def pop_mark(self, _=None) -> list:
        """Everything above the last MARK."""
        if not self.below:
            raise StackError
        items, self.stack = self.stack, self.below.pop()
        return items

    # The memo

    def remember(self, number: int | None) -> None:
        self.memo[len(self.memo) if number is None else number] = self.top()

    def recall(self, number: int) -> None:
        if number not in self.memo:
            raise StackError
        self.push(self.memo[number])

    # Containers

    def tuple_from_mark(self, _) -> None:
        self.push(tuple(self.pop_mark()))

    def tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            raise StackError
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def start_set(self, _) -> None:
        self.push(Placeholder("set"))

    def frozenset_from_mark(self, _) -> None:
        self.pop_mark()
        self.push(Placeholder("frozenset"))

    def append(self, _) -> None:
        self.extend_top([self.pop()])

    def append_from_mark(self, _) -> None:
        self.extend_top(self.pop_mark())

    def extend_top(self, items: list) -> None:
        target = self.top()
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Placeholder):
            raise StackError

    def set_item(self, _) -> None:
        value, key = self.pop(), self.pop()
        self.update_top([key, value])

    def set_items_from_mark(self, _) -> None:
        self.update_top(self.pop_mark())

    def update_top(self, items: list) -> None:
        """`items`: key, value, key, value, ..."""
        target = self.top()
        if len(items) % 2 or not isinstance(target, dict | Placeholder):
            raise StackError
        if isinstance(target, dict):
            for key, value in zip(items[::2], items[1::2], strict=True):
                target[safe_key(key)] = value

    # What Python would import and call

    def name_global(self, lines: tuple[str, str] | None) -> None:
        name, module = (lines[1], lines[0]) if lines else (self.pop(), self.pop())
        if not isinstance(module, str) or not isinstance(name, str) or max(len(module), len(name)) > MAX_LINE:
            raise StackError
        refuse_system_call(module, name)
        self.push(Global(module, name))

    def call(self, _) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(arguments, tuple) or not isinstance(function, Global | Placeholder):
            raise StackError
        if isinstance(function, Placeholder):
            self.push(Placeholder(function.origin, arguments))
            return
        build = self.builders.get(str(function))
        self.push(build(arguments) if build else Placeholder(str(function), arguments))

    def call_with_keywords(self, _) -> None:
        self.pop()
        self.call(None)

    def set_state(self, _) -> None:
        state, target = self.pop(), self.top()
        if isinstance(target, Placeholder):
            target.state = state

    def look_up(self, _) -> None:
        self.push(self.look_up_persistent(self.pop()))

    # The rest

    def check_protocol(self, protocol: int) -> None:
        if not 2 <= protocol <= 5:
            raise CheckpointError("a pickle has an unknown protocol", expected="2 to 5", found=str(protocol))

    def skip(self, _) -> None:
        """A FRAME only helps to read a pickle from a slow disk."""

    def stop(self, _) -> None:
        if self.below or len(self.stack) != 1:
            raise StackError


class StackError(Exception):
    """An instruction that does not fit what lies on the stack. Never leaves this file."""


class Key:
    """A key that no state dict has (a tuple, a long text), so that it need not be hashed: that can take for ever."""

    __slots__ = ("original",)

    def __init__(self, original: object):
        self.original = original


def safe_key(key: object) -> object:
    """The key itself if it is a short text or a small integer, else wrapped in a `Key`."""
    short = isinstance(key, str | bytes) and len(key) <= MAX_KEY
    small = type(key) is int and abs(key) < 2**31
    return key if short or small else Key(key)


def refuse_system_call(module: str, name: str) -> None:
    """Unknown names are harmless here, but these have no business in a checkpoint: the file is an attack."""
    root = module.partition(".")[0]
    if root in SYSTEM_MODULES or (root in ("builtins", "__builtin__") and name in SYSTEM_FUNCTIONS):
        raise CheckpointError(
            f"the file asks to run {quoted(f'{module}.{name}')}, which no checkpoint needs: it looks like an attack",
            fix="nothing was run; do not open this file with torch.load or pickle",
        )


def unpickle(
    data: memoryview,
    start: int = 0,
    builders: Builders | None = None,
    look_up_persistent: Callable[[object], object] | None = None,
) -> tuple[object, int]:
    """Reads the pickle in `data` that begins at byte `start`. Returns (the object, the position after the pickle).

    builders: dotted name -> function of the argument tuple, for the calls that are allowed to make something.
    look_up_persistent: what to put in place of a persistent id (PyTorch uses these for storages).
    Texts, numbers, lists, tuples and dicts come back as such, everything else as Global or Placeholder.
    Raises CheckpointError if the pickle is damaged, too large, or asks to run a system function.
    """
    return Machine(builders or {}, look_up_persistent or (lambda pid: Placeholder("persistent id"))).run(data, start)
