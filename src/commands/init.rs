//! `planish init`: a commented pipeline to start from, made for one model.

use planish_ir::{DType, Dim, Model, Type};

use super::{print, write_file};
use crate::{cli::Init, failure::Result, model_file::ModelFile};

/// Runs the command.
pub fn run(args: &Init) -> Result {
    let file = ModelFile::open(&args.model)?;
    let name = args.model.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let text = pipeline(&file.model, &name);
    match &args.output {
        Some(path) => write_file(path, &text),
        None => print(&text),
    }
}

/// The text of the pipeline. A test parses it for every fixture.
pub fn pipeline(model: &Model, name: &str) -> String {
    let g = &model.graph;
    let inputs: Vec<String> = g
        .inputs()
        .iter()
        .map(|&v| format!("#     {}: {}", g.name_of(v), g.ty(v).map_or_else(|| "?".to_owned(), Type::to_string)))
        .collect();
    let dims: Vec<String> = g
        .inputs()
        .iter()
        .filter_map(|&v| g.ty(v)?.shape())
        .flatten()
        .filter(|d| matches!(d, Dim::Symbolic(_)))
        .map(|d| format!("--dim {d}=N"))
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect();
    let sizes = match dims.is_empty() {
        true => String::new(),
        false => format!("# Sizes of dynamic dims are given on the command line: {}\n", dims.join(" ")),
    };
    let is_float = g.values().any(|(_, v)| v.constant().is_some_and(|t| t.dtype() == DType::F32));
    let opset = match model.opset() {
        n if n < 13 => {
            format!("  - raise-opset: {{to: 21}}           # the model has {n}; int8 per channel needs 13\n")
        }
        _ => String::new(),
    };
    let compress = match is_float {
        true => {
            "  # - float16                        # half the size; good on GPUs\n  # - quantize-weights: {bits: 8}    # a quarter of the size; 4: an eighth, with calibration data\n"
        }
        false => "",
    };
    format!(
        "# Pipeline for {name}. Run it with\n\
         #     planish compile {name} --pipeline THIS.yaml -o OUT.onnx\n\
         # `planish passes` lists what can stand under `passes`.\n\
         {sizes}\
         version: 1\n\
         target: generic                    # or onnxruntime-cpu, onnxruntime-gpu, tensorrt\n\
         \n\
         # Real inputs make verification meaningful, and what is measured on them. Arrays are named like the model's inputs,\n\
         # samples first:\n\
         {}\n\
         # calibration: {{npz: calib.npz, samples: 128}}\n\
         # calibration: {{images: {{folder: photos, preprocess: imagenet}}, samples: 128}}\n\
         # calibration: {{text: {{file: texts.txt, tokenizer: tokenizer.json}}, samples: 128}}\n\
         \n\
         passes:\n  - simplify                         # fewer nodes and constants, the same function\n{opset}{compress}\
         \n\
         verify:\n  engine: auto                       # or tract, onnxruntime, off\n  samples: 8\n  \
         # min_cosine: 0.99                 # a bound makes the command fail, and write nothing, below it\n",
        inputs.join("\n")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_init_writes_is_a_pipeline() {
        let model = planish_ir::text::parse(
            r#"<ir_version: 8, opset_import: ["" : 11]>
            g (float[N,2] x) => (float[N,2] y) <float[2] w = {1.0, 2.0}> { y = Mul (x, w) }"#,
        )
        .unwrap();
        let text = pipeline(&model, "m.onnx");
        crate::pipeline::Pipeline::parse(&text).unwrap();
        assert!(text.contains("--dim N=N") && text.contains("raise-opset"));
    }
}
