#!/usr/bin/env python3
"""What sparse weights cost a model, by method, and whether they are as sparse as they are to be:

    benches/sparsity.py MODEL.onnx [--calib CALIB.npz] [--samples 128] [--goal 2:4 | 0.5 …] [--methods magnitude wanda sparsegpt]
                        [--evaluate "python3 eval.py {} --ref MODEL.onnx"] [--planish target/release/planish] [--dim NAME=N …]

Prints seconds and peak memory of the process that makes each model, what --evaluate says of it (a command that prints one line of JSON
for the model that stands for {}; its keys `value` and `mean_cosine_to_ref` are shown), the share of zeros in the weights of MatMul, Gemm
and Conv that it was to make sparse, and how many of them break the pattern. That is read from the file that was written, by this script
alone: of M neighbours along the axis that is summed over (the input channels of a convolution, at each tap) at most N may be other than
zero. Without --calib samples are random. It needs the packages numpy and onnx.
"""
import argparse
import json
import pathlib
import shlex
import subprocess
import tempfile

import numpy as np
import onnx
from onnx import numpy_helper

from compare import measure

PIPELINE = """version: 1
calibration: {calibration}
passes:
  - sparsify: {{{goal}, method: {method}}}
verify: {{engine: off}}
"""


def weights(model):
    """Names of the weights of linear layers, with their values as outputs x channels x taps."""
    constants = {t.name: t for t in model.graph.initializer}
    constants.update({n.output[0]: n.attribute[0].t for n in model.graph.node if n.op_type == "Constant"})
    seen = {}
    for node in model.graph.node:
        if node.op_type not in ("MatMul", "Gemm", "Conv") or len(node.input) < 2 or node.input[1] not in constants:
            continue
        w = numpy_helper.to_array(constants[node.input[1]])
        attributes = {a.name: a.i for a in node.attribute}
        if node.op_type == "Conv":
            w = w.reshape(w.shape[0], w.shape[1], -1)
        elif w.ndim != 2:
            continue
        else:
            w = (w if attributes.get("transB") else w.T)[:, :, None]
        seen[node.input[1]] = w
    return seen


def breaks(w, keep, of):
    """True if a group of neighbours has more than `keep` numbers that are not zero."""
    outputs, channels, taps = w.shape
    padded = np.zeros((outputs, -(-channels // of) * of, taps), bool)
    padded[:, :channels] = w != 0
    return bool((padded.reshape(outputs, -1, of, taps).sum(2) > keep).any())


def sparsity(path, goal, least):
    """Layers that are looked at, those that break the pattern, and the share of zeros."""
    layers, broken, zeros, total = 0, [], 0, 0
    for name, w in weights(onnx.load(path)).items():
        of = int(goal.split(":")[1]) if ":" in goal else 2
        if w.size < least or w.shape[1] < of:
            continue
        layers, zeros, total = layers + 1, zeros + int((w == 0).sum()), total + w.size
        if ":" in goal and breaks(w, *map(int, goal.split(":"))):
            broken.append(name)
        elif ":" not in goal and (w == 0).mean() < float(goal) - 1e-9:
            broken.append(name)
    return layers, broken, zeros / max(total, 1)


def evaluation(command, path):
    """The figures of a model, in words."""
    if not command:
        return ""
    out = subprocess.run([a.replace("{}", str(path)) for a in shlex.split(command)], stdout=subprocess.PIPE, text=True, check=True)
    figures = json.loads(out.stdout.splitlines()[-1])
    return "  ".join(f"{k} {figures[k]:.4f}" for k in ("value", "mean_cosine_to_ref") if k in figures)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--calib", type=pathlib.Path)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--goal", nargs="+", default=["2:4"])
    parser.add_argument("--methods", nargs="+", default=["magnitude", "wanda", "sparsegpt"])
    parser.add_argument("--evaluate", metavar="COMMAND")
    parser.add_argument("--min-elements", type=int, default=1024, help="as the pass has it")
    parser.add_argument("--dim", action="append", default=[], metavar="NAME=N")
    parser.add_argument("--planish", default="target/release/planish")
    args = parser.parse_args()
    source = {"npz": str(args.calib.resolve())} if args.calib else {"random": 0}
    print(f"{'float32':32}{'':24}{evaluation(args.evaluate, args.model)}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        pipeline, out = pathlib.Path(folder, "pipeline.yaml"), pathlib.Path(folder, "out.onnx")
        for goal in args.goal:
            for method in args.methods:
                setting = f'pattern: "{goal}"' if ":" in goal else f"sparsity: {goal}"
                calibration = json.dumps({**source, "samples": args.samples})
                pipeline.write_text(PIPELINE.format(calibration=calibration, goal=setting, method=method))
                dims = [word for dim in args.dim for word in ("--dim", dim)]
                command = [args.planish, "compile", str(args.model), "--pipeline", str(pipeline), "-o", str(out), *dims]
                took = measure(command)
                if took is None:
                    print(f"{goal} {method}: failed: {shlex.join(command)}")
                    continue
                layers, broken, zeros = sparsity(out, goal, args.min_elements)
                print(f"{goal + ' ' + method:32}{took[0]:8.1f} s {took[1]:8.0f} MB    {evaluation(args.evaluate, out)}  "
                      f"{100 * zeros:.2f} % zeros in {layers} layers, {len(broken)} of them short{': ' + broken[0] if broken else ''}", flush=True)


if __name__ == "__main__":
    main()
