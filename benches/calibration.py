#!/usr/bin/env python3
"""Memory that calibration takes beside what planish forecasts, and whether the result depends on the bound or on threads:

    benches/calibration.py MODEL.onnx … [--data CALIB.npz] [--pass float16] [--samples 8] [--memory 4GB 100MB] [--threads 2 1]
                           [--dim NAME=N …]

Each model is compiled without calibration, and then with it at every bound and number of threads. Memory is the largest resident
set of the process, as the kernel counts it, mapped files included; what calibration takes is what it has on top of the run
without. The forecast is the one that planish prints before it runs samples. Without --data, samples are random numbers. All
results with calibration must be the same file, bit by bit; those that are not are marked. Needs Linux, and planish in
target/release.
"""
import argparse
import hashlib
import os
import pathlib
import re
import sys
import tempfile
import time

PLANISH = pathlib.Path(__file__).resolve().parent.parent / "target" / "release" / "planish"
UNITS = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def run(args, errors):
    """Seconds, largest resident set in bytes, and what the process said; ends this one if it fails."""
    start = time.perf_counter()
    with open(errors, "wb") as to:
        pid = os.posix_spawn(args[0], args, os.environ, file_actions=[
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0), (os.POSIX_SPAWN_DUP2, to.fileno(), 2)])
        _, status, usage = os.wait4(pid, 0)
    said = pathlib.Path(errors).read_text()
    if status != 0:
        sys.exit(f"{' '.join(args)}\n{said}")
    return time.perf_counter() - start, usage.ru_maxrss * 1024, said


def forecast(said):
    """The largest of the forecasts, in bytes."""
    found = re.findall(r"it will take ([\d.]+) (\w+)", said)
    return max((float(n) * UNITS[unit] for n, unit in found), default=0.0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--data")
    parser.add_argument("--pass", dest="step", default="float16", help="as it stands in a pipeline")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--memory", nargs="+", default=["4GB", "100MB"])
    parser.add_argument("--threads", nargs="+", default=["2", "1"])
    parser.add_argument("--dim", action="append", default=[])
    args = parser.parse_args()
    source = f"npz: {pathlib.Path(args.data).resolve()}" if args.data else "random: 1"
    print("| model | bound | threads | seconds | base MB | took MB | forecast MB | took / forecast | same result |")
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)

        def compile_by(model, calibration, threads):
            pipeline = folder / "pipeline.yaml"
            pipeline.write_text(f"version: 1\n{calibration}passes: [{args.step}]\nverify: {{engine: off}}\n")
            out = folder / "out.onnx"
            command = [str(PLANISH), "compile", model, "--pipeline", str(pipeline), "-o", str(out), "--threads", threads]
            command += [a for dim in args.dim for a in ("--dim", dim)]
            seconds, peak, said = run(command, folder / "errors")
            return seconds, peak, forecast(said), out

        for model in args.models:
            base = compile_by(model, "", args.threads[0])[1]
            first = None
            for memory in args.memory:
                for threads in args.threads:
                    calibration = f"calibration: {{{source}, samples: {args.samples}, memory: {memory}}}\n"
                    seconds, peak, told, out = compile_by(model, calibration, threads)
                    # The file records what it was made by, but neither the bound nor the threads.
                    digest = hashlib.sha256(out.read_bytes()).hexdigest()
                    first = first or digest
                    took = peak - base
                    print(f"| {pathlib.Path(model).stem} | {memory} | {threads} | {seconds:.1f} | {base / 1e6:.0f} | {took / 1e6:.0f} "
                          f"| {told / 1e6:.0f} | {took / max(told, 1.0):.2f} | {'yes' if digest == first else 'NO'} |", flush=True)


if __name__ == "__main__":
    main()
