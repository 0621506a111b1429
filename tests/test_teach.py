"""The checks of learners' functions are checked: right ones pass however written, each known mistake is named, trash is
refused, and nothing that a learner's function does gets out as an error.
"""

import importlib.util
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import minivitpose as mvp
from minivitpose import layers
from minivitpose.teach import Verdict, check, steps
from minivitpose.teach.cases import each_array
from minivitpose.teach.check import trials, verdict
from minivitpose.teach.mistakes import mistakes_of
from minivitpose.teach.relations import relation
from minivitpose.teach.steps import STEPS
from teach_variants import each_leaf, variants

DOCS = Path(__file__).parent.parent / "docs"


def right(name, *args):
    """What the step's own function says."""
    return STEPS[name].truth(**dict(zip(STEPS[name].arguments, args, strict=True)))


# --------------------------------------------------------------------------------- right, known to be wrong, and trash


@pytest.mark.parametrize("name", STEPS)
def test_right_functions_pass_however_written(name):
    for how, function in variants(STEPS[name]):
        answer = check(name, function)
        assert answer, f"{how}: {answer}"
        assert answer.cause is None and answer.case is None and answer.share < 0.3, how


@pytest.mark.parametrize("name", STEPS)
def test_each_known_mistake_is_named_in_either_dtype(name):
    step = STEPS[name]
    assert mistakes_of(name)
    for mistake in mistakes_of(name):
        results = trials(step, mistake.function)
        for dtypes in [step.dtypes, *((dtype,) for dtype in step.dtypes)]:
            answer = verdict(step, [t for t in results if t.dtype in dtypes])
            if mistake.cause == "float64 leaks in" and dtypes == (np.float64,):
                assert answer.ok
                continue
            assert not answer and answer.cause == mistake.cause, f"{mistake.cause}, {dtypes}: {answer}"
            assert mistake.instead in answer.message and "In this case" not in answer.message


def zeros(a, rng):
    return np.zeros_like(a)


def shuffled(a, rng):
    return rng.permutation(a.ravel()).reshape(a.shape) if a.size > 2 else a + 1


def noisy(a, rng):
    return (a * (1 + 1e-3 * rng.standard_normal(a.shape))).astype(a.dtype)


def other_dtype(a, rng):
    return a.astype(np.float16 if a.dtype == np.float32 else np.float32)


TRASH = [zeros, shuffled, noisy, other_dtype]


@pytest.mark.parametrize("name", STEPS)
def test_trash_is_refused_and_not_given_a_name(name):
    for spoil in TRASH:

        def function(*args, spoil=spoil):
            rng = np.random.default_rng(0)
            result = right(name, *args)
            return each_leaf(lambda a: spoil(a, rng) if isinstance(a, np.ndarray) else 0.0 * a, result)

        answer = check(name, function)
        assert not answer, spoil.__name__
        if name == "heatmap_loss":  # a number has no dtype
            continue
        assert answer.cause in ({"wrong dtype"} if spoil is other_dtype else {None}), f"{spoil.__name__}: {answer}"


@pytest.mark.parametrize("name", [name for name in STEPS if name != "crop"])
def test_a_change_of_the_input_is_refused(name):
    def function(*args):
        result = each_leaf(np.copy, right(name, *args))
        for i, x in enumerate(args):
            each_array(lambda a: a.__iadd__(1), x) if i == len(args) - 1 or isinstance(x, np.ndarray) else None
        return result

    answer = check(name, function)
    assert not answer and answer.cause == "changes its input"
    assert STEPS[name].arguments[0] in answer.message


@pytest.mark.parametrize("name", STEPS)
def test_the_first_argument_is_no_answer(name):
    assert not check(name, lambda *args: args[0])


def test_an_argument_that_comes_back_is_named():
    assert "the argument x, unchanged" in check("layer_norm", lambda x, weight, bias, eps: x).message


def test_two_mistakes_at_once_name_the_one_of_the_first_case():
    def layer_norm(x, weight, bias, eps):
        n = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * weight
        return n + (bias if eps < 0.01 else 1)  # another mistake where eps is large

    def missing(x, weight, bias, eps):
        return layer_norm(x, weight, 0 * bias, eps)

    answer = check("layer_norm", missing)
    assert answer.cause == "missing bias" and "something else differs" in answer.message
    answer = check("layer_norm", layer_norm)
    assert answer.cause is None and answer.case == "another eps"


# ------------------------------------------------------------------------------------------- whatever a function does


def raises(error):
    def function(x):
        raise error

    return function


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError


class Tensor:
    """As a torch tensor: no NumPy array, and not to be computed with."""

    def __array__(self, *args, **kwargs):
        raise RuntimeError("requires grad")


ODD = {
    "returns None": (lambda x: None, "not written yet", "softmax\\(x\\)"),
    "returns NotImplemented": (lambda x: NotImplemented, "not written yet", "return"),
    "returns Ellipsis": (lambda x: ..., "not written yet", "return"),
    "raises NotImplementedError": (raises(NotImplementedError), "not written yet", "return"),
    "raises": (raises(KeyError("k")), "raises an error", "KeyError: 'k'\n.*line [0-9]+ of your code: raise error"),
    "raises what cannot be printed": (raises(Unprintable()), "raises an error", "Unprintable: <"),
    "leaves Python": (raises(SystemExit(3)), "raises an error", "SystemExit: 3"),
    "never ends": (lambda x: ODD["never ends"][0](x), "raises an error", "RecursionError"),
    "two arguments": (lambda x, y: x, "wrong number of arguments", "softmax\\(x\\).*\\(x, y\\)"),
    "no arguments": (lambda: 1, "wrong number of arguments", "softmax\\(x\\)"),
    "a list": (lambda x: layers.softmax(x).tolist(), "wrong type", "found a list: np.array"),
    "a tensor": (lambda x: Tensor(), "wrong type", "test_teach Tensor: its .detach"),
    "a string": (lambda x: "softmax", "wrong type", "found a str"),
    "a generator": (lambda x: (row for row in x), "wrong type", "found a generator"),
    "a dict": (lambda x: {"y": x}, "wrong type", "expected one array, found a dict"),
    "truth values": (lambda x: x > 0, "wrong dtype", "found dtype bool"),
    "complex numbers": (lambda x: x + 0j, "wrong dtype", "complex"),
    "objects": (lambda x: x.astype(object), "wrong dtype", "object"),
    "whole numbers": (lambda x: x.astype(int), "wrong dtype", "int64.*\ndtype in is dtype out"),
    "one number": (lambda x: x.sum(), "wrong shape", r"\(2, 3, 4, 5\), found \(\)"),
    "nothing in it": (lambda x: x[:0], "wrong shape", r"found \(0, 3, 4, 5\)"),
    "an enormous view": (lambda x: np.broadcast_to(x[0], (10**9, *x.shape[1:])), "wrong shape", "1000000000"),
    "many axes": (lambda x: x.reshape(x.shape + (1,) * 12), "wrong shape", "reshape would fit"),
    "transposed, right": (lambda x: layers.softmax(x).T, "wrong shape", "transpose\\(3, 2, 1, 0\\) puts them right"),
    "transposed, wrong": (lambda x: x.T, "wrong shape", "would give this shape, but not yet"),
    "flattened": (lambda x: layers.softmax(x).ravel(), "wrong shape", "reshape would fit, and then the numbers are"),
    "flattened, wrong": (lambda x: x.ravel(), "wrong shape", "reshape would fit, but look at the order"),
    "float64": (lambda x: layers.softmax(x.astype(float)), "float64 leaks in", "float32.*float64.\nIt gets in by"),
    "float32": (lambda x: layers.softmax(x.astype(np.float32)), "wrong dtype", "found float32"),
    "writes": (lambda x: np.exp(x, out=x) / x.sum(-1, keepdims=True), "changes its input", "argument x,.*\nx = x - m"),
    "NaN": (lambda x: x * np.nan, None, "120 of 120 numbers are NaN or infinite.\nNaN comes from"),
    "infinity": (lambda x: np.full_like(x, np.inf), None, "found inf"),
    "adds up to NaN": (lambda x: np.array([np.inf] * x.size, x.dtype).reshape(x.shape) * 0, None, "found nan"),
    "is no function": (3, "not a function", r"check\('softmax', softmax\)"),
    "was called": (np.ones(3), "not a function", "the function itself"),
}


@pytest.mark.parametrize("what", ODD)
def test_whatever_a_function_does_becomes_a_verdict(what):
    function, cause, message = ODD[what]
    answer = check("softmax", function)
    assert not answer and answer.cause == cause
    assert re.search(message, answer.message), answer.message
    assert answer._repr_html_()


def test_an_interrupt_passes_through():
    with pytest.raises(KeyboardInterrupt):
        check("softmax", raises(KeyboardInterrupt))


def test_a_function_that_destroys_its_arguments_is_refused():
    def linear_of(x, qkv, proj, num_heads):
        y = right("attention", x, qkv, proj, num_heads)
        qkv["weight"], qkv["self"] = None, qkv
        return y

    assert check("attention", linear_of).cause in ("changes its input", "raises an error")


def test_an_error_in_some_cases_does_not_hide_a_known_mistake():
    answer = check("linear", lambda x, weight, bias: x @ weight if bias is None else x @ weight + bias)
    assert answer.cause == "weight not transposed"
    assert "raises ValueError: matmul" in answer.message and "Where something comes out, it is" in answer.message


def test_a_number_that_is_none():
    assert check("heatmap_loss", lambda *args: True).cause == "wrong dtype"
    assert check("heatmap_loss", lambda *args: np.ones(2)).cause == "wrong shape"


def test_several_outputs():
    own = STEPS["linear_backward"].truth
    spoil = {
        "only one": (lambda *a: own(*a)[0], "wrong type", "expected 2 values, grad_x, gradients; found one array"),
        "three": (lambda *a: (*own(*a), 1), "wrong type", "found 3 values"),
        "no dict": (lambda *a: (own(*a)[0], own(*a)[1]["weight"]), "wrong names", "missing are weight, bias"),
        "half": (lambda *a: (own(*a)[0], None), "not written yet", "gradients: None"),
        "a key": (lambda *a: (own(*a)[0], {"weight": own(*a)[1]["weight"]}), "wrong names", "missing are bias"),
        "a list in it": (lambda *a: (own(*a)[0].tolist(), own(*a)[1]), "wrong type", "grad_x: expected a NumPy array"),
    }
    for function, cause, message in spoil.values():
        answer = check("linear_backward", function)
        assert answer.cause == cause and message in answer.message, answer
    answer = check("linear_backward", lambda *a: (own(*a)[0], own(*a)[1] | {"bias": 2 * own(*a)[1]["bias"]}))
    assert "at bias[" in answer.message and "2 times what is expected" in answer.message


def test_arguments_go_by_name_or_in_order():
    assert check("layer_norm", lambda bias, weight, eps, x: layers.layer_norm(x, weight, bias, eps))
    assert check("layer_norm", lambda a, w, b, e, more=None: layers.layer_norm(a, w, b, e))
    assert check("layer_norm", lambda *args: layers.layer_norm(*args))
    assert check("layer_norm", lambda **named: layers.layer_norm(**named))
    assert check("softmax", np.exp).cause is None  # a ufunc, whose signature Python may not know


def test_warnings_of_a_function_stay_inside():
    def softmax(x):
        e = np.exp(x - x.max(-1, keepdims=True))
        np.float64(1e308) * np.float64(10) + np.float64(1) / np.float64(0)
        return e / e.sum(-1, keepdims=True)

    assert check("softmax", softmax)


# ---------------------------------------------------------------------------------------------------- simple relations

A = np.random.default_rng(0).standard_normal((3, 4, 5))
MAPS = np.random.default_rng(1).standard_normal((2, 3, 6, 5))


def changed(x, place, by=1.0):
    y = x.copy()
    y[place] += by
    return y


def rim_of(x):
    y = x + 1
    y[..., 1:-1, 1:-1] = x[..., 1:-1, 1:-1]
    return y


RELATIONS = {
    "All numbers found are 0": (0 * A, A),
    "sign is flipped": (-A, A),
    "0.5 times what is expected, that is 1 / 2": (A / 2, A),
    "that is 1 / sqrt(5)": (A / math.sqrt(5), A),
    "is 4 times what is expected": (4 * A, A),
    "is 0.123457 times what is expected.": (0.123457 * A, A),
    "0.25 too large": (A + 0.25, A),
    "3 too small": (A - 3, A),
    "transpose(1, 0, 2)": (A[:, :3].transpose(1, 0, 2), A[:, :3]),
    "flip along axis 1": (A[:, ::-1], A),
    "one place too far along axis 2": (np.roll(A, 1, 2), A),
    "one place too little along axis 1": (np.roll(A, -1, 1), A),
    "Only the first along axis 0": (changed(A, np.s_[1:]), A),
    "lies at index 2 of axis 1, which has 4": (changed(A, np.s_[:, 2]), A),
    "Only the border is wrong": (rim_of(MAPS), MAPS),
    "Only the corners are wrong": (changed(MAPS, np.s_[..., ::5, ::4]), MAPS),
    "right numbers in another order": (np.random.default_rng(2).permutation(A.ravel()).reshape(A.shape), A),
    "nearly right": (A * (1 + 1e-3 * np.sin(A)), A),
}


@pytest.mark.parametrize("text", RELATIONS)
def test_simple_relations_are_told(text):
    assert text in relation(*RELATIONS[text])


def test_no_relation_is_made_up():
    other = np.random.default_rng(3).standard_normal(A.shape)
    assert relation(other, A) == relation(A * np.nan, A) == relation(A[:1, :1, :1], A[:1, :1, :1]) == ""


# ------------------------------------------------------------------------------------------------ what is shown


def test_a_verdict_is_true_or_false_and_prints_its_message():
    good, bad = check("relu", layers.relu), check("relu", np.abs)
    assert isinstance(good, Verdict) and good and not bad
    assert str(good) == repr(good) == good.message and good.message.startswith("relu: right. ")
    assert bad.message.startswith('relu: not yet.\nCase "a map", float64: expected 0 at [')
    assert (bad.step, bad.cause, bad.case) == ("relu", "absolute value", "a map")


def test_the_error_and_what_is_allowed_are_told():
    message = check("softmax", lambda x: layers.softmax(x) * x.dtype.type(1.25)).message
    assert "1.25 times what is expected" in message
    assert "The largest error is" in message and "root mean square" in message and "Allowed is" in message


def test_html_says_it_with_a_sign_and_a_word_and_shows_where():
    good, bad = check("relu", layers.relu)._repr_html_(), check("relu", np.abs)._repr_html_()
    assert "✓ right" in good and "<img" not in good
    assert "✗ not yet" in bad and 'src="data:image/png;base64,' in bad and "rows are axis 2, columns axis 3" in bad
    assert "… not written yet" in check("relu", lambda x: None)._repr_html_()
    assert "<script" not in good + bad and "&lt;b&gt;" in check("relu", raises(ValueError("<b>")))._repr_html_()
    assert "<img" not in check("heatmap_loss", lambda *args: 1.0)._repr_html_()  # one number has no picture


def test_steps_are_a_table():
    text, html = str(steps()), steps()._repr_html_()
    for name in STEPS:
        assert f"{name}(" in text and f"<code>{name}(" in html
    assert repr(steps()) == text and len(steps()) == len(STEPS)


@pytest.mark.parametrize("name, like", [("layernorm", "layer_norm"), ("conv", "conv2d"), ("Softmax", "softmax")])
def test_an_unknown_step_is_refused_with_the_names_like_it(name, like):
    with pytest.raises(ValueError, match=f"no step '{name}'; like it: .*{like}"):
        check(name, None)
    with pytest.raises(ValueError, match="steps\\(\\) lists"):
        check("zzz", None)


def test_the_cases_are_the_same_each_time_and_nobody_changes_them():
    step = STEPS["linear"]
    first, second = (step.cases[0].arguments(np.float32) for _ in range(2))
    assert first["x"] is not second["x"] and np.array_equal(first["x"], second["x"])
    assert not step.cases[1].arguments(np.float32)["x"].flags.c_contiguous


def test_teach_is_reached_from_the_package_and_not_loaded_before():
    assert mvp.teach.check is check
    code = "import sys, minivitpose; sys.exit('minivitpose.teach' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# ---------------------------------------------------------------------------------------------------------------- docs


def test_the_table_in_the_docs_is_current():
    lines = (DOCS / "mistakes.md").read_text(encoding="utf-8").split("## The mistakes")[1].splitlines()
    rows = [tuple(cell.strip() for cell in line.split(" | ")[:3]) for line in lines if line.startswith("| ")][1:]
    told = [
        (f"| {name}", m.cause, f"{m.happens}. {m.instead}".replace("|", "\\|"))
        for name in STEPS
        for m in mistakes_of(name)
    ]
    assert rows == told, "run: python docs/mutation_table.py > docs/mistakes.md"


def test_the_table_is_made_by_its_script():
    spec = importlib.util.spec_from_file_location("mutation_table", DOCS / "mutation_table.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    rows = list(script.mistake_rows(STEPS["layer_norm"]))
    assert [row["cause"] for row in rows] == [m.cause for m in mistakes_of("layer_norm")]
    assert min(row["errors"][np.float32] for row in rows) > 20
    assert script.right_functions(STEPS["relu"])[1] == 0
