#!/usr/bin/env python3
"""Compare the kernels that planish predicts for a quantized model with those that onnxruntime forms.

    python benches/kernels.py REPORT.json MODEL.onnx [REPORT.json MODEL.onnx ...]

REPORT.json is what `planish compile` wrote for MODEL.onnx (`report: {json: REPORT.json}`, or --report). onnxruntime
optimizes the model and saves what it is going to run; every node for which a kernel was predicted is looked up there by
its name, and there must be no integer kernel beyond those. Prints one line of JSON per model, and each difference;
ends with 1 if there is any.
"""

import collections
import json
import os
import sys
import tempfile

import onnx
import onnxruntime

# Kernels that compute with codes. Others, such as MaxPool and Reshape, run on any type.
INTEGER = {
    "ConvInteger", "DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat", "MatMulNBits", "QAttention", "QGemm",
    "QLinearAdd", "QLinearAveragePool", "QLinearConcat", "QLinearConv", "QLinearGlobalAveragePool", "QLinearLeakyRelu",
    "QLinearMatMul", "QLinearMul", "QLinearReduceMean", "QLinearSigmoid", "QLinearSoftmax", "QLinearWhere",
}


def optimized(path):
    """The graph that onnxruntime runs."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        options.optimized_model_filepath = os.path.join(folder, "optimized.onnx")
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath, load_external_data=False).graph


def base(name):
    """Names without what onnxruntime adds where it changes the layout."""
    return name.split("_token_")[0]




def compare(report, path):
    with open(report, encoding="utf-8") as f:
        layers = [layer for p in json.load(f)["passes"] for layer in p.get("layers", [])]
    graph = optimized(path)
    names = collections.defaultdict(list)
    for node in graph.node:
        names[base(node.name)].append(node.op_type)
    differences = []
    expected, found = collections.Counter(), collections.Counter()
    for layer in layers:
        real = names.get(layer["node"], [])
        kernel = layer.get("kernel")
        integer = [op for op in real if op in INTEGER]
        if kernel in INTEGER:
            expected[kernel] += 1
            if integer != [kernel]:
                differences.append(f"{layer['node']}: predicted {kernel}, found {real or 'no such node'}")
        elif integer:
            differences.append(f"{layer['node']}: predicted no kernel, found {integer}")
    for node in graph.node:
        if node.op_type in INTEGER:
            found[node.op_type] += 1
    for kernel in sorted(set(expected) | set(found)):
        if expected[kernel] != found[kernel]:
            differences.append(f"{kernel}: predicted {expected[kernel]}, found {found[kernel]}")
    # What passes codes on must do so: nothing may turn them into floats around it.
    producers = {o: n for n in graph.node for o in n.output}
    for layer in layers:
        if layer.get("kernel") and layer["kernel"] not in INTEGER:
            for node in graph.node:
                if base(node.name) == layer["node"] and node.input:
                    before = producers.get(node.input[0])
                    if before is not None and before.op_type == "DequantizeLinear":
                        differences.append(f"{layer['node']}: predicted {layer['kernel']} over codes, found floats")
    print(json.dumps({
        "model": os.path.basename(path),
        "nodes": len(graph.node),
        "kernels": dict(sorted(found.items())),
        "quantize": sum(n.op_type == "QuantizeLinear" for n in graph.node),
        "dequantize": sum(n.op_type == "DequantizeLinear" for n in graph.node),
        "differences": len(differences),
    }))
    for d in differences:
        print("  " + d)
    return not differences


def main():
    pairs = list(zip(sys.argv[1::2], sys.argv[2::2]))
    if not pairs or len(sys.argv) % 2 == 0:
        sys.exit(__doc__)
    sys.exit(not all([compare(report, model) for report, model in pairs]))


if __name__ == "__main__":
    main()
