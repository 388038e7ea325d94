#!/usr/bin/env python3
"""Operators of com.microsoft beside onnxruntime: tests/contrib.py target/debug/planish [--only SUBSTRING]

Small models of one node each, with random weights and inputs. What planish infers of the output's type has to be what onnxruntime
gives, and the embedded engine has to compute the same, one step of the grid apart at most for results that are quantized, or refuse.
Prints one line of counts and one per difference, and exits with 1 if there is any.
"""
import argparse
import collections
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "uint8": TensorProto.UINT8, "int8": TensorProto.INT8}
TYPES |= {"int32": TensorProto.INT32, "int64": TensorProto.INT64, "bool": TensorProto.BOOL, "uint16": TensorProto.UINT16}
TYPES |= {"int16": TensorProto.INT16}
RANDOM = np.random.default_rng(7)


def u8(*shape):
    return RANDOM.integers(0, 256, shape).astype(np.uint8)


def i8(*shape):
    return RANDOM.integers(-128, 128, shape).astype(np.int8)


def i7(*shape):
    """Processors without VNNI add products of uint8 and int8 in 16 bits, in pairs; 7 bits are never too many."""
    return RANDOM.integers(-64, 64, shape).astype(np.int8)


def f32(*shape):
    return RANDOM.normal(size=shape).astype(np.float32)


def scale(*shape):
    return np.asarray(RANDOM.uniform(0.005, 0.05, shape), np.float32)


def zero(dtype=np.uint8, shape=(), low=100, high=140):
    shift = 128 if dtype == np.int8 else 0
    return np.asarray(RANDOM.integers(low, high, shape) - shift, dtype)


Case = collections.namedtuple("Case", "name op inputs attributes outputs domain", defaults=({}, 1, "com.microsoft"))
# An input of the graph; all others are constants.
Fed = collections.namedtuple("Fed", "array")


def operand(array, scalars=True):
    return [array, scale(), zero(array.array.dtype if isinstance(array, Fed) else array.dtype)]


def cases():
    for make in [u8, i8]:
        t, kind = make().dtype.type, make.__name__
        x = lambda *shape: Fed(make(*shape))
        for op in ["QLinearAdd", "QLinearMul"]:
            yield Case(f"{op} {kind}", op, operand(x(2, 3, 4)) + operand(x(2, 3, 4)) + [scale(), zero(t)])
            yield Case(f"{op} {kind} broadcast", op, operand(x(2, 3, 4)) + operand(make(3, 1)) + [np.float32(0.05), zero(t)])
        yield Case(f"QLinearSigmoid {kind}", "QLinearSigmoid", operand(x(2, 3, 4)) + [np.float32(1 / 256), t(0)])
        yield Case(f"QLinearLeakyRelu {kind}", "QLinearLeakyRelu", operand(x(2, 3, 4)) + [scale(), zero(t)], {"alpha": 0.1})
        for opset, axis in [(13, -1), (13, 1), (12, 1), (12, 2)]:
            of_model = {"_opset": 12} if opset == 12 else {}
            attributes = {"opset": opset, "axis": axis, **of_model}
            yield Case(f"QLinearSoftmax {kind} {opset} {axis}", "QLinearSoftmax", operand(x(2, 3, 4)) + [np.float32(1 / 256), t(0)], attributes)
        mask = Fed(RANDOM.random((2, 1, 4)) > 0.5)
        yield Case(f"QLinearWhere {kind}", "QLinearWhere", [mask] + operand(x(2, 3, 4)) + operand(make(3, 1)) + [scale(), zero(t)])
        yield Case(f"QLinearConcat {kind}", "QLinearConcat", [scale(), zero(t)] + operand(x(2, 3, 4)) + operand(x(2, 5, 4)) + operand(make(2, 1, 4)), {"axis": 1})
        yield Case(f"QLinearAveragePool {kind}", "QLinearAveragePool", operand(x(1, 3, 8, 9)) + [scale(), zero(t)], {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]})
        yield Case(f"QLinearAveragePool {kind} counts padding", "QLinearAveragePool", operand(x(1, 3, 8, 9)) + [scale(), zero(t)], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1})
        yield Case(f"QLinearAveragePool {kind} channels last", "QLinearAveragePool", operand(x(1, 8, 9, 3)) + [scale(), zero(t)], {"kernel_shape": [3, 2], "channels_last": 1})
        yield Case(f"QLinearGlobalAveragePool {kind}", "QLinearGlobalAveragePool", operand(x(2, 3, 8, 9)) + [scale(), zero(t)])
        yield Case(f"QLinearGlobalAveragePool {kind} channels last", "QLinearGlobalAveragePool", operand(x(2, 8, 9, 3)) + [scale(), zero(t)], {"channels_last": 1})
    for a, w in [(u8, u8), (u8, i7), (i8, i8)]:
        kind, t = f"{a.__name__} {w.__name__}", w().dtype.type
        columns = lambda n: [scale(n), zero(t, (n,))]
        symmetric = lambda n: [scale(n), np.zeros(n, t)]
        for name, parameters in [("", [scale(), zero(t)]), (" per column", columns(5)), (" symmetric", symmetric(5))]:
            yield Case(f"QGemm {kind}{name}", "QGemm", operand(Fed(a(4, 7))) + [w(7, 5)] + parameters)
            bias = RANDOM.integers(-500, 500, 5).astype(np.int32)
            out = [np.float32(0.3), zero(a().dtype.type)]
            yield Case(f"QGemm {kind}{name} requantized", "QGemm", operand(Fed(a(4, 7))) + [w(5, 7)] + parameters + [bias] + out, {"transB": 1})
            yield Case(f"QGemm {kind}{name} alpha", "QGemm", operand(Fed(a(7, 4))) + [w(7, 5)] + parameters + [bias], {"transA": 1, "alpha": 0.5})
            zeros = [zero(a().dtype.type), parameters[1]]
            for left in [(4, 7), (2, 4, 7)]:
                yield Case(f"MatMulIntegerToFloat {kind}{name} {len(left)}", "MatMulIntegerToFloat", [Fed(a(*left)), w(7, 5), scale(), parameters[0], *zeros, f32(5)])
            if a is u8:
                yield Case(f"DynamicQuantizeMatMul {kind}{name}", "DynamicQuantizeMatMul", [Fed(f32(2, 4, 7)), w(7, 5), *parameters, f32(5)])
            yield Case(f"MatMulInteger {kind}{name}", "MatMulInteger", [Fed(a(2, 4, 7)), w(7, 5), *zeros], domain="")
            out = [np.float32(0.3), zero(a().dtype.type)]
            yield Case(f"QLinearMatMul {kind}{name}", "QLinearMatMul", operand(Fed(a(2, 4, 7))) + [w(7, 5), *parameters] + out, domain="")
        for name, parameters in [("", [scale(), zero(t)]), (" per channel", symmetric(6))]:
            bias = RANDOM.integers(-500, 500, 6).astype(np.int32)
            conv = operand(Fed(a(2, 4, 6, 6))) + [w(6, 2, 3, 3), *parameters] + [np.float32(0.5), zero(a().dtype.type), bias]
            for domain in ["", "com.microsoft"]:
                yield Case(f"QLinearConv {domain} {kind}{name}", "QLinearConv", conv, {"group": 2, "pads": [1, 1, 1, 1]}, domain=domain)
            last = operand(Fed(a(2, 6, 6, 4))) + conv[3:]
            yield Case(f"QLinearConv {kind}{name} channels last", "QLinearConv", last, {"group": 2, "channels_last": 1})
            if not name:
                yield Case(f"ConvInteger {kind}", "ConvInteger", [Fed(a(2, 4, 6, 6)), w(6, 4, 3, 3), zero(a().dtype.type), parameters[1]], {"strides": [2, 2]}, domain="")
    yield Case("DynamicQuantizeLinear", "DynamicQuantizeLinear", [Fed(f32(5, 7))], outputs=3, domain="")
    yield Case("DynamicQuantizeMatMul without zero point", "DynamicQuantizeMatMul", [Fed(f32(4, 7)), i7(7, 5), scale()])
    yield Case("MatMulIntegerToFloat without zero points", "MatMulIntegerToFloat", [Fed(u8(4, 7)), i7(7, 5), scale(), scale(5)])
    yield Case("QGemm with a scale and no zero point", "QGemm", operand(Fed(u8(4, 7))) + [i8(7, 5), scale(), np.int8(0), None, scale()])
    for t in [np.uint8, np.int8, np.uint16, np.int16]:
        yield Case(f"QuantizeLinear {t.__name__}", "QuantizeLinear", [Fed(f32(3, 4)), scale(), t(3)])
        yield Case(f"QuantizeLinear {t.__name__} axis", "QuantizeLinear", [Fed(f32(3, 4)), scale(3), np.zeros(3, t)], {"axis": 0})
        yield Case(f"DequantizeLinear {t.__name__}", "DequantizeLinear", [Fed(RANDOM.integers(0, 100, (3, 4)).astype(t)), scale(), t(3)])
    for op, attributes in [("FusedGemm", {"activation": "LeakyRelu", "activation_alpha": 0.1, "transB": 1}), ("FusedGemm", {"activation": "Relu", "transB": 1, "alpha": 0.5})]:
        yield Case(f"{op} {attributes['activation']}", op, [Fed(f32(4, 7)), f32(5, 7), f32(5)], attributes)
    for flags in [{}, {"transA": 1}, {"transB": 1, "alpha": 0.5}]:
        a = (2, 7, 4) if "transA" in flags else (2, 4, 7)
        b = (2, 5, 7) if "transB" in flags else (2, 7, 5)
        yield Case(f"FusedMatMul {flags}", "FusedMatMul", [Fed(f32(*a)), f32(*b)], flags)
    yield Case("FusedMatMul transBatchA", "FusedMatMul", [Fed(f32(4, 2, 3, 7)), f32(2, 3, 7, 5)], {"transBatchA": 1})
    yield Case("FusedMatMul transBatchA transA", "FusedMatMul", [Fed(f32(7, 2, 3, 4)), f32(2, 3, 7, 5)], {"transBatchA": 1, "transA": 1})
    yield Case("FusedConv", "FusedConv", [Fed(f32(1, 2, 5, 5)), f32(3, 2, 3, 3), f32(3)], {"activation": "HardSigmoid", "activation_params": [0.2, 0.5]})
    for bits in [2, 4, 8]:
        for block, zeros, bias in [(16, False, False), (32, True, True)]:
            k, n = 64, 6
            blocks = k // block
            packed = u8(n, blocks, block * bits // 8)
            z = u8(n, (blocks * bits + 7) // 8) if zeros else None
            inputs = [Fed(f32(3, k)), packed, scale(n, blocks).reshape(-1), None if z is None else z.reshape(-1), None, f32(n) if bias else None]
            yield Case(f"MatMulNBits {bits} bits block {block}", "MatMulNBits", inputs, {"K": k, "N": n, "bits": bits, "block_size": block})
    for kind, name in [(0, "fp4"), (1, "nf4")]:
        k, n, block = 32, 6, 16
        yield Case(f"MatMulBnb4 {name}", "MatMulBnb4", [Fed(f32(3, k)), u8(k * n // 2), scale(k * n // block)], {"K": k, "N": n, "block_size": block, "quant_type": kind})
    rows = Fed(np.array([[0, 3], [4, 1]], np.int64))
    for bits, zeros in [(4, False), (4, True), (8, False), (8, True)]:
        width = 64 * bits // 8
        z = [u8(5, max(1, 2 * bits // 8))] if zeros else []
        yield Case(f"GatherBlockQuantized {bits} bits{' with zero points' * zeros}", "GatherBlockQuantized", [u8(5, width), rows, scale(5, 2)] + z, {"block_size": 32, "bits": bits})
    for w in [u8, i7]:
        t = w().dtype.type
        yield Case(f"QAttention {w.__name__}", "QAttention", [Fed(u8(2, 3, 8)), w(8, 24), f32(24), scale(), scale(), None, zero(), zero(t)], {"num_heads": 2})
        yield Case(f"QAttention {w.__name__} causal", "QAttention", [Fed(u8(2, 3, 8)), w(8, 24), f32(24), scale(), scale(24), None, zero(), np.zeros(24, t)], {"num_heads": 2, "unidirectional": 1})
    hidden = 4
    for d in [1, 2]:
        w, r = i8(d, 6, 4 * hidden), i8(d, hidden, 4 * hidden)
        attributes = {"hidden_size": hidden, "direction": "bidirectional" if d == 2 else "forward"}
        yield Case(f"DynamicQuantizeLSTM {d}", "DynamicQuantizeLSTM", [Fed(f32(5, 2, 6)), w, r, None, None, None, None, None, scale(d), np.zeros(d, np.int8), scale(d), np.zeros(d, np.int8)], attributes, outputs=3)


def model(case):
    """With a symbolic first dim for what is fed."""
    names, feeds, inputs, constants = [], {}, [], []
    for i, given in enumerate(case.inputs):
        if given is None:
            names.append("")
            continue
        names.append(f"i{i}")
        if isinstance(given, Fed):
            feeds[names[-1]] = given.array
            inputs.append(helper.make_tensor_value_info(names[-1], TYPES[str(given.array.dtype)], given.array.shape))
        else:
            constants.append(numpy_helper.from_array(np.asarray(given), names[-1]))
    outputs = [f"y{i}" for i in range(case.outputs)]
    attributes = {k: v for k, v in case.attributes.items() if not k.startswith("_")}
    node = helper.make_node(case.op, names, outputs, domain=case.domain, **attributes)
    graph = helper.make_graph([node], "g", inputs, [onnx.ValueInfoProto(name=o) for o in outputs], constants)
    opsets = [helper.make_opsetid("", case.attributes.get("_opset", 17)), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8), feeds, outputs


def declare(m, values):
    del m.graph.output[:]
    m.graph.output.extend(helper.make_tensor_value_info(n, TYPES[str(v.dtype)], v.shape) for n, v in values.items())


def check(planish, folder, case):
    """Verdicts on type and values, and what was found."""
    m, feeds, outputs = model(case)
    path, twin, data = folder / "model.onnx", folder / "twin.onnx", folder / "data.npz"
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(m.SerializeToString(), options, providers=["CPUExecutionProvider"])
        values = dict(zip(outputs, session.run(None, feeds)))
    except Exception as e:
        return "not run by onnxruntime", None, str(e)[:200]
    path.write_bytes(m.SerializeToString())
    ran = subprocess.run([planish, "inspect", "--types", "--json", path], capture_output=True, text=True)
    if ran.returncode:
        return "type lost", None, ran.stderr
    types = {v["name"]: (v["dtype"] or v["type"], v["shape"]) for v in json.loads(ran.stdout)}
    for name, value in values.items():
        dtype = {"float32": "float"}.get(str(value.dtype), str(value.dtype))
        if types.get(name) != (dtype, list(value.shape)):
            return "type wrong", None, f"{name} is {types.get(name)}, onnxruntime gives {dtype}{list(value.shape)}"
    # A model that reads the same and answers with what onnxruntime gave.
    declare(m, values)
    path.write_bytes(m.SerializeToString())
    answer = onnx.ModelProto.FromString(m.SerializeToString())
    del answer.graph.node[:], answer.graph.initializer[:]
    for name, value in values.items():
        answer.graph.initializer.append(numpy_helper.from_array(value, f"{name}_is"))
        answer.graph.node.append(helper.make_node("Identity", [f"{name}_is"], [name]))
    twin.write_bytes(answer.SerializeToString())
    np.savez(data, **feeds)
    largest = max(float(np.abs(v.astype(np.float64)).max(initial=0)) for v in values.values())
    steps = any(v.dtype in (np.uint8, np.int8, np.uint16, np.int16) for v in values.values())
    bound = 1 if steps else 1e-5 * max(1.0, largest)
    ran = subprocess.run([planish, "verify", twin, path, "--data", data, "--max-abs", str(bound)], capture_output=True, text=True)
    if ran.returncode == 0:
        return "type inferred", "computed", ""
    verdict = "refused" if "not supported" in ran.stderr or "refused" in ran.stderr else "value wrong"
    return "type inferred", verdict, (ran.stdout + ran.stderr).strip()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("planish", type=pathlib.Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--verbose", action="store_true", help="also say what is refused or not run")
    args = parser.parse_args()
    planish, counts = args.planish.resolve(), collections.Counter()
    with tempfile.TemporaryDirectory() as name:
        for case in cases():
            if args.only not in case.name:
                continue
            of_type, of_value, message = check(planish, pathlib.Path(name), case)
            counts.update(v for v in [of_type, of_value] if v)
            wrong = "wrong" in f"{of_type} {of_value}" or "lost" in of_type
            if wrong or (args.verbose and message):
                print(f"{case.name}: {of_value or of_type}: {message}")
    print(", ".join(f"{n} {kind}" for kind, n in sorted(counts.items())))
    return 1 if not counts["computed"] or any("wrong" in k or "lost" in k for k in counts) else 0


if __name__ == "__main__":
    sys.exit(main())
