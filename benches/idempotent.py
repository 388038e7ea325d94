#!/usr/bin/env python3
"""Does a pipeline change its own result?

    benches/idempotent.py MODEL.onnx … [--planish target/release/planish] [--pipelines simplify …] [--target generic]

Each model is compiled, and the result is compiled again. The two results must be the same, bit for bit, but for the record of
where they come from (`metadata_props`) and the name of a data file, which follows from that record. The exit code is 1 if any is
not. Needs the onnx package.
"""
import argparse
import hashlib
import pathlib
import subprocess
import sys
import tempfile

import onnx


def tensors(graph):
    """Every tensor of a graph and of the graphs inside."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from [attribute.t] * attribute.HasField("t") + list(attribute.tensors)
            for inner in [attribute.g] * attribute.HasField("g") + list(attribute.graphs):
                yield from tensors(inner)


def content(path):
    """What the model in a file is, without where it comes from. Weights in other files are replaced by their hash."""
    model = onnx.load(path, load_external_data=False)
    del model.metadata_props[:]
    for tensor in tensors(model.graph):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        where = {entry.key: entry.value for entry in tensor.external_data}
        with open(path.parent / where["location"], "rb") as file:
            file.seek(int(where.get("offset", 0)))
            data = hashlib.blake2b()
            left = int(where["length"])
            while left and (piece := file.read(min(left, 1 << 24))):
                data.update(piece)
                left -= len(piece)
        del tensor.external_data[:]
        tensor.raw_data = data.digest()
    return model.SerializeToString(deterministic=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=pathlib.Path)
    parser.add_argument("--planish", default="target/release/planish")
    parser.add_argument("--pipelines", nargs="+", default=["simplify"], help="presets or pipeline files")
    parser.add_argument("--target", default="generic")
    args = parser.parse_args()
    wrong = 0
    for model in args.models:
        for pipeline in args.pipelines:
            with tempfile.TemporaryDirectory() as folder:
                once, twice = pathlib.Path(folder, "once.onnx"), pathlib.Path(folder, "twice.onnx")
                what = ["--pipeline", pipeline] if pipeline.endswith((".yaml", ".yml")) else ["--preset", pipeline]
                verdict = "the same"
                for source, out in [(model, once), (once, twice)]:
                    command = [args.planish, "compile", source, *what, "--target", args.target, "--verify", "off", "-o", out]
                    done = subprocess.run(command, capture_output=True, text=True, check=False)
                    if done.returncode != 0:
                        verdict = f"fails: {done.stderr.strip()}"
                        break
                else:
                    if content(once) != content(twice):
                        verdict = "CHANGED by the second run"
            wrong += verdict != "the same"
            print(f"{model.stem} {pipeline}: {verdict}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
