#!/usr/bin/env python3
"""The operator table against the official schemas: tests/schemas.py target/debug/planish

For every operator of ai.onnx and every opset from 7 to 25: the table has to know it where it exists, and give it as many inputs and
outputs as the schema does. Prints one line of counts and one per difference, and exits with 1 if there is any.
"""
import argparse
import json
import pathlib
import subprocess
import sys

import onnx

# Contributed operators that onnxruntime registers in ai.onnx, where no schema of onnx is.
OF_ONNXRUNTIME = {"SimplifiedLayerNormalization"}
OPSETS = range(7, 26)


def exists(name, opset):
    """True also for an operator that is deprecated."""
    return onnx.defs.has(name, opset, "")


def schema(name, opset):
    try:
        found = onnx.defs.get_schema(name, opset, "")
    except onnx.defs.SchemaError:
        return None
    return None if found.deprecated else found


def arity(signatures, opset):
    """The signature in force, or None if the operator is younger."""
    known = [s for s in signatures if s["since"] <= opset]
    return known[-1] if known else None


def bound(most):
    """Variadic schemas have no upper bound; onnx writes it as the largest 32-bit integer."""
    return None if most >= 2**31 - 1 else most


def differences(name, signatures):
    for opset in OPSETS:
        official, own = schema(name, opset), arity(signatures, opset)
        if official is None:
            if own and not exists(name, opset):
                yield opset, "does not exist yet, but the table has it"
            continue
        if own is None:
            yield opset, f"exists since {official.since_version}, the table has it later"
            continue
        for what, least, most in [
            ("inputs", official.min_input, official.max_input),
            ("outputs", official.min_output, official.max_output),
        ]:
            if own[what] != [least, bound(most)]:
                yield opset, f"{what}: the schema says {[least, bound(most)]}, the table {own[what]}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("planish", type=pathlib.Path)
    args = parser.parse_args()
    listed = json.loads(subprocess.run([args.planish, "operators", "--json"], capture_output=True, check=True).stdout)
    table = {o["name"]: o["signatures"] for o in listed if o["domain"] == ""}
    names = {s.name for s in onnx.defs.get_all_schemas_with_history() if s.domain == ""}
    official = sorted(n for n in names if any(schema(n, v) for v in OPSETS))
    failures, complete = [], 0
    for name in official:
        if name not in table:
            failures.append(f"{name}: the table lacks it")
            continue
        found = list(differences(name, table[name]))
        complete += not found
        failures += [f"{name} at opset {opset}: {message}" for opset, message in found]
    failures += [f"{name}: there is no such operator" for name in sorted(set(table) - names - OF_ONNXRUNTIME)]
    print("\n".join(failures), end="\n" if failures else "")
    print(f"{len(official)} operators of ai.onnx from opset {OPSETS[0]} to {OPSETS[-1]}: {complete} as in the schemas; {len(failures)} differences")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
