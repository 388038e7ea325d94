#!/usr/bin/env python3
"""Time of each split layer beside the layer that it stands for, in onnxruntime:

    benches/split_layers.py ORIGINAL.onnx FACTORIZED.onnx [--runs 20] [--size 128]

onnxruntime's profiler, one thread, default optimizations. A split layer has the node of the original, by its name, and new nodes in
front of it whose names begin with that name; the least time that each of their kernels took is summed, and so are those of nodes that
were fused into them.
Both models run in turns, several sessions each. Prints the layers, the slowest beside its original first, and the ratio of the models.
"""
import argparse
import collections
import json
import os
import tempfile

import numpy as np
import onnx
import onnxruntime as ort


def session(path, folder):
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_profiling = True
    options.profile_file_prefix = os.path.join(folder, "profile")
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def feeds(model, size):
    random = np.random.default_rng(0)
    result = {}
    for i in model.get_inputs():
        shape = [d if isinstance(d, int) else 1 if axis == 0 else size for axis, d in enumerate(i.shape)]
        floats = "float" in i.type
        result[i.name] = random.standard_normal(shape).astype(np.float32) if floats else np.ones(shape, np.int64)
    return result


def kernels(models, args):
    """Microseconds of the kernels of each node, of both models."""
    times = [collections.defaultdict(list) for _ in models]
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(3):
            made = [session(m, folder) for m in models]
            inputs = feeds(made[0], args.size)
            for _ in range(args.runs):
                for m in made:
                    m.run(None, inputs)
            for m, seen in zip(made, times):
                with open(m.end_profiling()) as f:
                    for event in json.load(f):
                        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                            seen[event["name"].removesuffix("_kernel_time")].append(event["dur"])
    return [{n: min(t) for n, t in seen.items()} for seen in times]


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("original")
parser.add_argument("factorized")
parser.add_argument("--runs", type=int, default=20)
parser.add_argument("--size", type=int, default=128)
args = parser.parse_args()
graphs = [onnx.load(m, load_external_data=False).graph for m in (args.original, args.factorized)]
names = [{n.name for n in g.node} for g in graphs]
new = names[1] - names[0]
before, after = kernels([args.original, args.factorized], args)


def aliases(graph):
    """The names that the runtime may give a node: also those of what it computes, and of an activation that it takes in."""
    users = collections.defaultdict(list)
    for n in graph.node:
        for i in n.input:
            users[i].append(n)
    found = {}
    for n in graph.node:
        outputs = [n.output[0]] + [u.output[0] for u in users[n.output[0]] if len(users[n.output[0]]) == 1]
        found[n.name] = {n.name, f"{n.name}/MatMulAddFusion"} | {f"{o}_nchwc" for o in outputs} | set(outputs[:1])
    return found


known = [aliases(g) for g in graphs]


def of(which, name):
    return sum(t for n, t in (before, after)[which].items() if n in known[which][name])


rows = []
for name in sorted(n for n in names[0] if any(f"{n}_{end}" in new for end in ("in", "inputs", "core", "axis_0"))):
    parts = [name] + [f"{name}_{end}" for end in ("in", "inputs", "core", "axis_0", "axis_1") if f"{name}_{end}" in new]
    old, split = of(0, name), sum(of(1, p) for p in parts)
    if old and all(of(1, p) for p in parts):
        rows.append((split / old, name, old, split))
    else:
        print(f"{name}: no kernel has its name")
for ratio, name, old, split in sorted(rows, reverse=True):
    print(f"{ratio:6.2f} {old:10.0f} us {split:10.0f} us  {name}")
slower = sum(r[0] > 1.0 for r in rows)
print(f"{len(rows)} layers, {slower} slower; all kernels {sum(after.values()) / sum(before.values()):.3f} of the original")
