#!/usr/bin/env python3
"""Size, multiply-accumulates, latency and accuracy after each stage of a pipeline:

    benches/stages.py PLANISH PIPELINE.yaml MODEL.onnx [--calib SAMPLES.npz] [--evaluate 'python eval.py {}'] [--alone] [--dim NAME=N …]

The pipeline is run with its first pass, with its first two, and so on, from the original each time; its gates are left out. The
command of `--evaluate` prints a line of JSON with a number named `value` for the model that stands in the place of `{}`. Latency is the
median of runs in onnxruntime on the CPU with one thread and its default optimizations, in turns with the original; the ratio is the
median of the ratios of neighbouring runs. `--alone` also runs each pass that is not the first alone behind the first one, to show what
it does without the others.
"""
import argparse
import json
import os
import pathlib
import re
import shlex
import subprocess
import tempfile
import time

import numpy as np
import onnxruntime as ort
import yaml

TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_}


def session(path):
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def feeds(model, args):
    """A sample, or random inputs with 0 and 1 for integers."""
    if args.calib:
        samples = np.load(args.calib)
        return {i.name: samples[i.name][:1] for i in model.get_inputs()}
    random = np.random.default_rng(0)
    result = {}
    for i in model.get_inputs():
        shape = [d if isinstance(d, int) else args.dims.get(str(d), 1 if a == 0 else args.size) for a, d in enumerate(i.shape)]
        kind = TYPES[i.type]
        floats = np.issubdtype(kind, np.floating)
        result[i.name] = random.standard_normal(shape).astype(kind) if floats else random.integers(0, 2, shape).astype(kind)
    return result


def latency(original, compiled, args):
    """Milliseconds of the compiled model, and its ratio to the original."""
    models = [session(original), session(compiled)]
    inputs = feeds(models[0], args)
    pairs = []
    for run in range(args.runs + 3):
        times = {}
        for m in (0, 1) if run % 2 else (1, 0):
            start = time.perf_counter()
            models[m].run(None, inputs)
            times[m] = time.perf_counter() - start
        pairs.append((times[0], times[1]))
    pairs = np.array(pairs[3:])
    return float(np.median(pairs[:, 1])) * 1e3, float(np.median(pairs[:, 1] / pairs[:, 0]))


def compiled(passes, pipeline, out, args):
    """Compiles the model by some passes of the pipeline."""
    file = out.with_suffix(".yaml")
    rest = {k: v for k, v in pipeline.items() if k not in ("passes", "verify", "report")}
    file.write_text(yaml.safe_dump({"version": 1, **rest, "passes": passes, "verify": {"engine": "off"}}))
    command = [args.planish, "compile", args.model, "--pipeline", file, "-o", out]
    command += ["--calib", args.calib] if args.calib else []
    for name, size in args.dims.items():
        command += ["--dim", f"{name}={size}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)


def macs(path, args):
    command = [args.planish, "inspect", path]
    for name, size in args.dims.items():
        command += ["--dim", f"{name}={size}"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"([\d.]+ ?[TGMk]?) MACs", text)
    return found[1] if found else "?"


def accuracy(path, args):
    if not args.evaluate:
        return ""
    command = [p.replace("{}", str(path)) for p in shlex.split(args.evaluate)]
    line = subprocess.run(command, capture_output=True, text=True, check=True, cwd=args.folder).stdout.strip().splitlines()[-1]
    values = json.loads(line)
    return "  ".join(f"{values[k]:.4f}" for k in ("value", "mean_cosine_to_ref") if k in values)


def name(step):
    return step if isinstance(step, str) else ", ".join(f"{k} {json.dumps(v)}" for k, v in step.items())


def row(label, path, args):
    milliseconds, ratio = latency(args.model, path, args)
    size = os.path.getsize(path) / 1e6
    print(f"{label:60} {size:9.3f} {macs(path, args):>10} {milliseconds:9.2f} {ratio:6.2f}  {accuracy(path, args)}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("planish")
    parser.add_argument("pipeline")
    parser.add_argument("model")
    parser.add_argument("--calib")
    parser.add_argument("--evaluate")
    parser.add_argument("--folder", help="where the evaluation is run")
    parser.add_argument("--alone", action="store_true")
    parser.add_argument("--dim", action="append", default=[])
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--runs", type=int, default=60)
    args = parser.parse_args()
    args.model, args.planish = os.path.abspath(args.model), os.path.abspath(args.planish)
    args.calib = args.calib and os.path.abspath(args.calib)
    args.dims = {n: int(v) for n, v in (d.split("=") for d in args.dim)}
    pipeline = yaml.safe_load(pathlib.Path(args.pipeline).read_text())
    passes = pipeline["passes"]
    print(f"{'after':60} {'MB':>9} {'MACs':>10} {'ms':>9} {'ratio':>6}  accuracy")
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "out.onnx"
        row("(original)", args.model, args)
        for count in range(1, len(passes) + 1):
            compiled(passes[:count], pipeline, out, args)
            row(name(passes[count - 1]), out, args)
        for step in passes[1:] if args.alone else []:
            compiled([passes[0], step], pipeline, out, args)
            row(f"alone: {name(step)}", out, args)


main()
