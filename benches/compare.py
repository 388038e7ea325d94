#!/usr/bin/env python3
"""Time and memory of planish beside `cp` and other simplifiers, same machine, same run:

    benches/compare.py MODEL.onnx … [--planish target/release/planish] [--runs 5] [--peers onnxslim onnxsim onnxruntime]
    benches/compare.py --chains 1000 10000 50000

Every tool runs as a process of its own, in turn, after one warm-up; the median is printed. Memory is the largest resident set
that the system counted for the process; about 9 MB is the least that can be told. Peers have to be installed for the python that
runs this script; the ones that are not are left out, and said so. `onnxruntime` is its own offline
optimizer at the basic level (`optimized_model_filepath`). Data files of a model are those beside it that are named like it.

--chains makes models of so many nodes and takes them too, which shows how time and memory grow: a chain of blocks that have
something to simplify, with two small weights each. It needs the onnx package.
"""
import argparse
import glob
import importlib.util
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

PIPELINE = "version: 1\npasses:\n  - simplify\nverify: {engine: off}\n"

# The system counts what a process held before it became another program, so a tool is started by a process that holds little.
LAUNCH = """
import posix, sys, time
log = posix.open(sys.argv[1], posix.O_WRONLY)
outputs = [(posix.POSIX_SPAWN_DUP2, log, fd) for fd in (1, 2)]
start = time.perf_counter()
pid = posix.posix_spawnp(sys.argv[2], sys.argv[2:], posix.environ, file_actions=outputs)
_, status, usage = posix.wait4(pid, 0)
print(time.perf_counter() - start, usage.ru_maxrss, status)
"""


def launch(command, log=os.devnull):
    """Status, seconds and megabytes of one run, whose output goes to a file that there is."""
    launcher = [sys.executable, "-I", "-S", "-c", LAUNCH, log, *command]
    seconds, kilobytes, status = subprocess.run(launcher, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    return int(status), float(seconds), int(kilobytes) / 1e3


def measure(command):
    """Seconds and megabytes of one run; None if it fails."""
    status, *figures = launch(command)
    return tuple(figures) if status == 0 else None


def weight_files(model):
    """The model and its data files, which are those beside it that are named like it."""
    return [model, *sorted(model.parent.glob(glob.escape(model.stem) + "*.data"))]


OPTIMIZE = """
import sys, onnxruntime as ort
options = ort.SessionOptions()
options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
options.optimized_model_filepath = sys.argv[2]
ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
"""


def fresh(folder):
    """Every run writes new files, as replacing old ones makes file systems wait for the disk, and begins with nothing of others left that
    the system is still writing."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    os.sync()


def commands(model, args, folder):
    out = str(folder / "out.onnx")
    pipeline = folder.parent / "pipeline.yaml"
    pipeline.write_text(PIPELINE)
    yield "cp", ["cp", *map(str, weight_files(model)), str(folder)]
    yield "planish", [args.planish, "compile", str(model), "--pipeline", str(pipeline), "-o", out]
    peers = {
        "onnxslim": ["-m", "onnxslim", str(model), out],
        "onnxsim": ["-m", "onnxsim", str(model), out],
        "onnxruntime": ["-c", OPTIMIZE, str(model), out],
    }
    for name in args.peers:
        if importlib.util.find_spec(name) is None:
            print(f"{name} is not installed: left out", file=sys.stderr)
            continue
        yield name, [sys.executable, *peers[name]]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", type=pathlib.Path)
    parser.add_argument("--chains", nargs="*", type=int, default=[], metavar="NODES")
    parser.add_argument("--planish", default="target/release/planish")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--peers", nargs="*", default=["onnxslim", "onnxsim", "onnxruntime"])
    args = parser.parse_args()
    if not args.models and not args.chains:
        parser.error("give models or --chains")
    print("| model | MB | tool | seconds | x cp | MB resident |\n|---|---|---|---|---|---|")
    # On the disk of the models, so that copying is what it is for them.
    with tempfile.TemporaryDirectory(dir=args.models[0].parent if args.models else None) as name:
        folder = pathlib.Path(name) / "out"
        chains = [pathlib.Path(name) / f"chain_{length}.onnx" for length in args.chains]
        for length, path in zip(args.chains, chains):
            subprocess.run([sys.executable, pathlib.Path(__file__).with_name("chain.py"), str(length), path], check=True)
        for model in args.models + chains:
            size = sum(f.stat().st_size for f in weight_files(model)) / 1e6
            tools = list(commands(model, args, folder))
            results = {tool: [] for tool, _ in tools}
            for run in range(args.runs + 1):
                # Back and forth, so that nobody always comes after the same other.
                for tool, command in tools if run % 2 == 0 else reversed(tools):
                    fresh(folder)
                    result = measure(command)
                    if run > 0 or result is None:
                        results[tool].append(result)
            base = statistics.median(r[0] for r in results["cp"] if r)
            for tool, runs in results.items():
                good = [r for r in runs if r]
                if not good:
                    print(f"| {model.stem} | {size:.0f} | {tool} | failed | | |")
                    continue
                seconds = statistics.median(r[0] for r in good)
                print(f"| {model.stem} | {size:.0f} | {tool} | {seconds:.3f} | {seconds / base:.2f} | {max(r[1] for r in good):.0f} |", flush=True)


if __name__ == "__main__":
    main()
