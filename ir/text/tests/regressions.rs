//! Inputs that once did harm, or easily could: `fixtures/regressions/text` holds texts, `fixtures/regressions/reader`
//! files.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::assert_settles;
use crate::{
    onnx,
    text::{ParseOptions, parse_with},
};

#[test]
fn texts() {
    for path in files("text") {
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
        let options = ParseOptions { max_filled: 1 << 20, ..ParseOptions::default() };
        // Refusing is fine; what is accepted has to survive.
        if let Ok(model) = parse_with(&text, options) {
            assert_settles(&model);
        }
    }
}

#[test]
fn models() {
    for path in files("reader") {
        let Ok(message) = planish_proto::decode(fs::read(&path).unwrap().into()) else { continue };
        if let Ok(model) = onnx::import(message, &|_| Err("not here".into())) {
            assert_settles(&model);
        }
    }
}

fn files(kind: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/regressions").join(kind);
    let mut all: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    all.sort();
    assert!(!all.is_empty());
    all
}
