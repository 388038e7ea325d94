#!/usr/bin/env python3
"""Node counts of planish beside other simplifiers:

    benches/nodes.py MODEL.onnx … [--planish target/release/planish] [--peers …] [--check]

Counting rule: every node of the main graph and, to any depth, of the graphs in attributes of nodes; `Constant` nodes of the
standard operators do not count, as they are values. The call of a local function is one node, and what functions consist of does
not count. The same rule holds for all columns, also for the original.

Each tool runs as a process of its own and gets the same file; if it fails, takes too long, or writes no model, its column says
"fails". Peers: onnxsim and onnxslim with their defaults, and onnxruntime's own offline optimizer at the levels basic (standard
operators) and extended (com.microsoft). planish runs `simplify` for any target, and `optimize` for onnxruntime-cpu, verification off.
With --check the exit code is 1 if planish has more nodes than the best peer of the same kind: onnxsim, onnxslim and basic for
generic, extended for onnxruntime-cpu. Needs the onnx package, and the peers for the python that runs this script.
"""
import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

import onnx

OPTIMIZE = """
import sys, onnxruntime as ort
source, out, level = sys.argv[1:]
options = ort.SessionOptions()
options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, "ORT_ENABLE_" + level)
options.optimized_model_filepath = out
options.log_severity_level = 3
# A model that does not fit a message is written with a second file.
options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights.data")
options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
"""


def count(graph):
    """Nodes of a graph by the counting rule."""
    total = 0
    for node in graph.node:
        total += not (node.op_type == "Constant" and node.domain in ("", "ai.onnx"))
        for attribute in node.attribute:
            total += sum(map(count, [attribute.g] * attribute.HasField("g") + list(attribute.graphs)))
    return total


def nodes(path):
    """Nodes of the model in a file, whose weights are not read where they lie elsewhere."""
    return count(onnx.load(path, load_external_data=False).graph)


def columns(model, args, out):
    compile_ = [args.planish, "compile", str(model), "--verify", "off", "-o", out, "--preset"]
    yield "planish generic", [*compile_, "simplify"]
    yield "planish onnxruntime-cpu", [*compile_, "optimize", "--target", "onnxruntime-cpu"]
    peers = {
        "onnxsim": [sys.executable, "-m", "onnxsim", str(model), out],
        "onnxslim": [sys.executable, "-m", "onnxslim", str(model), out],
        "onnxruntime basic": [sys.executable, "-c", OPTIMIZE, str(model), out, "BASIC"],
        "onnxruntime extended": [sys.executable, "-c", OPTIMIZE, str(model), out, "EXTENDED"],
    }
    yield from ((name, peers[name]) for name in peers if name in args.peers)


def run(command, out, args):
    """Nodes of what a tool writes, or None if it fails."""
    log = subprocess.DEVNULL if not args.verbose else None
    try:
        done = subprocess.run(command, stdout=log, stderr=log, timeout=args.timeout, env=os.environ, check=False)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode != 0 or not os.path.exists(out):
        return None
    try:
        return nodes(out)
    except Exception:  # whatever a damaged file makes the reader raise
        return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=pathlib.Path)
    parser.add_argument("--planish", default="target/release/planish")
    every = ["onnxsim", "onnxslim", "onnxruntime basic", "onnxruntime extended"]
    parser.add_argument("--peers", nargs="*", choices=every, default=every, metavar="PEER")
    parser.add_argument("--timeout", type=float, default=900, help="seconds for each tool")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--verbose", action="store_true", help="let the tools print")
    args = parser.parse_args()
    worse = []
    header = None
    for model in args.models:
        row = {"original": nodes(model)}
        with tempfile.TemporaryDirectory() as folder:
            for number, (name, command) in enumerate(columns(model, args, "")):
                out = os.path.join(folder, str(number), "out.onnx")
                os.mkdir(os.path.dirname(out))
                row[name] = run([out if part == "" else part for part in command], out, args)
        if header is None:
            header = list(row)
            print("| model | " + " | ".join(header) + " |\n" + "|---" * (len(header) + 1) + "|")
        print(f"| {model.stem} | " + " | ".join("fails" if n is None else str(n) for n in row.values()) + " |", flush=True)
        for ours, peers in [
            ("planish generic", ["original", "onnxsim", "onnxslim", "onnxruntime basic"]),
            ("planish onnxruntime-cpu", ["original", "onnxruntime extended"]),
        ]:
            best = min(row[p] for p in peers if row.get(p) is not None)
            if row[ours] is None or row[ours] > best:
                worse.append(f"{model.stem}: {ours} {'fails' if row[ours] is None else row[ours]}, the best peer has {best}")
    for line in worse:
        print(line, file=sys.stderr)
    return 1 if worse and args.check else 0


if __name__ == "__main__":
    sys.exit(main())
