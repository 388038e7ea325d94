#!/usr/bin/env python3
"""Quantization beside onnxruntime's own quantizers: accuracy, latency, size, time and memory.

    benches/quantize.py --corpus DIR [--cases minilm magika …] [--methods planish:ort-cpu-int8 ort:static …] [--json out.json]

DIR holds `models/`, `data/` and the scripts `eval_*.py`, which print one JSON line with a `value` for a model file. Every method
compiles the float32 model in a process of its own, whose wall time and peak memory are measured, with the same calibration file.
Accuracy comes from the evaluation script. Latency is that of onnxruntime with its default optimizations and one thread on the
first calibration sample, as the median of the ratios of pairs of runs with the float32 model, in changing order: below 1 is faster.

Methods: `planish:PRESET` or `planish:FILE.yaml`; `planish:minmax` quantizes by the smallest and largest number, without a search and
without verification, on onnxruntime, as quantize_static does; `ort:static` is quantize_static as it comes (U8S8, min-max, all operators, weights
per channel); `ort:dynamic` is quantize_dynamic. Models below opset 13 are raised for `ort:*` by onnx's version converter first,
as quantize_static refuses them. Needs onnx, onnxruntime and numpy for the python that runs this script.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from compare import launch  # noqa: E402
from latency import interval, seconds, session  # noqa: E402

MINMAX = """version: 1
target: onnxruntime-cpu
calibration: {npz: %s, engine: onnxruntime}
passes:
  - simplify
  - raise-opset: {to: 21}
  - fuse
  - simplify
  - quantize: {observer: minmax}
"""

# name: model, calibration data, evaluation
CASES = {
    "minilm": ("minilm/minilm_l6_legacy17.onnx", "minilm/calib.npz", ["eval_minilm.py", "{model}", "--data", "data/minilm/eval.npz"]),
    "magika": ("magika/magika_v3_3.onnx", "magika/calib.npz", ["eval_magika.py", "{model}", "--data", "data/magika/eval.npz"]),
    "ocr_rec": ("ppocr/ch_PP-OCRv4_rec_infer.onnx", "ocr/rec_calib.npz", ["eval_ocr.py", "rec", "{model}"]),
    "ocr_cls": ("ppocr/ch_ppocr_mobile_v2.0_cls_infer.onnx", "ocr/cls_calib.npz", ["eval_ocr.py", "cls", "{model}"]),
    "ocr_det": ("ppocr/ch_PP-OCRv4_det_infer.onnx", "ocr/det_calib.npz", ["eval_ocr.py", "det", "{model}"]),
    "mnist_cnn": ("mnist/mnist_cnn_legacy17.onnx", "mnist/calib.npz", ["eval_mnist.py", "{model}", "--data", "data/mnist/eval.npz"]),
    "mnist_vit": ("mnist/mnist_vit_legacy17.onnx", "mnist/calib.npz", ["eval_mnist.py", "{model}", "--data", "data/mnist/eval.npz"]),
}

ORT = """
import sys, numpy as np, onnx, onnxruntime.quantization as q
kind, source, out, calib = sys.argv[1:]
if kind == "dynamic":
    q.quantize_dynamic(source, out, per_channel=True)
    sys.exit()
model = onnx.load(source)
opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
if opset < 13:
    source = out + ".raised.onnx"
    onnx.save(onnx.version_converter.convert_version(model, 17), source)
arrays, names = np.load(calib), [i.name for i in model.graph.input]
class Reader(q.CalibrationDataReader):
    def __init__(self):
        count = len(arrays[names[0]])
        self.rows = iter([{n: arrays[n][k:k + 1] for n in names if n in arrays} for k in range(count)])
    def get_next(self):
        return next(self.rows, None)
q.quantize_static(source, out, Reader(), per_channel=True, activation_type=q.QuantType.QUInt8, weight_type=q.QuantType.QInt8)
"""


def measured(command):
    """Runs a process; status, seconds, peak memory in MB, and what it wrote."""
    with tempfile.NamedTemporaryFile() as log:
        return *launch(command, log.name), log.read().decode(errors="replace")


def first_sample(path, model):
    arrays = np.load(path)
    return {i.name: arrays[i.name][:1] for i in model.get_inputs() if i.name in arrays}


def latency(original, compiled, calib, runs):
    """Median ratio to the original, its interval, and milliseconds of both."""
    times = []
    for flip in (False, True):
        order = [original, compiled][:: -1 if flip else 1]
        made = {p: session(p) for p in order}
        inputs = first_sample(calib, made[original])
        for p in order * 3:
            made[p].run(None, inputs)
        for run in range(runs // 2):
            taken = {p: seconds(made[p], inputs) for p in (order if run % 2 == 0 else order[::-1])}
            times.append((taken[original], taken[compiled]))
    ratios = [c / o for o, c in times]
    low, high = interval(ratios)
    return statistics.median(ratios), low, high, *(1e3 * statistics.median(t) for t in zip(*times))


def evaluate(corpus, command, model):
    command = [sys.executable, *(c.format(model=model) for c in command)]
    out = subprocess.run(command, cwd=corpus, capture_output=True, text=True)
    if out.returncode:
        raise RuntimeError(out.stderr.strip().splitlines()[-1])
    return json.loads(out.stdout.strip().splitlines()[-1])


def compile_with(method, source, out, calib, args):
    kind, _, what = method.partition(":")
    if kind == "ort":
        return measured([sys.executable, "-c", ORT, what, str(source), str(out), str(calib)])
    if what == "minmax":
        pipeline = out.parent / "minmax.yaml"
        pipeline.write_text(MINMAX % calib)
        return measured([args.planish, "compile", str(source), "--pipeline", str(pipeline), "--verify", "off", "-o", str(out)])
    recipe = ["--pipeline", what] if what.endswith(".yaml") else ["--preset", what]
    return measured([args.planish, "compile", str(source), *recipe, "--calib", str(calib), "-o", str(out), *args.planish_args])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, type=pathlib.Path)
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--methods", nargs="*", default=["planish:ort-cpu-int8", "planish:ort-cpu-int8-dynamic", "planish:minmax", "ort:static", "ort:dynamic"])
    parser.add_argument("--planish", default="target/release/planish")
    parser.add_argument("--planish-args", nargs="*", default=[])
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    corpus, rows = args.corpus.resolve(), []
    print(f"{'model':10} {'method':28} {'metric':>8} {'MB':>7} {'ratio':>22} {'ms':>8} {'compile s':>10} {'peak MB':>8}")
    for case in args.cases:
        model, calib, command = CASES[case]
        model, calib = corpus / "models" / model, corpus / "data" / calib
        with tempfile.TemporaryDirectory() as folder:
            for method in ["float32", *args.methods]:
                out = pathlib.Path(folder) / "out.onnx"
                row = {"model": case, "method": method}
                try:
                    if method == "float32":
                        out = model
                    else:
                        out.unlink(missing_ok=True)
                        code, row["seconds"], row["peak_mb"], log = compile_with(method, model, out, calib, args)
                        if code or not out.exists():
                            raise RuntimeError((log.strip().splitlines() or ["no message"])[-1])
                        row["ratio"], row["low"], row["high"], _, row["ms"] = latency(model, out, calib, args.runs)
                    row["metric"] = evaluate(corpus, command, out)["value"]
                    row["mb"] = out.stat().st_size / 1e6
                except Exception as error:  # noqa: BLE001 - a peer may fail in any way
                    row["error"] = str(error)[:160]
                rows.append(row)
                if "error" in row:
                    print(f"{case:10} {method:28} fails: {row['error']}", flush=True)
                    continue
                ratio = f"{row['ratio']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" if "ratio" in row else ""
                number = lambda key, digits: f"{row[key]:.{digits}f}" if key in row else ""  # noqa: E731
                print(f"{case:10} {method:28} {row['metric']:8.4f} {row['mb']:7.2f} {ratio:>22} {number('ms', 2):>8} "
                      f"{number('seconds', 2):>10} {number('peak_mb', 0):>8}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
