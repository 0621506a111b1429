"""The training itself: batch, loss and gradients, step; a log, checkpoints, and an end that does not depend on pauses.

All that a step draws at random is drawn from the seed and the number of the step. So a training that was stopped goes
on from its last checkpoint and ends with the same bits as one that was not.
"""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np

from minivitpose.checkpoint import CheckpointError, read_state_dict
from minivitpose.files import replacing
from minivitpose.model import ViTPose
from minivitpose.parameters import copied, flatten, nest, stands_in
from minivitpose.pose.decode import decode_argmax
from minivitpose.training.backward import loss_and_gradients
from minivitpose.training.loss import heatmap_loss
from minivitpose.training.optimiser import clip, new_optimiser
from minivitpose.training.schedule import schedule
from minivitpose.training.settings import Settings

LOG = ("step", "loss", "accuracy", "rate", "gradient", "validation_loss", "validation_accuracy")
CHECKPOINT, TABLE, WEIGHTS = "checkpoint.npz", "log.csv", "weights.npz"
ANEW = "begin anew in another folder, with --weights the last weights.npz if there are some"
EVERY = 20  # steps to a line of the log
SAVE_SECONDS = 60  # from one checkpoint to the next


class DivergedError(ArithmeticError):
    """The loss is no longer a number; the message names the first place in the network and what to try."""


class Ahead:
    """A source whose next batch is made while the last one is learnt from: a step leaves a core idle now and then."""

    def __init__(self, source, steps):
        self.source, self.steps = source, steps
        self.worker, self.number, self.batch = ThreadPoolExecutor(1), None, None

    def __call__(self, step):
        """source(step), whichever steps are asked for."""
        found = (self.batch if self.number == step else self.worker.submit(self.source, step)).result()
        self.number = step + 1 if step + 1 < self.steps else None
        self.batch = self.number and self.worker.submit(self.source, self.number)
        return found


class Training:
    """A training in a folder: ``for line in training.run(): ...`` does it, in as many pieces as you like.

    It may have parts: each begins with the weights of the one before, and with an optimiser and a rate of its own. The
    folder holds checkpoint.npz (everything to go on from), log.csv and weights.npz, of the last part that is done.
    """

    def __init__(self, folder, parts, params, config, data, engine="fast"):
        """parts: the Settings of each. data(settings) -> source, validation, of a part.

        source(step) -> (images, targets, target_weight) of a batch; validation: a list of such batches. Takes up the
        checkpoint in the folder if there is one. Raises CheckpointError if it is of other settings; those of parts
        that have not begun may change.
        """
        self.folder, self.parts, self.config, self.data, self.engine = Path(folder), parts, config, data, engine
        self.params = copied(params)
        self.lines, self.sums = [], []
        if (self.folder / CHECKPOINT).exists():
            self.restore()
        else:
            self.begin(0)

    def begin(self, part):
        """The start of a part, with the weights that there are."""
        self.part, self.settings, self.step = part, self.parts[part], 0
        source, self.validation = self.data(self.settings)
        self.source = Ahead(source, self.settings.steps)
        self.optimiser = new_optimiser(self.params, self.config, self.settings)
        self.average = flatten(copied(self.params)) if self.settings.average else None
        self.first = flatten(copied(self.params)) if self.settings.blend else None

    @property
    def done(self):
        """The steps that are done, of all parts."""
        return sum(part.steps for part in self.parts[: self.part]) + self.step

    @property
    def finished(self):
        """Nothing is left to do."""
        return self.part == len(self.parts) - 1 and self.step == self.settings.steps

    def run(self, until=None):
        """Do steps until all are done or time.monotonic() is ``until``; -> dict of the numbers of each step."""
        saved = time.monotonic()
        while self.step < self.settings.steps and (until is None or time.monotonic() < until):
            yield self.one_step()
            if time.monotonic() >= saved + SAVE_SECONDS:
                self.save()
                saved = time.monotonic()
        self.save()
        if self.step < self.settings.steps:
            return
        with replacing(self.folder / WEIGHTS, lasting=True) as file:
            np.savez(file, **self.weights())
        if not self.finished:
            self.params = copied(nest(self.weights()))
            self.begin(self.part + 1)
            yield from self.run(until)

    def one_step(self):
        """One batch, one update, perhaps a line of the log. -> {name in LOG: number}"""
        s = self.settings
        images, targets, weight = self.source(self.step)
        engine = "numba" if self.engine == "fast" else self.engine  # the same step, and no weights packed for nothing
        model = ViTPose(self.params, self.config, engine)
        rng = np.random.default_rng((s.seed, self.step))
        options = {"drop_path": s.drop_path, "rng": rng, "precision": s.precision, "batch_norm": self.batch_norm()}
        loss, gradients, statistics = loss_and_gradients(model, images, targets, weight, **options)
        gradients = {name: g for name, g in flatten(gradients).items() if name in self.optimiser.params}
        norm = clip(gradients, s.clip)
        if not np.isfinite(loss) or not np.isfinite(norm):
            raise DivergedError(self.diagnosis(model, images, loss))
        rate = s.rate * schedule(self.step, s.steps, s.warm_up, s.schedule, s.final, s.stay)
        self.optimiser.step(gradients, rate)
        flat = flatten(self.params)
        for name, x in flatten(statistics).items():
            if not stands_in(name, s.frozen):
                flat[name][...] = x
        if self.average:
            keep = min(s.average, (1 + self.step) / (10 + self.step))  # the first weights are soon forgotten
            for name, x in flat.items():
                self.average[name] = keep * self.average[name] + (1 - keep) * x if is_real(x) else x.copy()
        self.step += 1
        line = {"step": self.done, "loss": loss, "rate": rate, "gradient": norm}
        if self.step % EVERY == 0:
            found = ViTPose(self.params, self.config, self.engine)(images)
            line["accuracy"] = accuracy(found, targets, weight)
        return self.log(line)

    def batch_norm(self):
        """By the batch; where all norms are frozen by their running statistics, as the model is used afterwards."""
        norms = [name for name in flatten(self.params) if name.endswith("running_mean")]
        return "running" if norms and all(stands_in(name, self.settings.frozen) for name in norms) else "batch"

    def log(self, line):
        """Gather the step's numbers; every so often they become a line of the log."""
        self.sums.append((line["loss"], line["gradient"]))
        last = self.step == self.settings.steps
        if self.step % self.settings.validate_every == 0 or last:
            line |= self.validate()
        if self.step % EVERY == 0 or last or "validation_loss" in line:
            loss, gradient = np.mean(self.sums, axis=0)
            self.sums = []
            self.lines.append(line | {"loss": float(loss), "gradient": float(gradient)})
            self.write_log()
        return line

    def validate(self):
        """The loss and accuracy of the weights as they would be saved, on batches that are never learnt from."""
        if not self.validation:
            return {}
        model = ViTPose(nest(self.weights()), self.config, self.engine)
        found = [(model(images), targets, weight) for images, targets, weight in self.validation]
        sizes, losses = [len(heatmaps) for heatmaps, *_ in found], [heatmap_loss(*batch) for batch in found]
        near = np.concatenate([hits(*batch) for batch in found])
        return {"validation_loss": float(np.average(losses, weights=sizes)), "validation_accuracy": share_of(near)}

    def weights(self):
        """The state dict to keep: averaged if that is wanted, and at the end blended with what the part began with."""
        found, share = dict(self.average or flatten(self.params)), self.settings.blend
        if share and self.step == self.settings.steps:
            found |= {name: share * x + (1 - share) * found[name] for name, x in self.first.items() if is_real(x)}
        return found

    def diagnosis(self, model, images, loss):
        """Where the first number that is none arises."""
        bad = next((name for name, x in flatten(self.params).items() if not np.isfinite(x).all()), None)
        if bad is None:
            _, cache = model.with_engine("numpy").run_with_cache(images)
            bad = next((name for name, x in cache.items() if not np.isfinite(x).all()), "the gradients")
        return (
            f"the loss is {loss} at step {self.done}; the first place that is not finite: {bad}; begin anew in another "
            f"folder, with a smaller rate (it is {self.settings.rate:g}) or a longer warm_up"
        )

    # ------------------------------------------------------------------------------------------ files

    def save(self):
        """Everything to go on from, whole or not at all."""
        arrays = {f"param.{name}": x for name, x in flatten(self.params).items()}
        arrays |= {f"average.{name}": x for name, x in (self.average or {}).items()}
        arrays |= {f"first.{name}": x for name, x in (self.first or {}).items()}
        arrays |= {f"optimiser.{name}": x for name, x in self.optimiser.state().items()}
        begun = [asdict(part) for part in self.parts[: self.part + 1]]
        state = {"step": self.step, "parts": begun, "lines": self.lines, "sums": self.sums}
        arrays["__state__"] = np.frombuffer(json.dumps(state).encode(), np.uint8)
        with replacing(self.folder / CHECKPOINT, lasting=True) as file:
            np.savez(file, **arrays)

    def restore(self):
        """Take up the checkpoint in the folder."""
        path = self.folder / CHECKPOINT
        try:
            arrays = read_state_dict(path)
        except CheckpointError:
            text = f"{path}, which the training would go on from, is cut off, damaged or something else"
            raise CheckpointError(text, fix=ANEW) from None
        try:
            state = json.loads(bytes(arrays["__state__"]))
            stored = [asdict(Settings()) | dict(part) for part in state["parts"]]  # what came later was at its default
        except (KeyError, TypeError, ValueError):
            raise not_ours(path) from None
        if not stored:
            raise not_ours(path)
        if other := difference(stored, json.loads(json.dumps([asdict(part) for part in self.parts]))):
            fix = "give the same settings to go on, a further part in [[parts]] to learn more, or another folder"
            raise CheckpointError(f"{path} is of a training with {other}", fix=fix)
        self.begin(len(stored) - 1)
        try:
            for name, x in flatten(self.params).items():
                x[...] = arrays[f"param.{name}"]
            for name in self.average or {}:
                self.average[name] = np.array(arrays[f"average.{name}"])
            for name in self.first or {}:
                self.first[name] = np.array(arrays[f"first.{name}"])
            start = "optimiser."
            self.optimiser.restore({k.removeprefix(start): x for k, x in arrays.items() if k.startswith(start)})
            self.step, self.lines, self.sums = state["step"], state["lines"], [tuple(x) for x in state["sums"]]
        except (KeyError, TypeError, ValueError):
            raise not_ours(path) from None

    def write_log(self):
        """The whole table anew: a training that was stopped leaves no line of steps that are done again."""
        with replacing(self.folder / TABLE) as file:
            rows = [",".join(LOG)] + [",".join(format_cell(line.get(name)) for name in LOG) for line in self.lines]
            file.write(("\n".join(rows) + "\n").encode())


def is_real(x):
    """Whether it can be averaged; counts cannot."""
    return x.dtype.kind == "f"


def difference(found, wanted):
    """What the settings of the parts that were begun differ in from those wanted, in words; None: in nothing."""
    if len(found) > len(wanted):
        return f"{len(found)} parts begun, not {len(wanted)}"
    for number, (here, there) in enumerate(zip(found, wanted, strict=False), 1):
        for name, value in there.items():
            if here.get(name) != value:
                where = f" in part {number}" if len(wanted) > 1 else ""
                return f"{name} = {here.get(name)!r}{where}, not {value!r}"
    return None


def not_ours(path):
    return CheckpointError(f"{path} is no checkpoint of this training", fix=ANEW)


def format_cell(value):
    return "" if value is None else f"{value:.6g}"


def accuracy(heatmaps, targets, weight):
    """The share of the marked joints that are hits, NaN where nothing is marked."""
    return share_of(hits(heatmaps, targets, weight))


def share_of(near):
    """How many are true, 0 to 1, or NaN of none."""
    return float(near.mean()) if near.size else float("nan")


def hits(heatmaps, targets, weight):
    """Of each marked joint: is its peak less than 1/20 of the heatmap's sides from the target's peak?

    heatmaps, targets (B, K, Hm, Wm), weight (B, K) -> bool (marked joints,). Source: pose_pck_accuracy of mmpose, which
    takes the mean over keypoints; here each joint counts the same.
    """
    size = np.array(heatmaps.shape[:1:-1])  # width, height
    off = (decode_argmax(heatmaps)[0] - decode_argmax(targets)[0]) / size
    return (np.hypot(*np.moveaxis(off, -1, 0)) < 0.05)[weight > 0]
