#!/usr/bin/env python3
"""Seconds to decompose every layer of models, beside numpy, scipy and tensorly decomposing the same weights.

    benches/factorize.py PLANISH MODEL.onnx … [--ratio 0.5] [--threads 2] [--tolerance 1e-4] [--calib SAMPLES.npz]

Matrices and 1x1 convolutions become two factors (singular value decomposition), convolutions with larger windows a Tucker-2 core
(HOOI), all at the given share of their full rank. planish reads the model, decomposes, and writes the result, all of which is in its
time. The others get the weights in memory; only their decompositions count: numpy's and scipy's SVD, whichever is faster in sum, and
tensorly's `partial_tucker` from an SVD start with its default tolerance, or another one. Its error is printed beside planish's (mean
relative error of the layers), so that times can be read for the same quality.

With samples for the model, the matrices are whitened by the second moments of what they read. Those are collected in a first run that
does not count; numpy and scipy then decompose the weights multiplied by a Cholesky factor of the same size, which counts with its
factorization. Prints one line of JSON per model and one for all; each time as seconds that pass, and seconds of cores that are used.
"""
import argparse
import json
import os
import pathlib
import re
import resource
import subprocess
import tempfile
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("planish")
parser.add_argument("models", nargs="+")
parser.add_argument("--ratio", type=float, default=0.5)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--tolerance", type=float, default=1e-4, help="of tensorly's sweeps")
parser.add_argument("--calib", help="samples of the models' inputs: matrices are whitened")
args = parser.parse_args()
# Before numpy looks at them.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = str(args.threads)

import numpy as np
import onnx
import scipy.linalg
import tensorly
from onnx import numpy_helper
from tensorly.decomposition import partial_tucker


def layers(path):
    """The weights that nodes of the main graph multiply by, each once: matrices, and kernels with a window."""
    graph = onnx.load(path).graph
    weights = {t.name: t for t in graph.initializer}
    matrices, kernels, seen = [], [], set()
    for node in graph.node:
        if node.op_type not in ("MatMul", "Gemm", "Conv") or node.input[1] not in weights or node.input[1] in seen:
            continue
        if any(a.name == "group" and a.i != 1 for a in node.attribute):
            continue
        seen.add(node.input[1])
        w = np.ascontiguousarray(numpy_helper.to_array(weights[node.input[1]]), dtype=np.float32)
        if w.ndim == 4 and w.shape[2] * w.shape[3] > 1:
            kernels.append(w)
        elif w.ndim >= 2:
            # Outputs first, as the library would be given it.
            transposed = node.op_type == "MatMul" or not any(a.name == "transB" and a.i for a in node.attribute)
            matrices.append(w.reshape(len(w), -1) if w.ndim > 2 or not transposed else np.ascontiguousarray(w.T))
    return matrices, kernels


class Time:
    """Seconds that pass, and seconds of cores that this process and its children use, which other load does not change."""

    def __init__(self):
        self.start = self.now()

    @staticmethod
    def now():
        used = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return np.array([time.perf_counter(), sum(u.ru_utime + u.ru_stime for u in used)])

    def passed(self):
        return self.now() - self.start


def compiled(model, passes, folder, calibrated):
    """Seconds of planish, and what it printed."""
    pipeline = folder / "pipeline.yaml"
    pipeline.write_text(f"version: 1\npasses:\n{passes}verify: {{engine: off}}\n")
    if calibrated:
        samples = f"calibration: {{npz: {os.path.abspath(args.calib)}, cache: {folder / 'statistics'}}}\n"
        pipeline.write_text(pipeline.read_text() + samples)
    command = [args.planish, "compile", model, "--pipeline", pipeline, "-o", folder / "out.onnx", "--threads", str(args.threads)]
    start = Time()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return start.passed(), done.stdout + done.stderr


def planish(model, folder):
    """Seconds, with statistics collected before, and the mean relative error of the convolutions with a window."""
    option = f"{{ratio: {args.ratio}, refit: false}}"
    passes = f"  - tucker: {option}\n  - low-rank: {{ratio: {args.ratio}, refit: false, protect: PROTECTED}}\n"
    # What tucker split is not split again.
    split = kernels_of(model)
    passes = passes.replace("PROTECTED", json.dumps(split))
    if args.calib:
        compiled(model, passes, folder, True)
    seconds, text = compiled(model, passes, folder, bool(args.calib))
    errors = [float(e) ** 0.5 for e in re.findall(r"tucker: .*error of its \w+ ([0-9.e+-]+)", text)]
    return seconds, float(np.mean(errors)) if errors else None


def kernels_of(path):
    """Names that `tucker` gives its weights, and those it splits."""
    graph = onnx.load(path, load_external_data=False).graph
    windows = {t.name for t in graph.initializer if len(t.dims) == 4 and t.dims[2] * t.dims[3] > 1}
    return sorted(name + suffix for name in windows for suffix in ("", "_inputs", "_core"))


def seconds(work, weights):
    start = Time()
    for w in weights:
        work(w)
    return start.passed()


def factors(svd):
    def work(w):
        rank = max(1, round(args.ratio * min(w.shape)))
        if not args.calib:
            u, s, v = svd(w)
            return u[:, :rank] * s[:rank], v[:rank]
        # Any moments that are not singular take as long.
        root = scipy.linalg.cholesky(moments(w.shape[1]), lower=True, check_finite=False)
        u, s, v = svd(w @ root)
        return u[:, :rank] * s[:rank], scipy.linalg.solve_triangular(root.T, v[:rank].T, check_finite=False).T

    return work


known = {}


def moments(width):
    if width not in known:
        x = np.random.default_rng(0).standard_normal((width, 2 * width), dtype=np.float32)
        known[width] = x @ x.T / (2 * width)
    return known[width]


errors = []


def tucker(w):
    ranks = [max(1, round(args.ratio * n)) for n in w.shape[:2]]
    found = partial_tucker(tensorly.tensor(w), rank=ranks, modes=[0, 1], init="svd", tol=args.tolerance)
    errors.append(float(found[1][-1]))


def shown(value):
    if isinstance(value, np.ndarray):
        return [round(float(v), 2) for v in value]
    return round(value, 4) if isinstance(value, float) else value


total = {"planish": np.zeros(2), "libraries": np.zeros(2)}
for model in args.models:
    matrices, kernels = layers(model)
    for w in matrices if args.calib else []:
        moments(w.shape[1])
    with tempfile.TemporaryDirectory() as folder:
        own, error = planish(model, pathlib.Path(folder))
    numpy_seconds = seconds(factors(lambda w: np.linalg.svd(w, full_matrices=False)), matrices)
    scipy_seconds = seconds(factors(lambda w: scipy.linalg.svd(w, full_matrices=False, check_finite=False)), matrices)
    errors.clear()
    tensorly_seconds = seconds(tucker, kernels)
    others = min(numpy_seconds, scipy_seconds, key=lambda s: s[0]) + tensorly_seconds
    total["planish"] += own
    total["libraries"] += others
    result = {
        "model": os.path.basename(model), "threads": args.threads, "ratio": args.ratio, "whitened": bool(args.calib),
        "matrices": len(matrices), "kernels": len(kernels), "planish": own, "numpy": numpy_seconds, "scipy": scipy_seconds,
        "tensorly": tensorly_seconds, "times_faster": others / own, "tucker_error": error,
        "tensorly_error": float(np.mean(errors)) if errors else None,
    }
    print(json.dumps({k: shown(v) for k, v in result.items()}), flush=True)
print(json.dumps({k: shown(v) for k, v in total.items()} | {"times_faster": shown(total["libraries"] / total["planish"])}))
