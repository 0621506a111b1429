"""Makes the notebooks of their sources: each NN_name.py (jupytext, py:percent) is run and becomes NN_name.ipynb.

    python notebooks/build.py                       # run all and write them
    python notebooks/build.py 03 04                 # only these
    python notebooks/build.py --check               # run all, write nothing, say how long each takes: what CI does
    python notebooks/build.py --learners my-course  # copies without solutions and outputs, to hand out
    python notebooks/build.py --figures             # print docs/figures.md: which figure comes from which cell

Needs pip install ".[notebooks]". A solution stands between nbgrader's marks, ### BEGIN SOLUTION and ### END SOLUTION,
and the cells that hold nothing else are tagged "solution" and folded.
"""

import argparse
import os
import re
import sys
import time
from pathlib import Path

import jupytext
import nbformat

HERE = Path(__file__).parent
SOLUTION = re.compile(r"^([ \t]*)### BEGIN SOLUTION\n.*?^[ \t]*### END SOLUTION\n?", re.DOTALL | re.MULTILINE)
STUB = "...  # your code\n"
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
SECONDS = 300  # for a cell, on a slow machine


def sources(chosen=()):
    """Paths of the sources, in order; only those whose names begin with one of ``chosen``, if any."""
    return [p for p in sorted(HERE.glob("[0-9][0-9]_*.py")) if not chosen or p.name.startswith(tuple(chosen))]


def read(path):
    """The source as a notebook without outputs; cells have numbers for ids, so that a new build changes no id."""
    notebook = jupytext.read(path)
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for i, cell in enumerate(notebook.cells):
        cell["id"] = f"{path.stem[:2]}-{i:03}"
    return notebook


def run(notebook):
    """The notebook with its outputs. Raises nbclient's CellExecutionError, with the cell, if a cell fails."""
    from nbclient import NotebookClient

    os.environ["MINIVITPOSE_STATIC"] = "1"  # what is written is read without a kernel: pictures instead of sliders
    return NotebookClient(
        notebook, timeout=SECONDS, record_timing=False, resources={"metadata": {"path": HERE}}
    ).execute()


def without_solutions(notebook):
    """A copy to hand out: without the cells tagged "solution", which follow the cell to write in, and without what
    stands between the marks elsewhere.
    """
    copy = nbformat.from_dict(notebook)
    copy.cells = [cell for cell in copy.cells if "solution" not in cell.metadata.get("tags", [])]
    for cell in copy.cells:
        cell.source = SOLUTION.sub(rf"\g<1>{STUB}", cell.source).rstrip("\n")
    return copy


def parts(notebook):
    """What a source and its notebook must have in common: kind, text and metadata of each cell."""
    return [(cell.cell_type, cell.source, dict(cell.metadata)) for cell in notebook.cells]


def figures(paths):
    """The text of docs/figures.md: every figure of the built notebooks, with its cell and the heading above it."""
    yield "# The figures of the course\n"
    yield "Cell: its number in the notebook. This page is what `python notebooks/build.py --figures` prints.\n"
    for path in paths:
        cells, heading = nbformat.read(path.with_suffix(".ipynb"), as_version=4).cells, ""
        yield f"## {cells[0].source.splitlines()[0].removeprefix('# ')}\n\n| cell | under the heading |\n|---|---|"
        for cell in cells:
            if cell.cell_type == "markdown":
                headings = [line.lstrip("# ") for line in cell.source.splitlines() if line.startswith("##")]
                heading = headings[-1] if headings else heading
            count = sum("image/png" in output.get("data", {}) for output in cell.get("outputs", []))
            if count:
                more = f" ({count} figures)" if count > 1 else ""
                yield f"| {cell.execution_count} | {heading or 'the first figure'}{more} |"
        yield ""


def main(arguments=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("chosen", nargs="*", metavar="NN", help="numbers of notebooks (default: all)")
    p.add_argument("--check", action="store_true", help="run them, write nothing")
    p.add_argument("--learners", type=Path, metavar="DIR", help="write copies without solutions there, run nothing")
    p.add_argument("--figures", action="store_true", help="print which figure comes from which cell, run nothing")
    options = p.parse_args(arguments)
    paths = sources(options.chosen)
    if not paths:
        p.error(
            f"no notebook begins with {' or '.join(options.chosen)}: there are {', '.join(s.stem for s in sources())}"
        )
    if options.learners:
        options.learners.mkdir(parents=True, exist_ok=True)
        for path in paths:
            nbformat.write(without_solutions(read(path)), options.learners / f"{path.stem}.ipynb")
        print(f"written: {len(paths)} notebooks without solutions in {options.learners}")
        return 0
    if options.figures:
        print("\n".join(figures(paths)).rstrip())
        return 0
    begin = time.perf_counter()
    for path in paths:
        start = time.perf_counter()
        notebook = run(read(path))
        if not options.check:
            nbformat.write(notebook, path.with_suffix(".ipynb"))
        print(f"{path.stem}: {time.perf_counter() - start:.0f} s", flush=True)
    print(f"{len(paths)} passed, 0 failed in {time.perf_counter() - begin:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
