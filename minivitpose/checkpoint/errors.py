"""The one error of this room, and how text out of a file is made safe to print."""

DAMAGED = "the file is cut off or damaged: download or save it again"


class CheckpointError(ValueError):
    """A file that cannot be read as weights.

    The message is one printable line: what is wrong, what was expected, what was found, the likely fix.
    `read_checkpoint` puts the name of the file in front.
    """

    def __init__(self, problem: str, *, expected: str = "", found: str = "", fix: str = ""):
        self.problem = problem
        facts = [f"expected {expected}"] * bool(expected) + [f"found {found}"] * bool(found)
        message = problem + (f" ({', '.join(facts)})" if facts else "") + (f"; {fix}" if fix else "")
        super().__init__(printable(message, limit=1000))

    def in_file(self, path: object) -> "CheckpointError":
        """The same error with the file's name in front."""
        name = str(path)
        return CheckpointError(f"{name if len(name) <= 300 else '...' + name[-297:]}: {self}")


def printable(text: str, limit: int) -> str:
    """`text` in one line without control characters, cut to about `limit` characters."""
    cut = text if len(text) <= limit else text[: limit - 3] + "..."
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut)


def quoted(thing: object, limit: int = 80) -> str:
    """A name or number out of a file, safe to print: never longer than about `limit` characters."""
    if isinstance(thing, str):
        return repr(printable(thing, limit))
    if isinstance(thing, int | float | None):
        return printable(str(thing), limit)
    return f"a {type(thing).__name__}"  # not its content, which may be endless
