//! Samples from images and texts, and statistics that are kept, on the command line.

use std::{fs, path::Path};

use image::{Rgb, RgbImage};
use serde_json::Value;

use crate::support::{failure, fixture, planish, stdout};

/// Digits would be better, but any image has pixels.
fn photos(folder: &Path, count: u8) {
    fs::create_dir_all(folder).unwrap();
    for i in 0..count {
        let pixel = |x: u32, y: u32| Rgb([(x * 9 + y * u32::from(i)) as u8, (y * 7) as u8, 40 * i]);
        RgbImage::from_fn(40, 30, pixel).save(folder.join(format!("{i}.png"))).unwrap();
    }
}

fn notes(json: &Value) -> String {
    json["notes"].as_array().unwrap().iter().map(|n| n.as_str().unwrap().to_owned() + "\n").collect()
}

#[test]
fn a_folder_of_images_is_enough() {
    let folder = tempfile::tempdir().unwrap();
    photos(&folder.path().join("photos"), 3);
    let model = fixture("models/mnist_cnn.onnx");
    let run = |extra: &[&str], out: &str| {
        let mut command = planish();
        command.current_dir(folder.path()).arg("compile").arg(&model).args(["--json", "-o", out]).args(extra);
        command
    };
    let json = stdout(&mut run(&["--preset", "simplify", "--calib", "photos", "--preprocess", "unit"], "a.onnx"));
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["verification"]["runs"], &json["verification"]["failures"]), (&3.into(), &Value::Array(vec![])));
    assert!(notes(&json).contains("looks like layout: nchw"), "{}", notes(&json));
    let written = planish_proto::open(folder.path().join("a.onnx")).unwrap().model;
    let provenance = written.metadata_props.iter().find(|p| p.key() == "planish").unwrap().value();
    let provenance: Value = serde_json::from_str(provenance).unwrap();
    assert_eq!(provenance["pipeline"]["calibration"]["images"]["folder"], "photos");
    assert_eq!(provenance["calibration_blake3"].as_str().unwrap().len(), 64);

    let message =
        failure(&mut run(&["--preset", "simplify", "--calib", "photos", "--tokenizer", "t.json"], "b.onnx"), 2);
    assert!(message.contains("--tokenizer is for samples that are texts"), "{message}");
    fs::write(folder.path().join("photos/9.jpg"), "no image").unwrap();
    let message = failure(&mut run(&["--preset", "simplify", "--calib", "photos"], "b.onnx"), 2);
    assert!(message.contains("9.jpg cannot be decoded"), "{message}");
}

#[test]
fn texts_are_tokenized() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write(
        "m.onnxtxt",
        r#"<ir_version: 8, opset_import: ["" : 17]>
        g (int64[batch,length] input_ids, int64[batch,length] attention_mask) => (float[batch,length,2] y, int64[batch,length] m)
        <float[16,2] table> { y = Gather (table, input_ids)
          m = Identity (attention_mask) }"#,
    );
    write("t.txt", "one two\nthree\n");
    let run = || {
        let mut command = planish();
        let args = ["compile", "m.onnxtxt", "--preset", "simplify", "--json", "-o", "out.onnx", "--calib", "t.txt"];
        command.current_dir(folder.path()).args(args);
        command
    };
    assert!(failure(&mut run(), 2).contains("no tokenizer is given"));
    write(
        "tokenizer.json",
        r#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "unk_token": "?", "vocab": {"?": 0, "one": 1, "two": 2, "three": 3}}}"#,
    );
    let json: Value = serde_json::from_str(&stdout(&mut run())).unwrap();
    assert_eq!(json["verification"]["runs"], 2);
    assert!(notes(&json).contains("the input \"input_ids\" takes token ids"), "{}", notes(&json));
}

#[test]
fn statistics_are_kept_and_bounds_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    photos(&folder.path().join("photos"), 2);
    let images = "images: {folder: photos, preprocess: unit}";
    let compile = |calibration: &str, out: &str| {
        let passes = "[simplify, {raise-opset: {to: 21}}, quantize]";
        let text = format!("version: 1\ntarget: onnxruntime-cpu\ncalibration: {{{calibration}}}\npasses: {passes}\n");
        fs::write(folder.path().join("p.yaml"), text + "verify: {engine: off}\n").unwrap();
        let mut command = planish();
        command.current_dir(folder.path()).arg("compile").arg(fixture("models/mnist_cnn.onnx"));
        command.args(["--pipeline", "p.yaml", "--json", "-o", out]);
        let json: Value = serde_json::from_str(&stdout(&mut command)).unwrap();
        (fs::read(folder.path().join(out)).unwrap(), notes(&json))
    };
    let (plain, _) = compile(images, "plain.onnx");
    let (bounded, _) = compile(&format!("{images}, memory: 1kB"), "bounded.onnx");
    assert_eq!(plain, bounded);
    let (kept, said) = compile(&format!("{images}, cache: kept"), "kept.onnx");
    assert!(kept == plain && said.contains("statistics were kept in"), "{said}");
    let (again, said) = compile(&format!("{images}, cache: kept"), "again.onnx");
    assert!(again == plain && said.contains("statistics were taken from"), "{said}");
    let (_, said) = compile("random: 1", "random.onnx");
    assert!(said.contains("calibration is on random numbers"), "{said}");
}
