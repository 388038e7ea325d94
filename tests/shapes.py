#!/usr/bin/env python3
"""Shape inference beside onnx's and onnxruntime's: tests/shapes.py target/release/planish MODEL.onnx... [--show N]

Each model is stripped of all types that it declares for values that nodes make, weights become zeros in a sparse file, and open
sizes of inputs get names. Then planish, onnx (`infer_shapes`, strict, with data propagation) and onnxruntime (symbolic inference)
infer it, and every value that one of the others types is compared with what planish says of it: the same, more precise, less
precise, or contradictory. Names that another tool invents are equal to what planish says if they can be renamed consistently, and
expressions are equal if they are so for several sizes. At last onnxruntime runs the model with every value as an output, which
decides contradictions and checks every shape that planish infers.

With --operators, the official operator tests are looked at as well, with small inputs made constants: each shape that is inferred
for an output has to be that of the expected output. In both cases elements of small tensors that planish follows have to be the
actual ones, too.

Prints a line per model, and exits with 1 if planish knows less than another tool, or anything wrong.
"""
import argparse
import collections
import contextlib
import json
import logging
import math
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import warnings
from fractions import Fraction

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto

LARGEST_FOLLOWED = 1024
# Refuted: a run shows that the other tool is wrong. Guess: the other tool merged sizes that are not provably equal.
VERDICTS = ["same", "more", "less", "wrong", "refuted", "guess"]
# As sizes are called that a tool invents; planish begins them with a question mark.
INVENTED = re.compile(r"\?[^ ,()*+-]+")
FUNCTIONS = {"floor": math.floor, "ceiling": math.ceil, "Max": max, "Min": min, "min": min, "Abs": abs, "Mod": lambda a, b: a % b}
SIZES = [lambda i: 64 if i else 1, lambda i: 32 * (i + 1), lambda i: 2 + i, lambda i: 1, lambda i: 4]


def graphs(graph, place=()):
    """The graph and its subgraphs, each with its place as planish prints it."""
    yield place, graph
    for node in graph.node:
        owner = next((o for o in node.output if o), "")
        bodies = [g for a in sorted(node.attribute, key=lambda a: a.name) for g in [a.g, *a.graphs] if g.node or g.output]
        for i, body in enumerate(bodies):
            yield from graphs(body, (*place, (owner, i)))


def prepare(source, target):
    """A copy without declared types and weights. Returns the names of its open sizes."""
    model = onnx.load(str(source), load_external_data=False)
    names, weights = {}, 0
    for value in model.graph.input:
        for axis, d in enumerate(value.type.tensor_type.shape.dim):
            if not d.HasField("dim_value") or d.dim_value < 0:
                d.dim_param = names.setdefault(d.dim_param or f"{value.name}.{axis}", f"d{len(names)}")
    for value in model.graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    for k, (place, graph) in enumerate(graphs(model.graph)):
        del graph.value_info[:]
        for i, node in enumerate(graph.node):
            node.name = f"n{k}_{i}"
        for t in graph.initializer:
            count = math.prod(t.dims)
            if count <= LARGEST_FOLLOWED or t.data_type == TensorProto.STRING:
                continue
            size = math.ceil(count * bits(t.data_type) / 8)
            stripped = TensorProto(name=t.name, data_type=t.data_type, dims=t.dims, data_location=TensorProto.EXTERNAL)
            for key, value in [("location", "weights.bin"), ("offset", str(weights)), ("length", str(size))]:
                stripped.external_data.add(key=key, value=value)
            t.CopyFrom(stripped)
            weights += (size + 63) // 64 * 64
    for function in model.functions:
        del function.value_info[:]
    with open(target.parent / "weights.bin", "wb") as f:
        f.truncate(weights)
    onnx.save(model, str(target))
    return list(names.values())


def bits(data_type):
    small = {TensorProto.INT4: 4, TensorProto.UINT4: 4, TensorProto.FLOAT4E2M1: 4}
    return small.get(data_type) or onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize * 8


def planish_types(planish, path):
    ran = subprocess.run([planish, "inspect", "--types", "--json", path], capture_output=True, text=True, check=True)
    place = lambda v: (tuple(map(tuple, v["graph"])), v["name"])
    values = json.loads(ran.stdout)
    elements = {place(v): v["elements"] for v in values if v.get("elements") is not None}
    return {place(v): (v["dtype"] or v["type"], v["shape"]) for v in values}, elements


def declared_types(model):
    types = {}
    for place, graph in graphs(model.graph):
        for value in [*graph.value_info, *graph.output, *graph.input]:
            known = declared(value.type)
            if known:
                types[place, value.name] = known
    return types


def declared(ty):
    kind = ty.WhichOneof("value")
    if kind != "tensor_type":
        return (kind, None) if kind else None
    if not ty.tensor_type.elem_type:
        return None
    dtype = onnx.helper.tensor_dtype_to_string(ty.tensor_type.elem_type).split(".")[1].lower()
    if not ty.tensor_type.HasField("shape"):
        return dtype, None
    dims = ty.tensor_type.shape.dim
    return dtype, [d.dim_value if d.HasField("dim_value") else (d.dim_param or None) for d in dims]


def onnx_types(path):
    model = onnx.load(str(path), load_external_data=False)
    try:
        return declared_types(onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)), ""
    except Exception:
        try:
            return declared_types(onnx.shape_inference.infer_shapes(model, data_prop=True)), "onnx: not strict; "
        except Exception:
            return {}, "onnx fails; "


def onnxruntime_types(path):
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

    logging.disable(logging.CRITICAL)
    # What is inferred of a model that cannot be inferred completely is left in a file.
    partial = path.parent / "sym_shape_infer_temp.onnx"
    types, note = {}, "onnxruntime fails; "
    # Merging sizes that have to be equal for the model to run, or else 1, gets further, by guess.
    with contextlib.chdir(path.parent):
        for merge in [False, True]:
            model = onnx.load(str(path), load_external_data=False)
            try:
                found = declared_types(SymbolicShapeInference.infer_shapes(model, auto_merge=merge) or model)
                return found, types if merge else found, "onnxruntime: sizes merged by guess; " if merge else ""
            except Exception:
                found = declared_types(onnx.load(str(partial), load_external_data=False)) if partial.exists() else {}
                if len(found) > len(types):
                    types, note = found, "onnxruntime: incomplete; "
                partial.unlink(missing_ok=True)
    return types, types, note


def evaluate(size, sizes):
    """The number that an expression is; None if a name is not known."""
    if not isinstance(size, str):
        return size
    if INVENTED.search(size):
        return None
    try:
        return eval(size, {**FUNCTIONS, **{n: Fraction(v) for n, v in sizes.items()}})
    except (NameError, SyntaxError, TypeError, ZeroDivisionError):
        return None


def bindings(names):
    return [dict(zip(names, (base + 7 * step * i for i in range(len(names))))) for base, step in [(5, 1), (64, 3), (331, 5)]]


class Comparison:
    """Every value that another tool types, beside what planish says."""

    def __init__(self, ours, theirs, values, names):
        self.ours, self.theirs, self.names = ours, theirs, names
        # What planish says where the other tool says a name that it invented.
        self.renamed = {}
        self.verdicts = {key: self.verdict(key) for key in values if key in theirs}

    def invented(self, size):
        return isinstance(size, str) and evaluate(size, dict.fromkeys(self.names, 1)) is None

    def verdict(self, key):
        dtype, shape = self.ours.get(key, (None, None))
        their_dtype, their_shape = self.theirs[key]
        if dtype is None:
            return "less"
        if their_dtype.endswith("_type"):
            return "same"
        if dtype != their_dtype:
            return "wrong"
        if shape is None or their_shape is None:
            return "same" if shape == their_shape else "more" if their_shape is None else "less"
        if len(shape) != len(their_shape):
            return "wrong"
        dims = [self.dim(a, b) for a, b in zip(shape, their_shape)]
        return next((v for v in ["wrong", "less", "more"] if v in dims), "same")

    def dim(self, ours, theirs):
        if theirs is None:
            return "same" if ours is None else "more"
        if ours is None:
            return "less"
        if self.invented(theirs):
            # Not told apart from other sizes, or called otherwise.
            first = self.renamed.setdefault(theirs, ours)
            return "wrong" if not self.alike(first, ours) else "same" if self.invented(ours) else "more"
        if self.invented(ours):
            return "less"
        if self.alike(ours, theirs):
            return "same"
        # A number where the other has an expression says more.
        return {(int, str): "more", (str, int): "less"}.get((type(ours), type(theirs)), "wrong")

    def alike(self, a, b):
        if a == b:
            return True
        values = [(evaluate(a, s), evaluate(b, s)) for s in bindings(self.names)]
        return all(x is not None and x == y for x, y in values)


def run(path, names):
    """Shapes of all values of the main graph for some sizes, and the sizes; as many as run."""
    # Without its shapes, which may not be known, the graph's own outputs do not bound what is asked for.
    model = onnx.load(str(path), load_external_data=False)
    wanted = [o for n in model.graph.node for o in n.output if o]
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=o) for o in wanted)
    copy = path.parent / "all.onnx"
    onnx.save(model, str(copy))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    found = []
    try:
        session = ort.InferenceSession(str(copy), options, providers=["CPUExecutionProvider"])
    except Exception:
        return found
    for size in SIZES if names else SIZES[:1]:
        sizes = {n: size(i) for i, n in enumerate(names)}
        random = np.random.default_rng(0)
        feeds = {}
        for i in session.get_inputs():
            dtype = onnx.helper.tensor_dtype_to_np_dtype(getattr(TensorProto, ort_dtype(i.type)))
            shape = [int(evaluate(d, sizes)) for d in i.shape]
            feeds[i.name] = random.random(shape).astype(dtype) if dtype.kind == "f" else np.ones(shape, dtype)
        try:
            values = session.run(wanted, feeds)
        except Exception:
            continue
        found.append((sizes, {o: v for o, v in zip(wanted, values) if isinstance(v, np.ndarray)}))
        if len(found) == 2:
            break
    return found


def ort_dtype(text):
    short = {"float": "FLOAT", "double": "DOUBLE", "float16": "FLOAT16"}
    inner = text.removeprefix("tensor(").removesuffix(")")
    return short.get(inner, inner.upper())


def agrees(shape, actual, sizes):
    """False if a shape is not that of an array."""
    if shape is None or actual is None:
        return True
    values = [evaluate(d, sizes) for d in shape]
    return len(shape) == actual.ndim and all(v is None or v == a for v, a in zip(values, actual.shape))


def followed(elements, actual, sizes):
    """False if elements that are said to be known are not those of an array."""
    if elements is None or actual is None or actual.dtype.kind not in "biuf":
        return True
    values = [evaluate(n, sizes) for n in elements]
    actual = actual.flatten().tolist()
    close = lambda v, a: v is None or v == a or (isinstance(v, float) and math.isclose(v, a, rel_tol=1e-6))
    return len(values) == len(actual) and all(map(close, values, actual))


def complete(ty, names):
    known = dict.fromkeys(names, 1)
    return ty is not None and ty[1] is not None and all(d is not None and evaluate(d, known) is not None for d in ty[1])


def compare(planish, source, folder, show):
    path = folder / "model.onnx"
    names = prepare(source, path)
    model = onnx.load(str(path), load_external_data=False)
    values = [(place, o) for place, g in graphs(model.graph) for n in g.node for o in n.output if o]
    ours, elements = planish_types(planish, path)
    (by_onnx, note), (by_ort, not_guessed, more) = onnx_types(path), onnxruntime_types(path)
    row = {"model": source.stem, "values": len(values), "notes": note + more}
    for tool, types in [("planish", ours), ("onnx", by_onnx), ("onnxruntime", by_ort)]:
        row[tool] = sum(complete(types.get(v), names) for v in values)
    actual = run(path, names)
    row["runs"] = len(actual)
    wrong = set()
    for sizes, arrays in actual:
        for o, a in arrays.items():
            known = ours.get(((), o), (None, None))[1]
            if not agrees(known, a, sizes) or not followed(elements.get(((), o)), a, sizes):
                wrong.add(o)
    row["false"] = len(wrong)
    messages = [f"{source.stem}: {o} is not {ours[(), o]}, {elements.get(((), o))}" for o in sorted(wrong)]
    for tool, types in [("onnx", by_onnx), ("onnxruntime", by_ort)]:
        verdicts = Comparison(ours, types, values, names).verdicts
        # A run decides who is right where two contradict.
        for (place, o), verdict in verdicts.items():
            refuted = not place and any(not agrees(types[place, o][1], s.get(o), sizes) for sizes, s in actual)
            if verdict in ("wrong", "less") and refuted and o not in wrong:
                verdicts[place, o] = "refuted"
            elif verdict in ("wrong", "less") and types is by_ort and not_guessed.get((place, o)) != types[place, o]:
                verdicts[place, o] = "guess"
        for verdict in VERDICTS:
            row[f"{tool} {verdict}"] = sum(v == verdict for v in verdicts.values())
        for key, verdict in verdicts.items():
            if verdict in ("less", "wrong") or (show < 0 and verdict in ("refuted", "guess")):
                messages.append(f"{source.stem}: {key} is {ours.get(key)}, but {types[key]} by {tool} ({verdict})")
    return row, messages


def as_array(value):
    return onnx.numpy_helper.to_array(value) if isinstance(value, TensorProto) else value


def fix_inputs(model, inputs):
    """Makes constants of what a shape may depend on: small inputs."""
    sizes = {}
    for value, given in list(zip(model.graph.input, map(as_array, inputs))):
        if not isinstance(given, (np.ndarray, np.generic)):
            continue
        given = np.asarray(given)
        for d, n in zip(value.type.tensor_type.shape.dim, given.shape):
            if d.dim_param:
                sizes[d.dim_param] = n
        if given.ndim <= 1 and given.size <= LARGEST_FOLLOWED and given.dtype.kind in "biuf":
            model.graph.initializer.append(onnx.numpy_helper.from_array(given, value.name))
            model.graph.input.remove(value)
    return sizes


def operators(planish, folder, only, verbose):
    """The official tests of operators: shapes and elements of outputs beside the expected ones."""
    from onnx.backend.test.case.node import collect_testcases

    counts, messages = collections.Counter(), []
    path = folder / "model.onnx"
    for case in collect_testcases():
        if only not in case.name or not case.data_sets:
            continue
        for value in case.model.graph.output:
            if value.type.HasField("tensor_type"):
                value.type.tensor_type.ClearField("shape")
        for _, graph in graphs(case.model.graph):
            del graph.value_info[:]
        inputs, outputs = case.data_sets[0]
        sizes = fix_inputs(case.model, inputs)
        path.write_bytes(case.model.SerializeToString())
        ours, elements = planish_types(planish, path)
        for value, expected in zip(case.model.graph.output, map(as_array, outputs)):
            if not isinstance(expected, (np.ndarray, np.generic)):
                counts["no tensor"] += 1
                continue
            key, expected = ((), value.name), np.asarray(expected)
            dtype, shape = ours.get(key, (None, None))
            if not agrees(shape, expected, sizes):
                verdict = "wrong"
            elif not followed(elements.get(key), expected, sizes):
                verdict = "wrong elements"
            elif shape is None:
                verdict = "rank not inferred" if dtype else "not inferred"
            else:
                verdict = "inferred" if all(evaluate(d, sizes) is not None for d in shape) else "rank inferred"
            counts[verdict] += 1
            if verdict.startswith("wrong") or (verbose and verdict != "inferred"):
                nodes = ", ".join(n.op_type for n in case.model.graph.node)
                said = f"{value.name} is {dtype}{shape} {elements.get(key, '')}"
                messages.append(f"{verdict}: {case.name} ({nodes}): {said}, expected {list(expected.shape)}")
    return counts, messages


def table(rows):
    tools = ["onnx", "onnxruntime"]
    verdicts = VERDICTS
    head = ["model", "values", "planish", "onnx", "onnxruntime"] + [f"{t} {v}" for t in tools for v in verdicts] + ["runs", "false"]
    total = {k: sum(r[k] for r in rows) for k in head[1:]} | {"model": "all"}
    titles = ["model", "values", "complete: planish", "onnx", "onnxruntime"]
    titles += [f"{'than onnx: ' if v == 'same' else ''}{v}" for v in verdicts]
    titles += [f"{'than onnxruntime: ' if v == 'same' else ''}{v}" for v in verdicts] + ["runs", "false"]
    print("| " + " | ".join(titles) + " |\n|" + "---|" * len(titles))
    for row in [*rows, total]:
        print("| " + " | ".join(str(row[k]) for k in head) + " |")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("planish", type=pathlib.Path)
    parser.add_argument("models", type=pathlib.Path, nargs="*")
    parser.add_argument("--operators", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--show", type=int, default=20, metavar="N", help="messages per model; -1 for all, also of what is only not known")
    args = parser.parse_intermixed_args()
    warnings.filterwarnings("ignore")
    planish = args.planish.resolve()
    lost = False
    if args.operators:
        with tempfile.TemporaryDirectory() as name:
            counts, messages = operators(planish, pathlib.Path(name), args.only, args.show < 0)
        print("\n".join(messages[: args.show if args.show >= 0 else None]), end="\n" if messages else "")
        print("outputs of operator tests: " + ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items())))
        lost |= counts["wrong"] + counts["wrong elements"] > 0 or not counts
    rows = []
    for source in args.models:
        with tempfile.TemporaryDirectory() as name:
            row, messages = compare(planish, source, pathlib.Path(name), args.show)
        rows.append(row)
        if messages:
            print("\n".join(messages[: args.show if args.show >= 0 else None]), flush=True)
        lost |= any(row[k] for k in ["false", "onnx less", "onnx wrong", "onnxruntime less", "onnxruntime wrong"])
        if row["notes"]:
            print(f"{source.stem}: {row['notes']}")
    if rows:
        table(rows)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
