#!/usr/bin/env python3
"""Weight-only quantization beside onnxruntime's quantizers, same machine, same run:

    benches/weight_only.py MODEL.onnx [--calib CALIB.npz] [--evaluate "python3 eval.py {} --ref MODEL.onnx"]
                           [--bits 4] [--block 32] [--samples 128] [--planish target/release/planish]
                           [--only NAME …] [--dim NAME=N …]

Prints size, seconds and peak memory of the whole process that makes the model (start, read, quantize, write; without
verification), what --evaluate says of the result, and its latency in onnxruntime (one thread, in turn with the original, median of
the ratios). --evaluate is a command that prints one line of JSON for the model that stands for {}; of its keys `value` and
`mean_cosine_to_ref` are shown. Both sides quantize the same weights: those of products, and with `+tables` those of look-ups too.
onnxruntime's quantizers need the packages onnx, onnx_ir and, for HQQ, torch; those that cannot run are left out, and said so.
"""
import argparse
import json
import os
import pathlib
import shlex
import statistics
import subprocess
import sys
import tempfile

from compare import measure
from latency import feeds, seconds, session

PIPELINE = """version: 1
target: onnxruntime-cpu
{calibration}passes:
  - simplify
  - quantize-weights: {{bits: {bits}, block: {block}, algorithm: {algorithm}, symmetric: {symmetric}, tables: {tables}}}
verify: {{engine: off}}
"""

THEIRS = """
import sys, json, logging
import numpy as np, onnx
from onnxruntime.quantization import matmul_nbits_quantizer as q
from onnxruntime.quantization.calibrate import CalibrationDataReader
logging.disable(logging.WARNING)
source, out, algorithm, bits, block, symmetric, tables, calib, samples = json.loads(sys.argv[1])
class Reader(CalibrationDataReader):
    def __init__(self):
        data = dict(np.load(calib))
        self.rows = [{k: v[i:i + 1] for k, v in data.items()} for i in range(samples)]
        self.rewind()
    def rewind(self):
        self.left = iter(self.rows)
    def get_next(self):
        return next(self.left, None)
    def __iter__(self):
        return iter(self.rows)
model = onnx.load(source)
operators = ("MatMul", "Gather") if tables else ("MatMul",)
config = {
    "default": lambda: q.DefaultWeightOnlyQuantConfig(block_size=block, is_symmetric=symmetric, bits=bits, accuracy_level=4, op_types_to_quantize=operators),
    "rtn": lambda: q.RTNWeightOnlyQuantConfig(),
    "k-quant": lambda: q.KQuantWeightOnlyQuantConfig(),
    "hqq": lambda: q.HQQWeightOnlyQuantConfig(block_size=block, bits=bits, op_types_to_quantize=operators),
    "gptq": lambda: q.GPTQWeightOnlyQuantConfig(calibration_data_reader=Reader(), block_size=block),
}[algorithm]()
own = {} if algorithm in ("default", "hqq") else {"block_size": block, "is_symmetric": symmetric, "accuracy_level": 4}
quantizer = q.MatMulNBitsQuantizer(model, algo_config=config, **own)
quantizer.process()
quantizer.model.save_model_to_file(out, use_external_data_format=False)
"""


def ours(args, folder):
    """Names, and commands without the output."""
    pipeline = folder / "pipeline.yaml"
    algorithms = ["rtn", "hqq", "mse"] + (["gptq"] if args.calib else [])
    for algorithm, symmetric, tables in [(a, s, t) for t in (False, True) for a in algorithms for s in (False, True)]:
        if tables and (symmetric or algorithm in ("rtn", "hqq")):
            continue
        calibration = f"calibration: {{npz: {args.calib.resolve()}, samples: {args.samples}}}\n" if algorithm == "gptq" else ""
        text = PIPELINE.format(calibration=calibration, bits=args.bits, block=args.block, algorithm=algorithm,
                               symmetric=str(symmetric).lower(), tables=str(tables).lower())
        name = f"planish {algorithm}" + (" symmetric" if symmetric else "") + (" +tables" if tables else "")

        def command(out, text=text):
            pipeline.write_text(text)
            return [args.planish, "compile", str(args.model), "--pipeline", str(pipeline), "-o", str(out)]

        yield name, command


def theirs(args):
    cases = [("default", False, False), ("default", True, False), ("rtn", False, False), ("k-quant", False, False), ("hqq", False, False)]
    cases += [("gptq", False, False)] if args.calib else []
    cases += [("default", False, True), ("hqq", False, True)]
    for algorithm, symmetric, tables in cases:
        name = f"onnxruntime {algorithm}" + (" symmetric" if symmetric else "") + (" +tables" if tables else "")

        def command(out, case=(algorithm, symmetric, tables)):
            algorithm, symmetric, tables = case
            calib = str(args.calib) if args.calib else None
            job = [str(args.model), str(out), algorithm, args.bits, args.block, symmetric, tables, calib, args.samples]
            return [sys.executable, "-c", THEIRS, json.dumps(job)]

        yield name, command


def ratio(original, compiled, args):
    """Milliseconds of a compiled model, and the median of its times over the original's, in pairs."""
    a, b = session(original), session(compiled)
    inputs = feeds(a, args.dims, args.size)
    times = [(seconds(a, inputs), seconds(b, inputs)) for _ in range(args.runs + 3)][3:]
    return statistics.median(t[1] for t in times) * 1e3, statistics.median(t[1] / t[0] for t in times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--calib", type=pathlib.Path)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--evaluate", metavar="COMMAND")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--block", type=int, default=32)
    parser.add_argument("--planish", default="target/release/planish")
    parser.add_argument("--only", nargs="+", metavar="NAME")
    parser.add_argument("--dim", action="append", default=[], metavar="NAME=N", help="NAME or INPUT.AXIS, for the latency")
    parser.add_argument("--size", type=int, default=64, help="of open dims that --dim does not name, but for the first axis")
    parser.add_argument("--runs", type=int, default=15, help="pairs of the latency")
    args = parser.parse_args()
    args.dims = {name: int(n) for name, n in (d.rsplit("=", 1) for d in args.dim)}
    print(f"{args.bits} bits in blocks of {args.block}\n")
    print("| tool | MB | seconds | MB resident | value | cosine | ms | x original |\n|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        out = folder / "out.onnx"
        tools = [("float32", None), *ours(args, folder), *theirs(args)]
        for tool, command in tools:
            if args.only and tool not in args.only:
                continue
            made = args.model
            taken = "| | "
            if command:
                out.unlink(missing_ok=True)
                result = measure(command(out))
                if result is None or not out.exists():
                    print(f"{tool} fails: left out", file=sys.stderr)
                    continue
                made, taken = out, f"| {result[0]:.2f} | {result[1]:.0f} "
            size = os.path.getsize(made) / 1e6
            try:
                ms, times = ratio(args.model, made, args)
            except Exception as e:  # onnxruntime has many kinds, and the other tools still matter
                print(f"| {tool} | {size:.1f} {taken}| does not load | | | |", flush=True)
                print(f"{tool}: {e}", file=sys.stderr)
                continue
            said = {}
            if args.evaluate:
                evaluate = [part.replace("{}", str(made)) for part in shlex.split(args.evaluate)]
                lines = subprocess.run(evaluate, stdout=subprocess.PIPE, text=True, check=True).stdout.strip().splitlines()
                said = json.loads(lines[-1])
            figures = [f"{said[k]:.4f}" if k in said else "" for k in ("value", "mean_cosine_to_ref")]
            print(f"| {tool} | {size:.1f} {taken}| {figures[0]} | {figures[1]} | {ms:.2f} | {times:.2f} |", flush=True)


if __name__ == "__main__":
    main()
