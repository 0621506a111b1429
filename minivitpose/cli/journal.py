"""Results on disk as they come: a file of JSON lines that survives being killed.

The first line says which model and options made the results, each further line is one result. A line that was cut
when the process died is taken off when the file is opened again, and the work goes on behind it.
"""

import json
from pathlib import Path

from minivitpose.cli.options import UsageError

BEGINNING = b'{"settings": '  # of every such file


class Journal:
    """Results by key, on disk. Attributes: path; places, key -> where its line begins; stale, true if what was there
    came from other settings and is thrown away with the first result. Raises UsageError for a file of another kind.
    """

    def __init__(self, path, settings):
        self.path, self.header = Path(path), {"settings": settings}
        self.places, self.end, self.stale = {}, 0, False
        if self.path.exists():
            self.scan()

    def scan(self):
        """Find the lines of an earlier run, as far as they are whole."""
        with open(self.path, "rb") as file:
            line = file.readline()
            if not BEGINNING.startswith(line[: len(BEGINNING)].rstrip(b"\0")):  # zeros: the system died with it
                raise UsageError(f"{self.path} was not written by minivitpose predict: take another folder with --out")
            header = parsed(line)
            self.stale = header is not None and header != self.header
            while header == self.header:
                self.end = file.tell()
                entry = parsed(file.readline())
                if entry is None or "key" not in entry:
                    break
                self.places[entry["key"]] = self.end

    def add(self, key, entry):
        """Write one result. Raises OSError, for a full disk too, and then what was there before is still whole."""
        if not self.end:
            self.end = self.write(0, self.header)
            self.stale = False
        end = self.write(self.end, {"key": key} | entry)
        self.places[key], self.end = self.end, end

    def write(self, place, content):
        """One line at this place, which becomes the end of the file. -> where the next one begins"""
        line = encode(content) + b"\n"
        mode = "r+b" if place else "wb"
        with open(self.path, mode, buffering=0) as file:
            file.truncate(place)
            file.seek(place)
            written = file.write(line)
            if written != len(line):  # the disk is full: the next attempt raises and says so
                file.write(line[written:])
        return place + len(line)

    def read(self, key):
        """One result, or None."""
        if key not in self.places:
            return None
        with open(self.path, "rb") as file:
            file.seek(self.places[key])
            return parsed(file.readline())


def parsed(line):
    """A line's content, a dict; None if it is cut or broken."""
    try:
        content = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def encode(content, **style):
    """JSON as UTF-8 bytes. A file name's bytes that are not UTF-8 become JSON's own \\udc.. escapes."""
    return json.dumps(content, ensure_ascii=False, **style).encode("utf-8", "backslashreplace")
