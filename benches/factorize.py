#!/usr/bin/env python3
"""Seconds to decompose every layer of a model, beside numpy and scipy decomposing the same weights.

    benches/factorize.py PLANISH MODEL.onnx [--ratio 0.5] [--threads 2] [--pass low-rank]

planish reads the model, decomposes its matrices at the given share of their full rank, and writes the result, all of which is in its
time. The others get the weights in memory; only their singular value decompositions and the two factors count. Convolutions are
seen as matrices of outputs by windows, as the pass sees them.
"""
import argparse
import json
import os
import subprocess
import tempfile
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("planish")
parser.add_argument("model")
parser.add_argument("--ratio", type=float, default=0.5)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--pass", dest="name", default="low-rank")
args = parser.parse_args()
# Before numpy looks at them.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = str(args.threads)

import numpy as np
import onnx
import scipy.linalg
from onnx import numpy_helper


def matrices(path):
    """The matrices that nodes of the main graph multiply by, outputs first, each once."""
    graph = onnx.load(path).graph
    weights = {t.name: t for t in graph.initializer}
    seen = set()
    for node in graph.node:
        if node.op_type not in ("MatMul", "Gemm", "Conv") or node.input[1] not in weights or node.input[1] in seen:
            continue
        if any(a.name == "group" and a.i != 1 for a in node.attribute):
            continue
        seen.add(node.input[1])
        w = numpy_helper.to_array(weights[node.input[1]])
        if w.ndim == 2 or node.op_type == "Conv":
            yield np.ascontiguousarray(w.reshape(len(w), -1), dtype=np.float32)


def planish(folder):
    pipeline = os.path.join(folder, "pipeline.yaml")
    with open(pipeline, "w") as f:
        f.write(f"version: 1\npasses:\n  - {args.name}: {{ratio: {args.ratio}}}\n")
    command = [args.planish, "compile", args.model, "--pipeline", pipeline, "-o", os.path.join(folder, "out.onnx")]
    start = time.perf_counter()
    subprocess.run([*command, "--verify", "off", "--threads", str(args.threads)], check=True, capture_output=True)
    return time.perf_counter() - start


def seconds(all_weights, decompose):
    start = time.perf_counter()
    for w in all_weights:
        rank = max(1, round(args.ratio * min(w.shape)))
        u, s, v = decompose(w)
        _ = u[:, :rank] * s[:rank], v[:rank]
    return time.perf_counter() - start


with tempfile.TemporaryDirectory() as folder:
    result = {"model": os.path.basename(args.model), "threads": args.threads, "ratio": args.ratio, "planish": planish(folder)}
weights = list(matrices(args.model))
result["layers"] = len(weights)
result["numpy"] = seconds(weights, lambda w: np.linalg.svd(w, full_matrices=False))
result["scipy"] = seconds(weights, lambda w: scipy.linalg.svd(w, full_matrices=False, check_finite=False))
result["times_faster"] = min(result["numpy"], result["scipy"]) / result["planish"]
print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in result.items()}))
