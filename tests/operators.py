#!/usr/bin/env python3
"""The official ONNX operator tests through planish: tests/operators.py target/debug/planish [--only SUBSTRING]

With --write FOLDER they are only written down, a folder each, for the Rust test that runs them by the embedded engine.

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


def write_tensor(path, value):
    """Sequences, maps and missing optional values are no tensors: they leave no file, and the test counts them as outside."""
    if isinstance(value, onnx.TensorProto):
        path.write_bytes(value.SerializeToString())
    elif isinstance(value, (np.ndarray, np.generic)):
        path.write_bytes(onnx.numpy_helper.from_array(np.asarray(value)).SerializeToString())


def write(cases, folder):
    """All of them appear in one step, so that an interrupted run leaves no incomplete folder behind."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        whole = pathlib.Path(name) / "cases"
        for case in cases:
            place = whole / case.name
            place.mkdir(parents=True)
            (place / "model.onnx").write_bytes(case.model.SerializeToString())
            (place / "tol.txt").write_text(f"{case.rtol} {case.atol}\n")
            for i, (inputs, outputs) in enumerate(case.data_sets or []):
                data = place / f"test_data_set_{i}"
                data.mkdir()
                for kind, values in [("input", inputs), ("output", outputs)]:
                    for k, value in enumerate(values):
                        write_tensor(data / f"{kind}_{k}.pb", value)
        whole.rename(folder)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("planish", type=pathlib.Path, nargs="?")
    parser.add_argument("--write", type=pathlib.Path, metavar="FOLDER")
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    if (args.planish is None) == (args.write is None):
        parser.error("give either planish or --write FOLDER")
    warnings.filterwarnings("ignore")
    from onnx.backend.test.case.node import collect_testcases

    cases = [c for c in collect_testcases() if args.only in c.name]
    if args.write:
        write(cases, args.write)
        return 0 if cases else 1
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
