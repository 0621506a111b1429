"""The docs keep step with the files: links lead somewhere, and the table of files knows all of them."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_A_ROOM = {"__init__.py"}


def links(text):
    """What Markdown links and pictures point to, without the web and without anchors."""
    found = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return [link.split("#")[0] for link in found if "://" not in link and not link.startswith("#")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    broken = [link for link in links(page.read_text(encoding="utf-8")) if not (page.parent / link).exists()]
    assert not broken


def test_the_links_are_found():
    assert links("[a](b.md#c), ![d](e/f.png) [g](https://h.i) [j](#k)\n```\n[l](m)\n```\n") == ["b.md", "e/f.png"]
    assert len(links((ROOT / "README.md").read_text(encoding="utf-8"))) > 40


def names(table):
    """The files and folders that it names."""
    return set(re.findall(r"`([^`]+)`", table))


def test_the_table_of_files_knows_every_file():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    known = names(text.split("## Every file")[1].split("\n## ")[0])
    files = {name.split("/")[-1] for name in known}
    covered = {"minivitpose/teach/mistakes", "minivitpose/cli"}  # one row tells of each folder
    for path in [*ROOT.glob("minivitpose/**/*.py"), *ROOT.glob("docs/*.py")]:
        folder = path.parent.relative_to(ROOT).as_posix()
        wild = any(path.match(name) for name in known if "*" in name)
        assert path.name in files | NOT_A_ROOM or wild or folder in covered, path
    present = {
        path.name for pattern in ("minivitpose/**/*", "docs/*", "tests/*", "notebooks/*") for path in ROOT.glob(pattern)
    }
    assert {name for name in files if name.endswith(".py") and "*" not in name} <= present


def rooms():
    """Each file or folder that the table of rooms names -> the number of its row."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = [row for row in text.split("## The rooms")[1].split("\n## ")[0].splitlines() if row.startswith("| `")]
    found = {}
    for i, row in enumerate(rows):
        folder = ""
        for name in re.findall(r"`([^`]+)`", row.split(" | ")[0]):
            folder = name.rpartition("/")[0] + "/" if "/" in name else folder
            found[(name if "/" in name or not name.endswith(".py") else folder + name).rstrip("/")] = i
    return found


def room_of(name, found):
    """The row of a file or folder: its own, or that of the folder that it is in."""
    parts = name.split("/")
    return next((found[place] for n in range(len(parts), 0, -1) if (place := "/".join(parts[:n])) in found), None)


def imported(path):
    """The package's own modules and folders that a file imports, as paths in the package."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for place in ("/".join(name.split(".")[1:]) for name in modules if name.startswith("minivitpose.")):
            if (ROOT / "minivitpose" / f"{place}.py").exists():
                yield f"{place}.py"
            elif (ROOT / "minivitpose" / place).is_dir():
                yield place


def test_a_room_imports_only_from_those_above_it():
    found, count = rooms(), 0
    for path in ROOT.glob("minivitpose/**/*.py"):
        name = path.relative_to(ROOT / "minivitpose").as_posix()
        if name in ("__init__.py", "__main__.py"):
            continue
        for other in imported(path):
            count += 1
            assert room_of(other, found) <= room_of(name, found), f"{name} imports {other}"
    assert count > 300
