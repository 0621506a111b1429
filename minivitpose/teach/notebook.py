"""What only a notebook can show: sliders beside a picture, and sentences whose numbers were just computed."""

import os
from numbers import Real

from minivitpose.teach.figures import drawn

STATIC = "MINIVITPOSE_STATIC"  # set by who runs notebooks to be read without a kernel


def say(text):
    """Show a sentence (Markdown) whose numbers were just computed."""
    from IPython.display import Markdown, display

    display(Markdown(text))


def explore(draw, still=None, start=None, **choices):
    """Show ``draw(**chosen)``, a figure, with a slider or a menu for each choice, where a kernel and ipywidgets are.

    draw: function of the names in ``choices`` -> Figure. choices: name -> sequence of values: numbers get a slider, all
    else a menu. start: name -> the value to begin with, the first one for names that it does not have. still: function
    without arguments -> the Figure to show where sliders cannot work (a page, a printed notebook, no ipywidgets);
    without it that is ``draw`` of the start.
    """
    from IPython.display import display

    start = {name: values[0] for name, values in choices.items()} | (start or {})
    try:
        if os.environ.get(STATIC):
            raise ImportError
        import ipywidgets
    except ImportError:
        display(still() if still else draw(**start))
        return
    controls = {name: control(ipywidgets, name, list(values), start[name]) for name, values in choices.items()}
    shown = []

    def show(**chosen):
        drawn[:] = [entry for entry in drawn if entry[1] not in shown]  # one figure, however often the sliders move
        shown[:] = [draw(**chosen)]
        display(*shown)

    screen = ipywidgets.interactive_output(show, controls)
    display(ipywidgets.VBox([ipywidgets.HBox(list(controls.values())), screen]))


def control(ipywidgets, name, values, value):
    """A slider over numbers, a menu of anything else."""
    common = {"options": values, "value": value, "description": name}
    if all(isinstance(value, Real) for value in values):
        return ipywidgets.SelectionSlider(**common, continuous_update=False)
    return ipywidgets.Dropdown(**common)
