#!/usr/bin/env python3
"""Time and memory of planish beside `cp` and other simplifiers, same machine, same run:

    benches/compare.py MODEL.onnx … [--planish target/release/planish] [--runs 5] [--peers onnxslim onnxsim]

Every tool runs as a process of its own, in turn, after one warm-up; the median is printed. Memory is the largest resident set
that the system counted for the process. Peers have to be installed for the python that runs this script; the ones that are
not are left out, and said so. With the onnx package the data files of a model are found by what it says, else by their names.
"""
import argparse
import glob
import importlib.util
import os
import pathlib
import shutil
import statistics
import sys
import tempfile
import time

PIPELINE = "version: 1\npasses:\n  - simplify\nverify: {engine: off}\n"


def measure(command):
    """Seconds and megabytes of one run; None if it fails."""
    start = time.perf_counter()
    pid = os.posix_spawnp(command[0], command, os.environ, file_actions=[
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
    ])
    _, status, usage = os.wait4(pid, 0)
    seconds = time.perf_counter() - start
    return None if status else (seconds, usage.ru_maxrss / 1e3)


def fresh(folder):
    """Every run writes new files, as replacing old ones makes file systems wait for the disk."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


def weight_files(model):
    """The model and its data files, which are those beside it that are named like it."""
    return [model, *sorted(model.parent.glob(glob.escape(model.stem) + "*.data"))]


def commands(model, args, folder):
    out = str(folder / "out.onnx")
    pipeline = folder.parent / "pipeline.yaml"
    pipeline.write_text(PIPELINE)
    yield "cp", ["cp", *map(str, weight_files(model)), str(folder)]
    yield "planish", [args.planish, "compile", str(model), "--pipeline", str(pipeline), "-o", out]
    peers = {"onnxslim": [str(model), out], "onnxsim": [str(model), out]}
    for name in args.peers:
        if importlib.util.find_spec(name) is None:
            print(f"{name} is not installed: left out", file=sys.stderr)
            continue
        yield name, [sys.executable, "-m", name, *peers[name]]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="+", type=pathlib.Path)
    parser.add_argument("--planish", default="target/release/planish")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--peers", nargs="*", default=["onnxslim", "onnxsim"])
    args = parser.parse_args()
    print("| model | MB | tool | seconds | x cp | MB resident |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=args.models[0].parent) as name:
        folder = pathlib.Path(name) / "out"
        for model in args.models:
            size = sum(f.stat().st_size for f in weight_files(model)) / 1e6
            tools = list(commands(model, args, folder))
            results = {tool: [] for tool, _ in tools}
            for run in range(args.runs + 1):
                for tool, command in tools:
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
                print(f"| {model.stem} | {size:.0f} | {tool} | {seconds:.2f} | {seconds / base:.2f} | {max(r[1] for r in good):.0f} |", flush=True)


if __name__ == "__main__":
    main()
