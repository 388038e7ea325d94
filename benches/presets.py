#!/usr/bin/env python3
"""Every preset, or pipeline, on every model of a folder: is there a verified result, and if not, why?

    benches/presets.py FOLDER [--planish target/release/planish] [--presets simplify optimize …] [--pipelines a.yaml …] [--limit 300]

Models are the files *.onnx in FOLDER, in order; presets are those that need no samples unless others, or pipelines, are given. Each line is a model and a
preset or pipeline: the exit code, the seconds, who verified on random inputs, or the error. A failed gate may be the model's: detectors make little of
noise. A crash, an internal error (exit code 1) or a timeout is a defect. The last line counts the exit codes; the command fails if there
is a defect.
"""
import argparse
import collections
import pathlib
import subprocess
import sys
import tempfile
import time

PRESETS = ["simplify", "optimize", "fp16", "int8-weights", "int4-weights", "ort-cpu-int8-dynamic"]
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("folder", type=pathlib.Path)
parser.add_argument("--planish", default="target/release/planish")
parser.add_argument("--presets", nargs="+", default=[])
parser.add_argument("--pipelines", nargs="+", default=[], type=pathlib.Path)
parser.add_argument("--limit", type=int, default=300, help="seconds for one model and preset")
args = parser.parse_args()

recipes = [("--preset", p) for p in args.presets] + [("--pipeline", p) for p in args.pipelines]
recipes = recipes or [("--preset", p) for p in PRESETS]
models = sorted(args.folder.glob("*.onnx"))
if not models:
    sys.exit(f"{args.folder} holds no .onnx file")
codes = collections.Counter()
with tempfile.TemporaryDirectory() as folder:
    for model in models:
        for kind, recipe in recipes:
            command = [args.planish, "compile", model, kind, recipe, "-o", f"{folder}/out.onnx"]
            start = time.time()
            try:
                run = subprocess.run(command, capture_output=True, text=True, timeout=args.limit)
                code, out, err = run.returncode, run.stdout, run.stderr
            except subprocess.TimeoutExpired:
                code, out, err = "timeout", "", ""
            codes[code] += 1
            verified = [line for line in out.splitlines() if line.startswith("verified by")]
            message = verified[0] if verified else (err.strip().splitlines() or [""])[-1]
            print(f"{model.stem:32} {pathlib.Path(recipe).stem:22} {code:>3} {time.time() - start:6.1f} s  {message[:160]}", flush=True)
print(", ".join(f"exit code {code}: {count}" for code, count in sorted(codes.items(), key=str)))
# 2: configuration, 3: files, 4: the gate. Anything else is ours.
sys.exit(any(code not in (0, 2, 3, 4) for code in codes))
