#!/usr/bin/env python3
"""Does a result compute what its original did?

    benches/equal.py MODEL.onnx … [--planish target/release/planish] [--pipeline simplify] [--target generic] [--dim NAME=N …]

Each model is compiled, without planish's own verification, and both are run by onnxruntime with its optimizations off, on random inputs
and two values of each open dimension. Where planish calls all that it did exact, each output has to be the same, bit for bit, else
within float rounding: --tolerance times the largest number of that output, or times 0.01 if all are smaller, because what
comes out of a sigmoid near 0 is rounded like what comes out near 1. The exit code is 1 if one is not.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnxruntime as ort

from latency import feeds


def plain(path):
    """A session that runs the model as it is."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def distance(a, b):
    """The largest difference, as a share of the largest number or of 0.01; infinite if shapes, or what is not a number, differ."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return np.inf
    if a.tobytes() == b.tobytes():
        return 0.0
    a, b = a.astype(np.float64), b.astype(np.float64)
    if not np.array_equal(np.isnan(a), np.isnan(b)):
        return np.inf
    return float(np.nanmax(np.abs(a - b)) / max(np.nanmax(np.abs(a)), 1e-2))


def compare(model, args, folder):
    """What planish says of its changes, and the largest distance of an output."""
    out, report = pathlib.Path(folder, "out.onnx"), pathlib.Path(folder, "report.json")
    what = "--pipeline" if args.pipeline.endswith((".yaml", ".yml")) else "--preset"
    command = [args.planish, "compile", model, what, args.pipeline, "--target", args.target, "--verify", "off"]
    subprocess.run([*command, "-o", out, "--report", report], check=True, capture_output=True, text=True)
    numerics = sorted({p["numerics"] for p in json.loads(report.read_text())["passes"] if p["patches"]})
    original, worst = plain(model), 0.0
    inputs = [feeds(original, args.dims, size) for size in args.sizes]
    expected = [original.run(None, i) for i in inputs]
    # Large models do not fit twice.
    del original
    compiled = plain(out)
    for i, outputs in zip(inputs, expected):
        worst = max([worst, *map(distance, outputs, compiled.run(None, i))])
    return numerics, worst


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=pathlib.Path)
    parser.add_argument("--planish", default="target/release/planish")
    parser.add_argument("--pipeline", default="simplify", help="a preset or a pipeline file")
    parser.add_argument("--target", default="generic")
    parser.add_argument("--dim", action="append", default=[], metavar="NAME=N", help="NAME or INPUT.AXIS")
    parser.add_argument("--sizes", nargs="+", type=int, default=[32, 64], help="of open dims that --dim does not name")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    args = parser.parse_args()
    args.dims = {name: int(n) for name, n in (d.rsplit("=", 1) for d in args.dim)}
    wrong = 0
    for model in args.models:
        with tempfile.TemporaryDirectory() as folder:
            try:
                numerics, worst = compare(model, args, folder)
            except Exception as error:  # Whatever stops one model, the others are still compared.
                wrong += 1
                print(f"{model.stem}: FAILS: {getattr(error, 'stderr', None) or error}", flush=True)
                continue
        is_exact = not set(numerics) - {"exact"}
        good = worst == 0 if is_exact else worst <= args.tolerance
        wrong += not good
        kind = ", ".join(numerics) or "unchanged"
        print(f"{model.stem}: {kind}: {'bit for bit' if worst == 0 else f'{worst:.1e}'}{'' if good else ' WRONG'}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
