#!/usr/bin/env python3
"""Write a model of so many nodes in a row, half of which have no effect: benches/chain.py NODES OUT.onnx

It is made of blocks of ten nodes with two weights each. How time and memory grow with it shows whether a tool is linear.
"""
import sys

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper, save


def chain(length, path):
    random = np.random.default_rng(0)
    weight = lambda name: numpy_helper.from_array(random.standard_normal(16, np.float32), name)
    block = [
        ("Mul", ["w"], {}), ("Add", ["b"], {}), ("Identity", [], {}), ("Relu", [], {}), ("Transpose", [], {"perm": [1, 0]}),
        ("Transpose", [], {"perm": [1, 0]}), ("Unsqueeze", ["axes"], {}), ("Squeeze", ["axes"], {}),
        ("Cast", [], {"to": TensorProto.FLOAT}), ("Neg", [], {}),
    ]
    nodes, weights, last = [], [numpy_helper.from_array(np.array([0]), "axes")], "x"
    for number in range(length):
        op, more, attributes = block[number % len(block)]
        names = [m if m == "axes" else f"{m}{number}" for m in more]
        weights += [weight(n) for n in names if n != "axes"]
        out = "y" if number == length - 1 else f"v{number}"
        nodes.append(helper.make_node(op, [last, *names], [out], name=f"n{number}", **attributes))
        last = out
    value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 16])
    graph = helper.make_graph(nodes, "chain", [value("x")], [value("y")], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    save(model, path)


if __name__ == "__main__":
    chain(int(sys.argv[1]), sys.argv[2])
