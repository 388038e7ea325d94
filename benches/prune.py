#!/usr/bin/env python3
"""How accuracy falls while MACs are taken out, without training:

    benches/prune.py --corpus DIR [--cases minilm mnist_cnn …] [--keep 0.9 0.8 …] [--pass decompose] [--options '{units: [neurons]}']
                     [--latency] [--json out.json]

By `prune`, or by another pass that keeps a budget: `low-rank`, `decompose`, `tucker`, `cp`, `spatial-svd`, `tensor-train`. DIR holds
`models/`, `data/` and the scripts `eval_*.py`, as for quantize.py. For each share that is kept, 90 to 40 % unless others are given, the
model is simplified, fused and compressed in a process of its own, whose wall time and peak memory are measured, with all calibration
samples of the corpus; the line shows the share that planish says was kept, its error on samples that its fits had not seen, and the figure
of the evaluation script beside that of the float model. For MiniLM the mean cosine to the original's embeddings follows.
With --latency the median ratio of the time in onnxruntime, one thread, to the original's, pairs in changing order: below 1 is faster.
"""
import argparse
import json
import pathlib
import re
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from quantize import CASES, evaluate, latency, measured  # noqa: E402

PIPELINE = """version: 1
calibration: {{npz: {calib}, samples: {samples}}}
passes:
  - simplify
  - fuse
  - {step}: {options}
"""


def compressed(args, model, calib, keep, folder):
    """Compiles; the figures of the run and the path of the result."""
    out, recipe = folder / "out.onnx", folder / "pipeline.yaml"
    out.unlink(missing_ok=True)
    options = f"{{{args.budget}: {keep}, {args.options.strip().strip('{}')}}}".replace(", }", "}")
    recipe.write_text(PIPELINE.format(calib=calib, samples=args.samples, step=args.step, options=options))
    code, seconds, peak, log = measured([args.planish, "compile", str(model), "--pipeline", str(recipe), "-o", str(out)])
    if code or not out.exists():
        raise RuntimeError((log.strip().splitlines() or ["no message"])[-1])
    row = {"seconds": seconds, "peak_mb": peak, "mb": out.stat().st_size / 1e6}
    if found := re.search(r"([\d.]+) % of the .* are kept", log):
        row["kept"] = float(found[1]) / 100
    if found := re.search(r": ([\d.e-]+) with all layers fitted at once, ([\d.e-]+) one after", log):
        row["held_error"] = min(float(found[1]), float(found[2]))
    return row, out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, type=pathlib.Path)
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--keep", nargs="*", type=float, default=[0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    parser.add_argument("--pass", dest="step", default="prune")
    parser.add_argument("--budget", default="macs", choices=["macs", "params", "bytes"])
    parser.add_argument("--options", default="", help="further options of the pass, as in a pipeline")
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--planish", default="target/release/planish")
    parser.add_argument("--latency", action="store_true")
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    corpus, rows = args.corpus.resolve(), []
    print(f"{'model':10} {'keep':>5} {'kept':>6} {'held error':>10} {'metric':>8} {'cosine':>7} {'ratio':>6} {'MB':>7} {'seconds':>8} {'peak MB':>8}")
    for case in args.cases:
        model, calib, command = CASES[case]
        model, calib = corpus / "models" / model, corpus / "data" / calib
        if case == "minilm":
            command = [*command, "--ref", str(model)]
        with tempfile.TemporaryDirectory() as folder:
            for keep in [None, *args.keep]:
                row = {"model": case, "keep": keep}
                rows.append(row)
                try:
                    out = model
                    if keep is not None:
                        figures, out = compressed(args, model, calib, keep, pathlib.Path(folder))
                        row |= figures
                    result = evaluate(corpus, command, out)
                    row["metric"], row["cosine"] = result["value"], result.get("mean_cosine_to_ref")
                    if args.latency and keep is not None:
                        row["ratio"] = latency(model, out, calib, args.runs)[0]
                except Exception as error:  # noqa: BLE001 - one failure does not end the comparison
                    row["error"] = str(error)[:160]
                    print(f"{case:10} {keep} fails: {row['error']}", flush=True)
                    continue
                number = lambda key, form: format(row[key], form) if row.get(key) is not None else ""  # noqa: E731
                print(f"{case:10} {number('keep', '.2f') or 'float':>5} {number('kept', '.3f'):>6} {number('held_error', '.2e'):>10} "
                      f"{row['metric']:8.4f} {number('cosine', '.4f'):>7} {number('ratio', '.3f'):>6} {number('mb', '.2f'):>7} "
                      f"{number('seconds', '.0f'):>8} {number('peak_mb', '.0f'):>8}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
