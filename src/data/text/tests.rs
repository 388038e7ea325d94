use std::{fs, path::Path};

use planish_ir::{Dim, text::parse};

use super::*;

/// Words as tokens, `[CLS]` and `[SEP]` around them.
const TOKENIZER: &str = r#"{
  "version": "1.0", "truncation": TRUNCATION, "padding": PADDING, "added_tokens": [],
  "normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "Whitespace"},
  "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}, "decoder": null,
  "model": {"type": "WordLevel", "unk_token": "[UNK]",
    "vocab": {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "one": 4, "two": 5, "three": 6, "four": 7, "nine": 9}}
}"#;

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = TOKENIZER.replace("TRUNCATION", "null").replace("PADDING", "null");
    fs::write(dir.path().join("tokenizer.json"), tokenizer).unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

fn input(name: &str, dtype: DType, shape: &[&str]) -> Input {
    let dim = |s: &&str| s.parse().map_or_else(|_| Dim::symbol(s), Dim::Known);
    Input { name: name.into(), dtype, shape: Some(shape.iter().map(dim).collect()), optional: false }
}

/// What encoders take.
fn bert(shape: &[&str]) -> Vec<Input> {
    ["input_ids", "attention_mask", "token_type_ids"].map(|n| input(n, DType::I64, shape)).into()
}

fn load(file: &Path, yaml: &str, inputs: &[Input], options: &Options) -> Result<Samples> {
    let text: Text = serde_yaml::from_str(&format!("file: {}\n{yaml}", file.display())).unwrap();
    from_file(&text, &Model::default(), inputs, options)
}

fn refusal(file: &Path, yaml: &str, inputs: &[Input]) -> String {
    let text = format!("{:#}", load(file, yaml, inputs, &Options::default()).unwrap_err());
    text.replace(&file.parent().unwrap().display().to_string(), "FOLDER")
}

fn row(samples: &Samples, run: usize, name: &str) -> (Vec<u64>, Vec<i64>) {
    let tensor = samples.inputs(run).unwrap()[name].clone();
    (tensor.dims().to_vec(), tensor.to_i64().unwrap())
}

#[test]
fn every_input_gets_what_its_name_says() {
    let dir = folder(&[("a.txt", "one TWO\r\n\n  \nthree\n")]);
    let file = dir.path().join("a.txt");
    let mut inputs = bert(&["batch", "sequence"]);
    inputs.push(input("position_ids", DType::I32, &["batch", "sequence"]));
    let samples = load(&file, "", &inputs, &Options::default()).unwrap();
    assert_eq!(samples.count(), 2);
    assert_eq!(row(&samples, 0, "input_ids"), (vec![1, 4], vec![2, 4, 5, 3]));
    assert_eq!(row(&samples, 1, "input_ids"), (vec![1, 3], vec![2, 6, 3]));
    assert_eq!(row(&samples, 1, "position_ids").1, [0, 1, 2]);
    assert_eq!(row(&samples, 1, "token_type_ids").1, [0, 0, 0]);
    assert_eq!(
        samples.notes,
        [
            "the input \"input_ids\" takes token ids",
            "the input \"attention_mask\" takes the attention mask",
            "the input \"token_type_ids\" takes token types",
            "the input \"position_ids\" takes positions",
            "texts are cut after 128 tokens; text.length sets another limit"
        ]
    );
}

#[test]
fn texts_of_a_run_are_made_equally_long() {
    let dir = folder(&[("a.txt", "one two three four\nnine\none\n")]);
    let file = dir.path().join("a.txt");
    let open = bert(&["batch", "sequence"]);
    let two = Options { batch: Some(2), ..Options::default() };
    let samples = load(&file, "length: 5", &open, &two).unwrap();
    assert_eq!(row(&samples, 0, "input_ids"), (vec![2, 5], vec![2, 4, 5, 6, 3, 2, 9, 3, 0, 0]));
    assert_eq!(row(&samples, 0, "attention_mask").1, [1, 1, 1, 1, 1, 1, 1, 1, 0, 0]);
    assert_eq!(row(&samples, 1, "input_ids"), (vec![1, 3], vec![2, 4, 3]));
    let filled = load(&file, "length: 6\npadding: length", &open, &Options::default()).unwrap();
    assert_eq!(row(&filled, 2, "input_ids").1, [2, 4, 3, 0, 0, 0]);
    let fixed = load(&file, "", &bert(&["2", "4"]), &Options::default()).unwrap();
    assert_eq!(fixed.runs(), 1);
    assert_eq!(row(&fixed, 0, "input_ids").1, [2, 4, 5, 3, 2, 9, 3, 0]);
    let sized = Options { dims: [("sequence".to_owned(), 3)].into(), ..Options::default() };
    assert_eq!(row(&load(&file, "", &open, &sized).unwrap(), 0, "input_ids").1, [2, 4, 3]);
}

#[test]
fn the_tokenizer_says_how_it_cuts_and_fills_up() {
    let dir = folder(&[("a.txt", "one two three four\n")]);
    let padding = r#"{"strategy": "BatchLongest", "direction": "Left", "pad_to_multiple_of": null, "pad_id": 1,
        "pad_type_id": 0, "pad_token": "[UNK]"}"#;
    let truncation = r#"{"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}"#;
    let path = dir.path().join("other.json");
    fs::write(&path, TOKENIZER.replace("TRUNCATION", truncation).replace("PADDING", padding)).unwrap();
    let mut inputs = bert(&["b", "6"]);
    inputs.push(input("position_ids", DType::I64, &["b", "6"]));
    let file = dir.path().join("a.txt");
    let yaml = format!("tokenizer: {}\nlength: 4", path.display());
    let samples = load(&file, &yaml, &inputs, &Options::default()).unwrap();
    assert_eq!(row(&samples, 0, "input_ids").1, [1, 1, 2, 4, 5, 3]);
    assert_eq!(row(&samples, 0, "attention_mask").1, [0, 0, 1, 1, 1, 1]);
    assert_eq!(row(&samples, 0, "position_ids").1, [0, 0, 0, 1, 2, 3]);
    let open = load(&file, &format!("tokenizer: {}", path.display()), &bert(&["b", "s"]), &Options::default()).unwrap();
    assert_eq!(row(&open, 0, "input_ids").1, [2, 4, 5, 3]);
}

#[test]
fn objects_have_fields() {
    let dir = folder(&[("a.jsonl", "{\"text\": \"one\", \"q\": \"two two\"}\n\n{\"text\": 3, \"q\": \"\"}\n")]);
    let file = dir.path().join("a.jsonl");
    let ids = [input("ids", DType::I64, &["s"])];
    let samples = load(&file, "field: q", &ids, &Options::default()).unwrap();
    assert_eq!(row(&samples, 0, "ids"), (vec![4], vec![2, 5, 5, 3]));
    insta::assert_snapshot!(refusal(&file, "", &ids), @r#"texts in FOLDER/a.jsonl: line 3 of FOLDER/a.jsonl: the field "text" is no string; text.field names another one"#);
    insta::assert_snapshot!(refusal(&file, "field: query", &ids), @r#"texts in FOLDER/a.jsonl: line 1 of FOLDER/a.jsonl: there is no field "query"; give text.field, one of "text", "q""#);
    fs::write(&file, "{\"text\": \"one\"}\nplain\n").unwrap();
    insta::assert_snapshot!(refusal(&file, "", &ids), @"texts in FOLDER/a.jsonl: line 2 of FOLDER/a.jsonl: it is no JSON: expected value at line 1 column 1");
}

#[test]
fn what_does_not_fit_is_refused() {
    let dir = folder(&[("a.txt", "one\n"), ("empty.txt", "\n\n"), ("latin.txt", "")]);
    let file = dir.path().join("a.txt");
    let open = bert(&["b", "s"]);
    let with = |extra: Input| open.iter().cloned().chain([extra]).collect::<Vec<_>>();
    insta::assert_snapshot!(refusal(&file, "", &with(input("past_key_values.0.key", DType::F32, &["b", "12", "p", "64"]))), @r#"texts in FOLDER/a.txt: the input "past_key_values.0.key" (float) takes nothing that a tokenizer gives, as far as its name says; say with text.inputs.past_key_values.0.key what it takes (ids, mask, types or positions), or prepare all inputs yourself, as an .npz file"#);
    insta::assert_snapshot!(refusal(&file, "", &with(input("cache_position_ids", DType::I64, &["b", "12", "p"]))), @r#"texts in FOLDER/a.txt: the input "cache_position_ids" should take positions, but has 3 axes instead of batch and tokens; prepare all inputs yourself, as an .npz file"#);
    insta::assert_snapshot!(refusal(&file, "", &[input("attention_mask", DType::I64, &["b", "s"])]), @"texts in FOLDER/a.txt: no input of the model takes token ids, as far as names say; say with text.inputs which one does");
    insta::assert_snapshot!(refusal(&file, "", &[input("input_ids", DType::F32, &["b", "s"])]), @r#"texts in FOLDER/a.txt: the input "input_ids" should take token ids, but is float"#);
    insta::assert_snapshot!(refusal(&file, "inputs: {y: ids}", &open), @r#"texts in FOLDER/a.txt: text.inputs: the model has no input "y"; its inputs are "input_ids", "attention_mask", "token_type_ids""#);
    insta::assert_snapshot!(refusal(&file, "field: text", &open), @"texts in FOLDER/a.txt: text.field: only .jsonl files have fields; a line of any other file is a text as a whole");
    insta::assert_snapshot!(refusal(&file, "length: 9", &bert(&["b", "8"])), @"texts in FOLDER/a.txt: text.length: 9 tokens were asked for, but the model takes 8");
    insta::assert_snapshot!(refusal(&file, "length: 1", &open), @"texts in FOLDER/a.txt: the tokenizer puts 2 tokens around a text, so 1 are too few; give a larger text.length");
    insta::assert_snapshot!(refusal(&file, "tokenizer: nowhere.json", &open), @"texts in FOLDER/a.txt: the tokenizer nowhere.json cannot be used: No such file or directory (os error 2)");
    insta::assert_snapshot!(refusal(&dir.path().join("empty.txt"), "", &open), @"texts in FOLDER/empty.txt: there is no text in it");
    insta::assert_snapshot!(refusal(&dir.path().join("nowhere.txt"), "", &open), @"texts in FOLDER/nowhere.txt: cannot be opened: No such file or directory (os error 2)");
    fs::write(dir.path().join("latin.txt"), b"one\n\xe9t\xe9\n").unwrap();
    insta::assert_snapshot!(refusal(&dir.path().join("latin.txt"), "", &open), @"texts in FOLDER/latin.txt: line 2 of FOLDER/latin.txt: it is not UTF-8; convert the file");
    fs::write(dir.path().join("tokenizer.json"), "{}").unwrap();
    assert!(refusal(&file, "", &open).contains("the tokenizer FOLDER/tokenizer.json cannot be used: "));
    fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    insta::assert_snapshot!(refusal(&file, "", &open), @"texts in FOLDER/a.txt: no tokenizer is given; give the model's tokenizer.json with text.tokenizer or --tokenizer, or put it beside the model or the texts");
}

#[test]
fn a_foreign_tokenizer_is_found_out() {
    let model = parse(
        r#"<ir_version: 8, opset_import: ["" : 17]>
        g (int64[b,s] words) => (float[b,s,2] y) <float[8,2] table> { y = Gather (table, words) }"#,
    )
    .unwrap();
    let dir = folder(&[("a.txt", "one\nnine\n")]);
    let text = Text { file: dir.path().join("a.txt"), ..Text::default() };
    let inputs = crate::data::inputs::of_model(&model).unwrap();
    let samples = from_file(&text, &model, &inputs, &Options::default()).unwrap();
    // The name says nothing, the table behind it does.
    assert_eq!(samples.notes[0], "the input \"words\" takes token ids");
    assert_eq!(samples.inputs(0).unwrap()["words"].to_i64().unwrap(), [2, 4, 3]);
    let error = format!("{:#}", samples.inputs(1).unwrap_err());
    assert!(
        error.ends_with(
            "token ids for \"words\" reach 9, but the model knows only 0 to 7; is this the model's own tokenizer?"
        ),
        "{error}"
    );
}
