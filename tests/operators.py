#!/usr/bin/env python3
"""The official ONNX operator tests through planish: tests/operators.py target/debug/planish [--only SUBSTRING]

Each of the official cases is imported and exported again, with no pass in between. onnx's checker has to accept what it
accepted before, and onnxruntime, optimizations off, has to give the same bits wherever it runs the original. Prints one line of
counts, and exits with 1 if anything was lost.
"""
import argparse
import collections
import concurrent.futures
import pathlib
import subprocess
import sys
import tempfile
import warnings

import numpy as np
import onnx
import onnxruntime as ort

PIPELINE = "version: 1\npasses: []\nverify: {engine: off}\n"


def accepted(path):
    try:
        onnx.checker.check_model(str(path), full_check=False)
        return True
    except Exception:
        return False


def session(path):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(path, inputs):
    s = session(path)
    return s.run(None, dict(zip([i.name for i in s.get_inputs()], inputs)))


def same(a, b):
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if a is None or b is None:
        return a is b
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return a.tolist() == b.tolist() if a.dtype == object else a.tobytes() == b.tobytes()


def is_random(model):
    random = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial", "Dropout"}
    return any(n.op_type in random for n in model.graph.node) or "dropout" in model.graph.name or "bernoulli" in model.graph.name


def check(planish, folder, case):
    """Returns what became of a case, and a message if something was lost."""
    before, after = folder / f"{case.name}.onnx", folder / f"{case.name}.out.onnx"
    before.write_bytes(case.model.SerializeToString())
    pipeline = folder / "pipeline.yaml"
    ran = subprocess.run([planish, "compile", before, "--pipeline", pipeline, "-o", after], capture_output=True, text=True)
    if ran.returncode:
        return "lost", f"planish exits with {ran.returncode}: {ran.stderr.strip()}"
    if accepted(before) and not accepted(after):
        return "lost", "onnx's checker accepts the original and not the result"
    inputs = case.data_sets[0][0] if case.data_sets else []
    try:
        expected = run(before, inputs)
    except Exception:
        return "not run by onnxruntime", None
    if is_random(case.model):
        run(after, inputs)
        return "random, runs", None
    try:
        actual = run(after, inputs)
    except Exception as e:
        return "lost", f"onnxruntime runs the original and not the result: {e}"
    if not same(expected, actual):
        return "lost", "onnxruntime gives other outputs"
    return "identical", None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("planish", type=pathlib.Path)
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    from onnx.backend.test.case.node import collect_testcases

    cases = [c for c in collect_testcases() if args.only in c.name]
    counts, losses = collections.Counter(), []
    with tempfile.TemporaryDirectory() as name, concurrent.futures.ThreadPoolExecutor(2) as pool:
        folder = pathlib.Path(name)
        (folder / "pipeline.yaml").write_text(PIPELINE)
        for case, (kind, message) in zip(cases, pool.map(lambda c: check(args.planish.resolve(), folder, c), cases)):
            counts[kind] += 1
            if message:
                losses.append(f"{case.name}: {message}")
    print("\n".join(losses), end="\n" if losses else "")
    print(f"{len(cases)} operator tests: " + ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items())) + f"; {len(losses)} lost")
    return 1 if losses or not cases else 0


if __name__ == "__main__":
    sys.exit(main())
