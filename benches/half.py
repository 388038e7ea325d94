#!/usr/bin/env python3
"""16-bit and smaller floats beside onnxruntime's float16 converter: accuracy, casts, what stays in float32, size.

    benches/half.py --corpus DIR [--cases minilm magika …] [--methods tensorrt-fp16 mxfp8 …] [--json out.json]

DIR is as for `quantize.py`. `metric` is that of the evaluation script, run by onnxruntime on CPU, which has few kernels for float16 and
runs most of such a model in float32 between casts, some of which it removes: it shows that a model works, and little of what a GPU
would make of it; of bfloat16 and of 4-bit floats it has next to none. `dB` is the signal-to-noise ratio of the worst output against
float32 on calibration samples, and `top-1` the share of rows whose largest element is the same, both run by the engine of planish, which
rounds every value that is made in 16 bits, overflows included, and sums in float32.

`casts` are the Cast nodes from and to 16-bit floats, `float32` the other nodes that read or make float32, `islands` the groups of these
that hang together. `ort:float16` is onnxruntime.transformers.float16 with inputs and outputs kept, `ort:float16+fused` the same behind
onnxruntime's own basic optimizations. Needs onnx, onnxruntime and numpy for the python that runs this script.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import onnx
from onnx import TensorProto

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from quantize import CASES, evaluate, measured  # noqa: E402

STEPS = {
    "float16": ["simplify", "fuse", "simplify", "float16", "simplify"],
    "bfloat16": ["simplify", "raise-opset: {to: 22}", "fuse", "simplify", "bfloat16", "simplify"],
    "float8": ["simplify", "raise-opset: {to: 23}", "low-float-weights: {format: float8}"],
    "mxfp8": ["simplify", "raise-opset: {to: 23}", "low-float-weights: {format: mxfp8}"],
    "mxfp4": ["simplify", "raise-opset: {to: 24}", "low-float-weights: {format: mxfp4}"],
    "nvfp4": ["simplify", "raise-opset: {to: 23}", "low-float-weights: {format: nvfp4}"],
}
METHODS = ["tensorrt-fp16", *STEPS, "ort:float16", "ort:float16+fused"]

ORT = """
import sys, onnx, onnxruntime as ort
from onnxruntime.transformers.float16 import convert_float_to_float16
kind, source, out = sys.argv[1:]
if kind.endswith("+fused"):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = source = out + ".fused.onnx"
    ort.InferenceSession(sys.argv[2], options, providers=["CPUExecutionProvider"])
onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), out)
"""
HALF = {TensorProto.FLOAT16, TensorProto.BFLOAT16}


def compile_with(method, source, out, calib, args):
    if method.startswith("ort:"):
        return measured([sys.executable, "-c", ORT, method, str(source), str(out)])
    recipe = ["--preset", method]
    if method in STEPS:
        pipeline = out.with_suffix(".yaml")
        passes = "".join(f"  - {step}\n" for step in STEPS[method])
        pipeline.write_text(f"version: 1\ncalibration: {{npz: {calib}, samples: {args.samples}}}\npasses:\n{passes}verify: {{engine: off}}\n")
        recipe = ["--pipeline", str(pipeline)]
    calibration = ["--calib", str(calib), "--samples", str(args.samples)] if method not in STEPS else []
    return measured([args.planish, "compile", str(source), *recipe, *calibration, "-o", str(out), *args.planish_args])


def counts(path):
    """Casts, float32 nodes, and groups of these that hang together, of the main graph."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    graph = model.graph
    types = {v.name: v.type.tensor_type.elem_type for v in [*graph.input, *graph.output, *graph.value_info]}
    weights = {t.name for t in graph.initializer}
    types.update({t.name: t.data_type for t in graph.initializer})
    casts, full = 0, []
    for node in graph.node:
        ends = {types.get(v) for v in [*node.input[:1], *node.output]}
        if node.op_type == "Cast" and ends & HALF:
            casts += TensorProto.FLOAT in ends or len(ends) == 1
        elif node.op_type not in ("Cast", "Constant", "DequantizeLinear") and any(
            types.get(v) == TensorProto.FLOAT for v in [*node.input, *node.output] if v not in weights
        ):
            full.append(node)
    # Union by values.
    group = list(range(len(full)))

    def root(i):
        while group[i] != i:
            group[i] = group[group[i]]
            i = group[i]
        return i

    seen = {}
    for i, node in enumerate(full):
        for value in [*node.input, *node.output]:
            if value and value not in weights and types.get(value) == TensorProto.FLOAT:
                group[root(i)] = root(seen.setdefault(value, i))
    return casts, len(full), len({root(i) for i in range(len(full))})


def agreement(reference, model, calib, args):
    """The worst SQNR of any output in dB, None if there is no difference; and the worst share of rows with the same largest element."""
    command = [args.planish, "verify", str(reference), str(model), "--data", str(calib), "--samples", str(args.verify), "--json"]
    out = subprocess.run(command, capture_output=True, text=True)
    try:
        outputs = json.loads(out.stdout)["outputs"]
    except (json.JSONDecodeError, KeyError):
        raise RuntimeError((out.stderr.strip().splitlines() or ["no figures"])[-1]) from None
    worst = lambda key: min((o[key] for o in outputs if o[key] is not None), default=None)  # noqa: E731
    return worst("sqnr_db"), worst("top1_agreement")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, type=pathlib.Path)
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--methods", nargs="*", default=METHODS, choices=METHODS)
    parser.add_argument("--planish", default="target/release/planish")
    parser.add_argument("--planish-args", nargs="*", default=[])
    parser.add_argument("--samples", type=int, default=32, help="for calibration")
    parser.add_argument("--verify", type=int, default=16, help="samples for the signal-to-noise ratio")
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    corpus, rows = args.corpus.resolve(), []
    print(f"{'model':10} {'method':18} {'metric':>8} {'dB':>6} {'top-1':>6} {'casts':>6} {'float32':>8} {'islands':>8} {'MB':>7} {'seconds':>8}")
    for case in args.cases:
        model, calib, command = CASES[case]
        model, calib = corpus / "models" / model, corpus / "data" / calib
        with tempfile.TemporaryDirectory() as folder:
            for method in ["float32", *args.methods]:
                out, row = pathlib.Path(folder) / "out.onnx", {"model": case, "method": method, "notes": []}
                if method == "float32":
                    out = model
                else:
                    out.unlink(missing_ok=True)
                    code, row["seconds"], _, log = compile_with(method, model, out, calib, args)
                    if code or not out.exists():
                        row["error"] = (log.strip().splitlines() or ["no message"])[-1][:160]
                        print(f"{case:10} {method:18} fails: {row['error']}", flush=True)
                        rows.append(row)
                        continue
                row["mb"] = out.stat().st_size / 1e6
                figures = [
                    ("metric", lambda: evaluate(corpus, command, out)["value"]),
                    ("agreement", lambda: agreement(model, out, calib, args) if method != "float32" else None),
                    ("counts", lambda: counts(out)),
                ]
                for name, figure in figures:
                    try:
                        row[name] = figure()
                    except Exception as error:  # noqa: BLE001 - a runtime may refuse a model in any way
                        row[name] = None
                        row["notes"].append(f"{name}: {str(error)[:160]}")
                rows.append(row)
                cell = lambda value, spec: format(value, spec) if value is not None else "-".rjust(int(spec.split(".")[0]))  # noqa: E731
                casts, full, islands = row["counts"] or (None, None, None)
                sqnr, top1 = row["agreement"] or (None, None)
                print(f"{case:10} {method:18} {cell(row['metric'], '8.4f')} {cell(sqnr, '6.1f')} {cell(top1, '6.3f')} {cell(casts, '6')} "
                      f"{cell(full, '8')} {cell(islands, '8')} {row['mb']:7.2f} {cell(row.get('seconds'), '8.1f')}", flush=True)
                for note in row["notes"]:
                    print(f"{'':10} {note}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
