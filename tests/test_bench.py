"""The benchmark: its arithmetic on made-up numbers, and short runs of the mini model in real processes."""

import json
import re
import sys

import numpy as np
import pytest
from PIL import Image

from minivitpose.bench import BenchError, Plan, bench, measure, worker
from minivitpose.bench.chart import bench_chart
from minivitpose.bench.engines import PACKAGE, Job
from minivitpose.bench.machine import (
    cores,
    describe_machine,
    fma_peak,
    gflop,
    multiply_adds,
    peak_memory,
    processor_seconds,
)
from minivitpose.bench.measure import cores_of_others, is_disturbed, is_due, layer_table, prepare, summary
from minivitpose.bench.report import case_text, report, verdict
from minivitpose.bench.worker import Worker, WorkerError
from minivitpose.cli import main
from minivitpose.config import as_dict, variant_config
from minivitpose.plot import save
from models import small_config
from test_cli import error_of, here  # noqa: F401 (a fixture)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(measure, "TURN_S", 0.01)
    monkeypatch.setattr(measure, "PAUSE_S", 0)


@pytest.fixture
def job(tmp_path):
    """The mini model's files, for the NumPy engine."""
    prepare(Plan("mini", engines=("numpy",)), variant_config("mini"), tmp_path, silent)
    return Job("numpy", str(tmp_path), as_dict(variant_config("mini")), batch=1, threads=1)


def silent(text):
    """Progress, to nobody."""


def stand_in(monkeypatch, tmp_path, module, code):
    """In the workers, importing this module runs this code instead."""
    folder = tmp_path / "modules"
    folder.mkdir(exist_ok=True)
    (folder / f"{module}.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder))


# --------------------------------------------------------------------------------------------- arithmetic of the models


@pytest.mark.parametrize(
    ("variant", "classic", "simple"),
    [("S", 5.594, 4.654), ("B", 18.523, 17.461), ("L", 61.569, 60.426), ("H", 125.830, 124.606)],
)
def test_multiply_adds_of_the_public_models(variant, classic, simple):
    for head, expected in (("classic", classic), ("simple", simple)):
        config = variant_config(variant, head=head)
        assert f"{sum(multiply_adds(config).values()) / 1e9:.3f}" == f"{expected:.3f}"
        assert gflop(config) == pytest.approx(2 * expected, rel=1e-4)


def test_multiply_adds_layer_by_layer():
    """12 tokens, 24 channels, 2 blocks, 3 heads of 10; 4 x 3 patches, then 8 x 6 and 16 x 12 cells."""
    counts = multiply_adds(small_config(head_dim=10, extra_kernels=(3,)))
    assert counts == {
        "backbone.patch_embed.proj": 12 * 24 * 3 * 16 * 16,
        "backbone.blocks.*.attn.qkv": 2 * 12 * 24 * 90,
        "backbone.blocks.*.attn.scores": 2 * 3 * 12 * 12 * 10,
        "backbone.blocks.*.attn.z": 2 * 3 * 12 * 12 * 10,
        "backbone.blocks.*.attn.proj": 2 * 12 * 30 * 24,
        "backbone.blocks.*.mlp.fc1": 2 * 12 * 24 * 96,
        "backbone.blocks.*.mlp.fc2": 2 * 12 * 96 * 24,
        "keypoint_head.deconv_layers.0": 12 * 24 * 8 * 16,
        "keypoint_head.deconv_layers.3": 48 * 8 * 6 * 16,
        "keypoint_head.final_layer.0": 192 * 6 * 6 * 9,
        "keypoint_head.final_layer.3": 192 * 6 * 5,
    }


def test_times_of_a_layer_are_summed_over_the_blocks():
    times = {"backbone.pos": 1, "backbone.blocks.0.mlp.fc1": 2, "backbone.blocks.1.mlp.fc1": 3, "backbone.blocks.1": 4}
    table = layer_table(times, small_config(), batch=2)
    assert {name: layer["ms"] for name, layer in table.items()} == {
        "backbone.pos": 1,
        "backbone.blocks.*.mlp.fc1": 5,
        "backbone.blocks.*": 4,
    }
    counts = multiply_adds(small_config())
    until_fc1 = sum(count for name, count in counts.items() if "blocks" in name and "fc2" not in name)
    assert table["backbone.blocks.*.mlp.fc1"]["gflop"] == pytest.approx(2e-9 * 2 * until_fc1)
    assert table["backbone.pos"]["gflop"] == pytest.approx(2e-9 * 2 * 12 * 24 * 3 * 16 * 16)  # the patches', not kept
    whole = 2 * gflop(small_config())
    kept = layer_table(dict.fromkeys([*times, "keypoint_head.final_layer"], 1), small_config(), batch=2)
    assert sum(layer["gflop"] for layer in kept.values()) == pytest.approx(whole)


# -------------------------------------------------------------------------------------------------- arithmetic of times


def test_summary():
    found = summary([40.0, 10.0, 20.0, 30.0, 100.0], batch=2, gflop_per_crop=3.0, peak=400.0)
    assert found == {
        "calls": 5,
        "median_ms": 30.0,
        "minimum_ms": 10.0,
        "quartiles_ms": [20.0, 40.0],
        "ms_per_crop": 15.0,
        "gflops": pytest.approx(200.0),  # 6 GFLOP in 30 ms
        "share_of_peak": pytest.approx(0.5),
    }
    alone = summary([8.0], batch=1, gflop_per_crop=1.0, peak=None)
    assert (alone["quartiles_ms"], alone["share_of_peak"]) == ([8.0, 8.0], None)


@pytest.mark.parametrize(("call_ms", "turns"), [(1, 12), (299, 12), (301, 6), (899, 4), (60_000, 3)])
def test_slow_engines_take_fewer_turns_spread_evenly(call_ms, turns):
    due = [i for i in range(12) if is_due(i, 12, call_ms)]
    assert len(due) == turns
    assert len(set(np.diff(due))) == 1


def test_verdicts():
    assert verdict("fast", "torch", 2.5) == "fast is 2.50 times as fast as torch"
    assert verdict("fast", "openvino", 0.8) == "fast LOSES to openvino, which is 1.25 times as fast"
    assert verdict("fast", "numba", 0.99) == "fast and numba are level (0.99)"


def test_bfloat16_is_compared_with_bfloat16():
    text = case_text(made_up({"fast": 1.0, "fast-bf16": 0.5, "openvino-bf16": 0.4, "openvino": 1.1}), 10.0)
    assert "fast-bf16 LOSES to openvino-bf16, which is 1.25 times as fast" in text
    assert "fast LOSES to fast-bf16, which is 2.00 times as fast" in text
    assert "fast is 1.10 times as fast as openvino" in text


def made_up(ratios, threads=2, batch=1):
    """A case with these engines, fast at 30 ms."""
    engines = {}
    for name, ratio in ratios.items():
        times = [30.0 * ratio * x for x in (0.9, 1, 1, 1, 1.2)]
        layers = {"backbone.blocks.*.mlp.fc1": {"ms": 20 * ratio, "gflop": 5.0}, "a": {"ms": 1e-4, "gflop": 0}}
        engines[name] = summary(times, batch, 10.0, 480.0) | {"ratio": ratio, "runs": name, "error": 1e-6}
        engines[name] |= {"load_s": 0.1, "memory_bytes": 1e8, "layers": layers if name in PACKAGE else {}}
    case = {"batch": batch, "threads": threads, "peak_gflops": 480.0, "base": "fast", "engines": engines}
    case |= {"cores_of_others": 0.9, "disturbed": True}
    return case | {"left_out": {"torch": "No module named 'torch': pip install 'minivitpose[bench]'"}}


def result_of(*cases):
    machine = describe_machine() | {"load_average_at_start": [9.0, 9.0, 9.0]}
    model = {"config": as_dict(variant_config("S")), "gflop_per_crop": 10.0, "weights": "random weights of seed 0"}
    cold = {"fast": {"empty_cache_s": 12.3, "warm_cache_s": 0.4}}
    return {"date": "2026-01-02T03:04:05+00:00", "machine": machine, "model": model, "versions": {"numpy": "2.4"}} | {
        "cases": list(cases),
        "cold": cold,
    }


def test_the_report_prints_losses_like_wins():
    text = report(result_of(made_up({"fast": 1.0, "numba": 3.5, "openvino-bf16": 0.5, "onnxruntime": 1.25})))
    assert "fast LOSES to openvino-bf16, which is 2.00 times as fast" in text
    assert "fast is 1.25 times as fast as onnxruntime" in text
    assert re.search(
        r"^openvino-bf16 +15.00 +13.50 +15.00 - 15.00 +15.00 +0.50 +666.7 +139% +0.10 +100 +1.0e-06$", text, re.M
    )
    assert "left out: torch: No module named 'torch': pip install" in text
    assert "480 GFLOP/s, a crop in 20.83 ms" in text
    assert "load average 9.0" in " ".join(text.split())  # wherever the line breaks behind the name of the CPU
    assert "DISTURBED: other programs used 0.9 cores meanwhile" in text
    assert re.search(r"^backbone.blocks.\*.mlp.fc1 +20.00 +250 +70.00 +71.43$", text, re.M)
    assert re.search(r"^fast +12.30 +0.40$", text, re.M)
    assert max(len(line) for line in text.split("\n")) <= 100


def test_the_report_says_what_it_does_not_know():
    case = made_up({"fast": 1.0, "numpy": 20.0})
    case |= {"peak_gflops": None, "cores_of_others": None, "disturbed": False}
    for engine in case["engines"].values():
        engine |= {"share_of_peak": None, "memory_bytes": None, "runs": "numba"}
    text = case_text(case, 10.0)
    assert "peak is not known" in text
    assert "DISTURBED" not in text
    assert "fast ran the engine 'numba'" in text


def test_the_chart(tmp_path):
    many = made_up({"fast": 1.0, "numba": 3.5, "numpy": 40.0, "openvino": 0.9})
    empty = made_up({}) | {"base": None}
    save(bench_chart(result_of(many, made_up({"fast": 1.0}, threads=1, batch=8), empty)), tmp_path / "chart.png")
    with Image.open(tmp_path / "chart.png") as picture:
        assert picture.size[0] == 1600
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20)}
    assert (0x00, 0x72, 0xB2) in colours


# ---------------------------------------------------------------------------------------------------------- the machine


def test_the_machine_is_described():
    found = describe_machine()
    assert found["cpu"]
    assert found["cores"] == cores() >= 1
    assert json.dumps(found)
    assert peak_memory() is None or 1e7 < peak_memory() < 1e12


def test_what_others_used():
    assert cores_of_others((100.0, 10.0), (120.0, 15.0), seconds=10.0) == 1.5
    assert cores_of_others((100.0, 10.0), (104.9, 15.0), seconds=10.0) == 0  # the clock of /proc ticks slowly
    assert cores_of_others(None, None, 10.0) is None
    assert is_disturbed(0.9, threads=2, available=2)
    assert not is_disturbed(1.0, threads=1, available=2)
    assert not is_disturbed(0.1, threads=2, available=2)
    assert not is_disturbed(None, threads=2, available=2)
    assert processor_seconds() is None or min(processor_seconds()) > 0


def test_the_peak():
    """An order of magnitude: from a Raspberry Pi's core to a server's."""
    found = fma_peak(1)
    assert found is None or 2 < found < 2000


# ------------------------------------------------------------------------------------------------------- real processes


def test_bench(quick):
    said = []
    result = bench(Plan("mini", batches=(1, 2), engines=("numpy", "numba"), seconds=0.05), said.append)
    assert json.loads(json.dumps(result)).keys() == result.keys()
    assert result["model"]["gflop_per_crop"] == pytest.approx(0.573, abs=0.001)
    assert result["versions"].keys() >= {"minivitpose", "numpy", "numba"}
    assert [case["batch"] for case in result["cases"]] == [1, 2]
    for case in result["cases"]:
        assert (case["base"], case["left_out"], case["threads"]) == ("numpy", {}, 1)
        assert case["engines"]["numpy"]["error"] <= 1e-6
        assert 0 < case["engines"]["numba"]["error"] < 1e-5
        for name, engine in case["engines"].items():
            assert engine["runs"] == name
            assert engine["median_ms"] == pytest.approx(np.median(engine["times_ms"]))
            assert engine["minimum_ms"] <= engine["quartiles_ms"][0] <= engine["median_ms"]
            assert engine["ratio"] == pytest.approx(engine["median_ms"] / case["engines"]["numpy"]["median_ms"])
            assert engine["memory_bytes"] is None or engine["memory_bytes"] > 3e7
            assert "backbone.blocks.*.mlp.fc1" in engine["layers"]
            if case["peak_gflops"]:
                assert 0 < engine["share_of_peak"] < 1
    assert any("round 3 of" in text for text in said)
    assert result["cold"] == {}
    assert "numba" in report(result)


def test_cold_starts(quick):
    result = bench(Plan("mini", engines=("numpy",), seconds=0.05, cold=True), silent)
    assert result["cold"].keys() == {"numpy"}
    assert all(0.02 < seconds < 120 for seconds in result["cold"]["numpy"].values())


@pytest.mark.parametrize("peer", ["torch", "onnxruntime", "openvino", "openvino-bf16"])
def test_peers_compute_the_same(peer, quick):
    pytest.importorskip(peer.split("-")[0])
    pytest.importorskip("onnx")
    result = bench(Plan("mini", "simple", (2,), engines=("numpy", peer), seconds=0.05), silent)
    (case,) = result["cases"]
    assert case["left_out"] == {}
    assert case["engines"][peer]["error"] < (0.05 if peer == "openvino-bf16" else 1e-5)
    assert case["engines"][peer]["layers"] == {}


def test_an_absent_peer_is_one_line_and_left_out(quick, tmp_path, monkeypatch):
    stand_in(monkeypatch, tmp_path, "torch", "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')")
    result = bench(Plan("mini", engines=("numpy", "torch"), seconds=0.05), silent)
    (case,) = result["cases"]
    assert case["engines"].keys() == {"numpy"}
    assert "pip install" in case["left_out"]["torch"]
    assert "\n" not in case["left_out"]["torch"]


def test_without_onnx_its_readers_are_left_out(quick, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "minivitpose.onnx_export", raising=False)
    with pytest.raises(BenchError, match="nothing could be measured: onnxruntime: .*pip install"):
        bench(Plan("mini", engines=("onnxruntime",), seconds=0.05), silent)


class Wrong(Worker):
    """Gives other heatmaps than it computes."""

    change = staticmethod(np.zeros_like)

    def ask(self, do, **order):
        answer = super().ask(do, **order)
        if do == "heatmaps" and self.job.engine == "numba":
            np.save(answer["file"], self.change(np.load(answer["file"])))
        return answer


@pytest.mark.parametrize("change", [np.zeros_like, lambda x: x * 1.001, lambda x: x * np.nan, lambda x: x[:, ::-1]])
def test_wrong_answers_are_found(change, job, monkeypatch):
    monkeypatch.setattr(Wrong, "change", staticmethod(change))
    with Wrong(job) as right:
        assert measure.check(right) < 1e-5
    with Wrong(Job("numba", job.folder, job.config, 1, 1)) as wrong, pytest.raises(WorkerError, match="WRONG heatmaps"):
        measure.check(wrong)


def test_nobody_is_timed_on_a_wrong_answer(here, quick, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setattr(measure, "Worker", Wrong)
    command = "bench --variant mini --engines numpy,numba --peers --seconds 0.05 --threads 1"
    assert main(command.split()) == 1
    out = capsys.readouterr().out
    assert "left out: numba: WRONG heatmaps: off by 1 of the maximum, allowed 1e-04" in out
    assert not re.search(r"^numba ", out, re.M)
    assert re.search(r"^numpy ", out, re.M)


class Dying(Worker):
    """Its process ends when it is asked for times."""

    def ask(self, do, **order):
        if do == "turn" and self.job.engine == "numba":
            self.process.kill()
        return super().ask(do, **order)


def test_a_worker_that_dies_is_left_out_and_the_others_go_on(quick, monkeypatch):
    monkeypatch.setattr(measure, "Worker", Dying)
    result = bench(Plan("mini", engines=("numba", "numpy"), seconds=0.05), silent)
    (case,) = result["cases"]
    assert case["left_out"] == {"numba": "the process died, exit code -9"}
    assert (case["base"], case["engines"].keys()) == ("numpy", {"numpy"})


def test_a_worker_speaks_while_its_library_prints(job, tmp_path, monkeypatch):
    stand_in(monkeypatch, tmp_path, "openvino", "print('{}'); import os, sys; os.write(1, b'noise'); sys.exit(3)")
    with pytest.raises(WorkerError, match=r"^the process died, exit code 3: .*noise$"):
        Worker(Job("openvino", job.folder, job.config, 1, 1))


def test_a_worker_that_does_not_answer_is_ended(job, tmp_path, monkeypatch):
    stand_in(monkeypatch, tmp_path, "openvino", "import time; time.sleep(600)")
    monkeypatch.setattr(worker, "PATIENCE", 0.5)
    monkeypatch.setattr(worker, "GRACE", 0.1)
    with pytest.raises(WorkerError, match="no answer within 0.5 s"):
        Worker(Job("openvino", job.folder, job.config, 1, 1))


def test_a_worker_says_why_it_fails(job):
    with Worker(job) as numpy:
        assert numpy.ask("heatmaps")["file"].endswith("numpy.npy")
        with pytest.raises(WorkerError, match="^TypeError: "):
            numpy.ask("turn", nonsense=1)
        with pytest.raises(WorkerError, match="the process died, exit code 1"):
            numpy.ask("turn", seconds=0, skip=0)
    assert numpy.process.returncode == 1


# ----------------------------------------------------------------------------------------------------- the command line


def test_the_command(here, quick, capsys):  # noqa: F811
    command = "bench --variant MINI --head simple --engines numpy --peers --seconds 0.05 --threads 1 --batch 1 1"
    assert main([*command.split(), "--json", "b.json", "--chart", "b.png"]) == 0
    out, err = capsys.readouterr()
    assert "ViTPose-mini, simple head" in out
    assert "round 1 of" in err
    result = json.loads((here / "b.json").read_text())
    assert len(result["cases"]) == 1
    assert result["machine"]["cpu"]
    with Image.open("b.png") as picture:
        assert picture.size[0] == 1600


def test_bad_use_is_one_line(here, capsys):  # noqa: F811
    assert "nothing to time" in error_of(capsys, "bench", "--engines", "--peers")
    assert "openvino" in error_of(capsys, "bench", "--engines", "numpy", "--precision", "bf16", "--peers", "torch")
    assert f"{cores()} cores" in error_of(capsys, "bench", "--threads", "1", str(cores() + 1))
    assert "nowhere" in error_of(capsys, "bench", "--json", "nowhere/b.json")
    for seconds in ("0", "-1", "nan", "inf"):
        assert "--seconds" in error_of(capsys, "bench", f"--seconds={seconds}")


@pytest.mark.parametrize(
    "arguments", ["--variant xl", "--batch 0", "--threads two", "--engines torch", "--peers fast", "--precision int8"]
)
def test_unknown_names_are_bad_use(arguments, capsys):
    with pytest.raises(SystemExit) as exit:
        main(["bench", *arguments.split()])
    assert exit.value.code == 2
    assert "error: argument" in capsys.readouterr().err
