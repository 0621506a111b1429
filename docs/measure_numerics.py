"""The figures of numerics.md: how close each engine is to the float64 truth, measured against PyTorch's own float32.

pip install ".[reference]"
python docs/measure_numerics.py            # S and B, two seeds, about a minute
"""

import argparse

import numpy as np

import minivitpose as mvp
from minivitpose import reference
from minivitpose.compare import RELATIVE, compare
from minivitpose.config import variant_config


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", default=["S", "B"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    options = parser.parse_args()
    print("random weights in every tensor, seeded noise as image; the largest over all activations and seeds\n")
    print("| variant | engine, dtype | relative to the largest value | rms error / PyTorch's: chain, alone |")
    print("|---|---|---|---|")
    for variant in options.variants:
        rows = {}
        for seed in options.seeds:
            measure(variant, seed, rows)
        for name, figures in rows.items():
            relative, chain, alone = np.max(figures, axis=0)
            ratios = f"{chain:.2f}, {'-' if np.isnan(alone) else f'{alone:.2f}'}" if chain else ""
            print(f"| {variant} | {name} | {relative:.1e} | {ratios} |")


def measure(variant, seed, rows):
    module = reference.randomise(reference.ViTPose(variant_config(variant)), seed)
    images = np.random.default_rng(seed).standard_normal((1, 3, 256, 192), dtype=np.float32)
    recorded = reference.record(module, images)
    model = mvp.load(module.state_dict(), "numpy")
    exact = model.astype("float64").run_with_cache(images.astype("float64"))[1]
    largest = max(np.abs(exact[name] - x).max() / np.abs(x).max() for name, x in recorded.truth.items())
    assert largest < RELATIVE["float64", "chain"]
    rows.setdefault("numpy, float64", []).append((largest, 0, 0))
    for engine in ("numpy", "numba", "fast"):
        other = model.with_engine(engine)
        run = other.run_fused if engine == "fast" else other.run_with_cache
        report = compare(run(images)[1], recorded)
        assert report.ok, str(report)
        relative = max(row.chain.relative for row in report.rows)
        checks = [row.alone for row in report.rows if row.alone and row.alone.rms_reference]
        alone = max((check.rms / check.rms_reference for check in checks), default=np.nan)
        rows.setdefault(f"{engine}, float32", []).append((relative, report.rms_ratio, alone))


if __name__ == "__main__":
    main()
