#!/usr/bin/env python3
"""What operators between products cost in onnxruntime, on 8-bit codes and on floats; what quantize goes by (passes/quantize/static_/place.rs):

    benches/between.py [--shape 1,480,6,160] [--runs 100]

Kernel times of onnxruntime's profiler, one thread, no graph optimizations, the least of all runs, per element of the result, for pools
of what they read; beside those the same in the units of quantize, of which QuantizeLinear takes 5.
"""
import argparse
import json
import os
import tempfile

import numpy as np
import onnxruntime as ort
from onnx import TensorProto as T
from onnx import ValueInfoProto
from onnx import helper as h
from onnx import numpy_helper as nh

CONSTANTS = {"s": np.float32(0.05), "z": np.uint8(128)}
MS = {"domain": "com.microsoft"}
X, Y, Z = ("x", "s", "z"), ("y", "s", "z"), ("s", "z")


def cases(shape):
    """Name, node on codes, node on floats, and the shape of the second operand."""
    gate = [*shape[:2], 1, 1]
    node = h.make_node
    pool = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    yield "QuantizeLinear", None, node("QuantizeLinear", ["x", *Z], ["r"]), None
    yield "DequantizeLinear", node("DequantizeLinear", X, ["r"]), None, None
    yield "Add", node("QLinearAdd", [*X, *Y, *Z], ["r"], **MS), node("Add", ["x", "y"], ["r"]), shape
    yield "Add, per channel", node("QLinearAdd", [*X, *Y, *Z], ["r"], **MS), node("Add", ["x", "y"], ["r"]), gate
    yield "Mul", node("QLinearMul", [*X, *Y, *Z], ["r"], **MS), node("Mul", ["x", "y"], ["r"]), shape
    yield "Mul, per channel", node("QLinearMul", [*X, *Y, *Z], ["r"], **MS), node("Mul", ["x", "y"], ["r"]), gate
    yield "Sigmoid", node("QLinearSigmoid", [*X, *Z], ["r"], **MS), node("Sigmoid", ["x"], ["r"]), None
    yield "LeakyRelu", node("QLinearLeakyRelu", [*X, *Z], ["r"], **MS), node("LeakyRelu", ["x"], ["r"]), None
    yield "HardSigmoid", None, node("HardSigmoid", ["x"], ["r"]), None
    yield "HardSwish", None, node("HardSwish", ["x"], ["r"]), None
    yield "SiLU", None, node("QuickGelu", ["x"], ["r"], alpha=1.0, **MS), None
    yield "Relu", None, node("Relu", ["x"], ["r"]), None
    yield "Concat", node("QLinearConcat", [*Z, *X, *Y], ["r"], axis=1, **MS), node("Concat", ["x", "y"], ["r"], axis=1), shape
    # Behind convolutions of codes, onnxruntime moves channels to the back.
    yield ("AveragePool", node("QLinearAveragePool", [*X, *Z], ["r"], channels_last=1, **pool, **MS),
           node("AveragePool", ["x"], ["r"], **pool), None)
    yield ("GlobalAveragePool", node("QLinearGlobalAveragePool", [*X, *Z], ["r"], channels_last=1, **MS),
           node("GlobalAveragePool", ["x"], ["r"]), None)
    yield "MaxPool", node("NhwcMaxPool", ["x"], ["r"], **pool, **MS), node("MaxPool", ["x"], ["r"], **pool), None
    yield "Transpose", node("Transpose", ["x"], ["r"], perm=[0, 2, 3, 1]), node("Transpose", ["x"], ["r"], perm=[0, 2, 3, 1]), None


def kernel(node, is_codes, shapes, runs):
    """Nanoseconds of the node, and elements of its result."""
    kind = T.UINT8 if is_codes else T.FLOAT
    constants = [nh.from_array(v, n) for n, v in CONSTANTS.items() if n in node.input]
    inputs = [h.make_tensor_value_info(n, kind, s) for n, s in shapes.items() if s]
    graph = h.make_graph([node], "g", inputs, [ValueInfoProto(name="r")], constants)
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 17), h.make_opsetid(MS["domain"], 1)], ir_version=9)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    options.enable_profiling = True
    random = np.random.default_rng(0)
    draw = {True: lambda s: random.integers(0, 256, s, np.uint8), False: lambda s: random.standard_normal(s, np.float32)}
    feeds = {n: draw[is_codes](s) for n, s in shapes.items() if s}
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = os.path.join(folder, "profile")
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        for _ in range(runs):
            (made,) = session.run(None, feeds)
        with open(session.end_profiling()) as f:
            events = [e for e in json.load(f) if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
    # An operator may be a function, of several kernels.
    return 1e3 * sum(sorted(e["dur"] for e in events if e["name"] == name)[0] for name in {e["name"] for e in events}), made.size


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--shape", default="1,480,6,160", type=lambda s: [int(d) for d in s.split(",")])
parser.add_argument("--runs", type=int, default=100)
args = parser.parse_args()
unit = None
print(f"{'operator':20} {'codes, ns':>10} {'floats, ns':>10} {'codes':>6} {'floats':>6}")
for name, codes, floats, second in cases(args.shape):
    row = []
    for node, is_codes in ((codes, True), (floats, False)):
        shapes = {"x": args.shape, "y": second}
        nanoseconds, elements = kernel(node, is_codes, shapes, args.runs) if node else (float("nan"), 1)
        # Of what a pool reads, of what others give.
        row.append(nanoseconds / (np.prod(args.shape) if "Pool" in name else elements))
    unit = unit or row[1] / 5
    print(f"{name:20} {row[0]:10.3f} {row[1]:10.3f} {row[0] / unit:6.1f} {row[1] / unit:6.1f}")
