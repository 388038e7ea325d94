#!/usr/bin/env bash
# Runs every test: the Rust ones, and the checks against the real onnx and onnxruntime, which go into target/venv.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=target/venv
if [ ! -x "$venv/bin/python" ]; then
    python3 -m venv "$venv"
fi
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt

# Tests that need onnxruntime fail without it instead of being skipped.
export PLANISH_REQUIRE_ONNXRUNTIME=1
export VIRTUAL_ENV="$PWD/$venv"
# The official operator tests, for the engine that is built in.
export PLANISH_NODE_TESTS="$PWD/target/operator_tests"
if [ ! -d "$PLANISH_NODE_TESTS" ]; then
    rm -rf "$PLANISH_NODE_TESTS.part"
    "$venv/bin/python" tests/operators.py --write "$PLANISH_NODE_TESTS.part"
    mv "$PLANISH_NODE_TESTS.part" "$PLANISH_NODE_TESTS"
fi
# Builds the program too, which is run below: `cargo build` would build most dependencies again, without the features that tests add.
cargo test --workspace --locked --no-run
cargo test --workspace --locked "$@"
"$venv/bin/python" tests/operators.py target/debug/planish
"$venv/bin/python" tests/schemas.py target/debug/planish
"$venv/bin/python" tests/shapes.py target/debug/planish --operators fixtures/models/*.onnx
