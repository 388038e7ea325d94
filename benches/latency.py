#!/usr/bin/env python3
"""Latency in onnxruntime of the original against the compiled model:

    benches/latency.py MODEL.onnx … [--pipelines simplify FILE.yaml …] [--target onnxruntime-cpu] [--dim NAME=N …] [--runs 60]

onnxruntime runs on the CPU with its default optimization level and one thread, so a compiled model is held against what the
runtime makes of the original by itself. Original and compiled run in turn on the same inputs, the order within a pair changes
every time, and the pair gives one ratio; the median of the ratios is printed with a 95 % confidence interval that assumes no
distribution (order statistics). Sessions are made anew a few times, in changing order, so that where memory happens to lie does
not decide. A ratio below 1 is faster. Needs onnxruntime and numpy for the python that runs this script.
"""
import argparse
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnxruntime as ort

TYPES = {
    "tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16, "tensor(bool)": np.bool_,
    **{f"tensor({t})": np.dtype(t).type for t in ("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8")},
}


def session(path):
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def feeds(model, dims, size):
    """Random inputs: normal floats, integers 0 and 1, which index any table; true. Open dims are 1 in front, else `size`."""
    random = np.random.default_rng(0)
    result = {}
    for i in model.get_inputs():
        shape = []
        for axis, dim in enumerate(i.shape):
            names = (str(dim), f"{i.name}.{axis}")
            given = next((dims[n] for n in names if n in dims), None)
            shape.append(dim if isinstance(dim, int) else given or (1 if axis == 0 else size))
        kind = TYPES[i.type]
        if np.issubdtype(kind, np.floating):
            result[i.name] = random.standard_normal(shape).astype(kind)
        else:
            result[i.name] = np.ones(shape, kind) if kind is np.bool_ else random.integers(0, 2, shape).astype(kind)
    return result


def seconds(model, inputs):
    start = time.perf_counter()
    model.run(None, inputs)
    return time.perf_counter() - start


def pairs(original, compiled, args):
    """Times of both, in pairs."""
    times = []
    per_session = math.ceil(args.runs / args.sessions)
    for s in range(args.sessions):
        paths = [original, compiled]
        made = {p: session(p) for p in (paths if s % 2 == 0 else paths[::-1])}
        inputs = feeds(made[original], args.dims, args.size)
        for p in paths * 3:
            made[p].run(None, inputs)
        for run in range(per_session):
            taken = {p: seconds(made[p], inputs) for p in (paths if run % 2 == 0 else paths[::-1])}
            times.append((taken[original], taken[compiled]))
    return times


def interval(values):
    """A 95 % confidence interval of the median: order statistics of the binomial distribution."""
    values, n = sorted(values), len(values)
    below, k = 0.0, 0
    while k < n // 2:
        below += math.comb(n, k) / 2**n
        if below > 0.025:
            break
        k += 1
    return values[max(k - 1, 0)], values[min(n - k, n - 1)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=pathlib.Path)
    parser.add_argument("--planish", default="target/release/planish")
    parser.add_argument("--pipelines", nargs="+", default=["simplify"], help="presets or pipeline files")
    parser.add_argument("--target", default="onnxruntime-cpu")
    parser.add_argument("--dim", action="append", default=[], metavar="NAME=N", help="NAME or INPUT.AXIS")
    parser.add_argument("--size", type=int, default=64, help="of open dims that --dim does not name, but for the first axis")
    parser.add_argument("--runs", type=int, default=60, help="pairs")
    parser.add_argument("--sessions", type=int, default=3)
    args = parser.parse_args()
    args.dims = {name: int(n) for name, n in (d.rsplit("=", 1) for d in args.dim)}
    print("| model | pipeline | original ms | compiled ms | ratio | 95 % interval |\n|---|---|---|---|---|---|")
    failed = False
    for model in args.models:
        with tempfile.TemporaryDirectory() as folder:
            for pipeline in args.pipelines:
                out = os.path.join(folder, "out.onnx")
                what = ["--pipeline", pipeline] if pipeline.endswith((".yaml", ".yml")) else ["--preset", pipeline]
                command = [args.planish, "compile", str(model), *what, "--target", args.target, "--verify", "off", "-o", out]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                try:
                    if done.returncode != 0:
                        raise RuntimeError(done.stderr.strip())
                    times = pairs(str(model), out, args)
                except Exception as e:  # onnxruntime has many kinds, and the other models still matter
                    print(f"| {model.stem} | {pipeline} | fails | | | |", flush=True)
                    print(f"{model.stem}: {e}", file=sys.stderr)
                    failed = True
                    continue
                ratios = [c / o for o, c in times]
                low, high = interval(ratios)
                original, compiled = (statistics.median(t[i] for t in times) * 1e3 for i in (0, 1))
                print(f"| {model.stem} | {pathlib.Path(pipeline).name} | {original:.2f} | {compiled:.2f} | "
                      f"{statistics.median(ratios):.3f} | {low:.3f} to {high:.3f} |", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
