"""The notebooks: equal to their sources, run, without errors, and free of what a reader should not meet.

That they run anew is checked by ``python notebooks/build.py --check``.
"""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("jupytext")

FOLDER = Path(__file__).parent.parent / "notebooks"
spec = importlib.util.spec_from_file_location("build", FOLDER / "build.py")
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)
SOURCES = build.sources()


def built(path):
    return nbformat.read(path.with_suffix(".ipynb"), as_version=4)


def tagged(notebook, tag):
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def test_all_sixteen_are_there():
    assert [path.name[:3] for path in SOURCES] == [f"{i:02}_" for i in range(16)]
    assert sorted(p.stem for p in FOLDER.glob("*.ipynb")) == [p.stem for p in SOURCES]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
class TestNotebook:
    def test_it_is_equal_to_its_source(self, path):
        assert build.parts(built(path)) == build.parts(build.read(path))

    def test_it_was_run_from_top_to_bottom_without_an_error(self, path):
        code = [cell for cell in built(path).cells if cell.cell_type == "code"]
        assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
        outputs = [output for cell in code for output in cell.outputs]
        assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
        assert any("image/png" in o.get("data", {}) for o in outputs)

    def test_it_is_small_and_tells_nothing_of_the_machine(self, path):
        text = path.with_suffix(".ipynb").read_text()
        assert len(text) < 1_500_000
        words = re.sub(r'"image/png": "[^"]*"', "", text)
        assert not re.search(r"/home/|/Users/|/tmp|/root|ipykernel_|0x[0-9a-f]{9,}", words)

    def test_its_links_lead_somewhere(self, path):
        names = {p.name for p in FOLDER.iterdir()}
        prose = "\n".join(cell.source for cell in build.read(path).cells if cell.cell_type == "markdown")
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", prose):
            assert target in names or (FOLDER / target).exists(), target

    def test_its_exercises_have_hints_and_a_hidden_solution(self, path):
        notebook = build.read(path)
        prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
        titles = ["## Exercise" + rest for rest in prose.split("\n## Exercise")[1:]]
        number = int(path.name[:2])
        assert [re.match(r"## Exercise (\d+)\.(\d+) · \S", t).groups() for t in titles] == [
            (str(number), str(i + 1)) for i in range(len(titles))
        ]
        minutes = [int(found) for found in re.findall(r"Difficulty [●○]{3} · (\d+) minutes", prose)]
        assert len(titles) == len(minutes) >= 2
        assert re.search(r"\n\d+ minutes to read, (\d+) for the exercises. Needs:", prose)[1] == str(sum(minutes))
        solutions = tagged(notebook, "solution")
        assert solutions and all(cell.metadata["jupyter"] == {"source_hidden": True} for cell in solutions)
        assert all("### BEGIN SOLUTION" in cell.source and "### END SOLUTION" in cell.source for cell in solutions)
        assert "<details><summary>" in path.read_text() and tagged(notebook, "exercise")

    def test_the_learners_copy_has_no_solution_and_no_outputs(self, path):
        whole, copy = build.read(path), build.without_solutions(build.read(path))
        assert not tagged(copy, "solution") and len(tagged(copy, "exercise")) == len(tagged(whole, "exercise"))
        for cell in copy.cells:
            assert "SOLUTION" not in cell.source and not cell.get("outputs")
            if cell.cell_type == "code":
                ast.parse(re.sub(r"^[%!].*$", "", cell.source, flags=re.MULTILINE))


def test_the_list_of_figures_is_current():
    assert (FOLDER.parent / "docs" / "figures.md").read_text().rstrip() == "\n".join(build.figures(SOURCES)).rstrip()


def test_solutions_are_cut_out_between_their_marks():
    cell = nbformat.v4.new_code_cell("a = 1\n### BEGIN SOLUTION\nb = 2\n### END SOLUTION\nc = 3")
    inner = nbformat.v4.new_code_cell("def f(x):\n    ### BEGIN SOLUTION\n    return x\n    ### END SOLUTION\n")
    hidden = nbformat.v4.new_code_cell("### BEGIN SOLUTION\nd = 4\n### END SOLUTION", metadata={"tags": ["solution"]})
    whole = nbformat.v4.new_notebook(cells=[cell, hidden, inner])
    copy = build.without_solutions(whole)
    assert copy.cells[0].source == f"a = 1\n{build.STUB}c = 3"
    assert copy.cells[1].source == f"def f(x):\n    {build.STUB.rstrip()}"
    assert len(copy.cells) == 2 and "b = 2" in whole.cells[0].source
