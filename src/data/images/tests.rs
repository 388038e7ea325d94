use std::path::Path;

use image::{Rgb, RgbImage};
use planish_ir::Dim;

use super::*;

fn input(dtype: DType, shape: &[&str]) -> Input {
    let dim = |s: &&str| s.parse().map_or_else(|_| Dim::symbol(s), Dim::Known);
    Input { name: "x".into(), dtype, shape: Some(shape.iter().map(dim).collect()), optional: false }
}

/// A folder with an image per color, of the same size.
fn folder(colors: &[[u8; 3]], width: u32, height: u32) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (i, &color) in colors.iter().enumerate() {
        RgbImage::from_pixel(width, height, Rgb(color)).save(dir.path().join(format!("{i}.png"))).unwrap();
    }
    dir
}

fn images(folder: &Path, yaml: &str) -> Images {
    let images: Images = serde_yaml::from_str(&format!("folder: {}\n{yaml}", folder.display())).unwrap();
    images
}

fn load(folder: &Path, yaml: &str, input: &Input, options: &Options) -> Result<Samples> {
    from_folder(&images(folder, yaml), std::slice::from_ref(input), options)
}

fn refusal(folder: &Path, yaml: &str, input: &Input) -> String {
    let made = load(folder, yaml, input, &Options::default()).and_then(|s| Ok(s.inputs(0)?.into_owned()));
    let text = format!("{:#}", made.unwrap_err());
    text.replace(&folder.display().to_string(), "FOLDER")
}

fn values(samples: &Samples, run: usize) -> (Vec<u64>, Vec<f64>) {
    let tensor = samples.inputs(run).unwrap()["x"].clone();
    let numbers = match tensor.dtype() {
        DType::U8 => tensor.to_i64().unwrap().into_iter().map(|v| v as f64).collect(),
        _ => tensor.to_f64().unwrap(),
    };
    (tensor.dims().to_vec(), numbers)
}

#[test]
fn channels_go_where_the_model_wants_them() {
    let dir = folder(&[[255, 0, 51]], 2, 1);
    let none = Options::default();
    let nchw = load(dir.path(), "", &input(DType::F32, &["n", "3", "1", "2"]), &none).unwrap();
    let wanted = [1.0, 1.0, 0.0, 0.0, 0.2, 0.2].map(f64::from);
    let (dims, found) = values(&nchw, 0);
    assert_eq!(dims, [1, 3, 1, 2]);
    assert!(found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-7), "{found:?}");
    assert_eq!(
        nchw.notes,
        [
            "the input \"x\" looks like layout: nchw by its shape [n, 3, 1, 2]",
            "pixels are scaled to 0..1; if the model was trained with others, give preprocess, or scale, mean and std"
        ]
    );
    let yaml = "colors: bgr\nscale: 1\nmean: [1, 2, 3]\nstd: [2]\nlayout: nhwc\n";
    let nhwc = load(dir.path(), yaml, &input(DType::F16, &["1", "2", "3"]), &none).unwrap();
    assert_eq!(values(&nhwc, 0), (vec![1, 2, 3], vec![25.0, -1.0, 126.0, 25.0, -1.0, 126.0]));
    let both = load(dir.path(), "", &input(DType::F32, &["1", "3", "1", "3"]), &none);
    assert!(format!("{:#}", both.unwrap_err()).contains("whether channels come first or last"));
    let gray = load(dir.path(), "", &input(DType::U8, &["1", "1", "1", "2"]), &none).unwrap();
    assert_eq!(values(&gray, 0), (vec![1, 1, 1, 2], vec![82.0, 82.0]));
    assert_eq!(gray.inputs(0).unwrap()["x"].dtype(), DType::U8);
}

#[test]
fn presets_take_the_size_from_the_model() {
    let dir = folder(&[[124, 116, 104]], 50, 40);
    let none = Options::default();
    let shape = |samples: &Samples| values(samples, 0).0;
    let fixed = input(DType::F32, &["n", "3", "32", "32"]);
    let samples = load(dir.path(), "preprocess: imagenet", &fixed, &none).unwrap();
    assert_eq!(shape(&samples), [1, 3, 32, 32]);
    // The mean of ImageNet is about this gray.
    assert!(values(&samples, 0).1.iter().all(|v| v.abs() < 0.02));
    let open = input(DType::F32, &["n", "3", "h", "w"]);
    let samples = load(dir.path(), "preprocess: imagenet", &open, &none).unwrap();
    assert_eq!(shape(&samples), [1, 3, 224, 224]);
    assert!(samples.notes[1].contains("made 224 x 224"), "{:?}", samples.notes);
    let sized = Options { dims: [("h".to_owned(), 16), ("w".to_owned(), 24)].into(), ..Options::default() };
    assert_eq!(shape(&load(dir.path(), "preprocess: tensorflow", &open, &sized).unwrap()), [1, 3, 16, 24]);
    let clip = load(dir.path(), "preprocess: clip", &fixed, &none).unwrap();
    assert_eq!(shape(&clip), [1, 3, 32, 32]);
    let caffe = load(dir.path(), "preprocess: caffe", &fixed, &none).unwrap();
    assert!((values(&caffe, 0).1[0] - (104.0 - 103.939)).abs() < 1e-4);
    let yolo = load(dir.path(), "preprocess: yolo", &fixed, &none).unwrap();
    let (dims, found) = values(&yolo, 0);
    // 50 x 40 becomes 32 x 26 with three rows of bars above it and below it.
    assert_eq!(dims, [1, 3, 32, 32]);
    let rows: Vec<f64> = found.chunks(32).take(32).map(|row| (row[0] * 255.0).round()).collect();
    assert_eq!(rows.iter().filter(|&&v| v == 114.0).count(), 6);
    assert_eq!((rows[2], rows[3], rows[28], rows[29]), (114.0, 124.0, 124.0, 114.0));
}

#[test]
fn sizes_follow_the_settings() {
    let dir = folder(&[[9, 9, 9]], 50, 40);
    let open = input(DType::F32, &["n", "3", "h", "w"]);
    let shape = |yaml: &str| values(&load(dir.path(), yaml, &open, &Options::default()).unwrap(), 0).0;
    assert_eq!(shape(""), [1, 3, 40, 50]);
    assert_eq!(shape("resize: 20"), [1, 3, 20, 25]);
    assert_eq!(shape("resize: 20\nfit: contain"), [1, 3, 16, 20]);
    assert_eq!(shape("resize: 20\nfit: pad"), [1, 3, 20, 20]);
    assert_eq!(shape("resize: [10, 12]"), [1, 3, 10, 12]);
    assert_eq!(shape("resize: [10, 12]\nfit: cover\ncrop: 8"), [1, 3, 8, 8]);
    assert_eq!(shape("multiple: 32"), [1, 3, 32, 64]);
    assert_eq!(shape("crop: [3, 5]"), [1, 3, 3, 5]);
}

#[test]
fn files_are_taken_in_order_and_decoded_one_by_one() {
    let dir = folder(&[[0; 3], [51; 3], [102; 3], [153; 3]], 2, 2);
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    // A JPEG whatever its name says, and what is no image by its name.
    RgbImage::from_pixel(4, 4, Rgb([255; 3]))
        .save_with_format(dir.path().join("sub/Z.PNG"), image::ImageFormat::Jpeg)
        .unwrap();
    std::fs::write(dir.path().join("photo.webp"), "").unwrap();
    std::fs::write(dir.path().join("notes.txt"), "").unwrap();
    std::fs::write(dir.path().join(".hidden.png"), "").unwrap();
    let x = input(DType::F32, &["2", "3", "2", "2"]);
    let samples = load(dir.path(), "", &x, &Options::default()).unwrap();
    assert_eq!((samples.runs(), samples.count()), (2, 4));
    let firsts: Vec<f64> = (0..2)
        .flat_map(|run| {
            let v = values(&samples, run).1;
            [v[0], v[12]]
        })
        .map(|v| (v * 5.0).round())
        .collect();
    assert_eq!(firsts, [0.0, 1.0, 2.0, 3.0]);
    assert!(samples.notes.contains(&"files left out, because only JPEG and PNG are read: 1 .webp".to_owned()));
    assert!(samples.notes.iter().any(|n| n.contains("last 1 samples are not used")), "{:?}", samples.notes);
    let few = Options { samples: Some(2), batch: Some(1), ..Options::default() };
    let open = input(DType::F32, &["n", "3", "2", "2"]);
    let samples = load(dir.path(), "", &open, &few).unwrap();
    assert_eq!((values(&samples, 1).1[0] * 5.0).round(), 2.0);
    assert!(samples.notes.iter().any(|n| n.contains("2 of the 5 images")));
}

#[test]
fn what_does_not_fit_is_refused_with_its_name() {
    let dir = folder(&[[0; 3], [1; 3]], 8, 6);
    let f32s = |shape: &[&str]| input(DType::F32, shape);
    insta::assert_snapshot!(refusal(dir.path(), "", &f32s(&["n", "4", "8", "8"])), @r#"images in FOLDER: the shape [n, 4, 8, 8] of the input "x" does not show whether channels come first or last; give images.layout (nchw or nhwc)"#);
    insta::assert_snapshot!(refusal(dir.path(), "layout: nchw", &f32s(&["n", "4", "8", "8"])), @"images in FOLDER: the model takes 4 channels, but colors: rgb makes 3");
    insta::assert_snapshot!(refusal(dir.path(), "", &f32s(&["n", "3"])), @r#"images in FOLDER: the input "x" has 2 axes, and images take 4, or 3 without a batch axis"#);
    insta::assert_snapshot!(refusal(dir.path(), "", &input(DType::I64, &["n", "3", "8", "8"])), @r#"images in FOLDER: the input "x" is int64, and images are floats or uint8"#);
    insta::assert_snapshot!(refusal(dir.path(), "resize: [7, 8]", &f32s(&["n", "3", "8", "8"])), @"images in FOLDER: images come out as 7 x 8 (height x width), but the model takes 8 x 8; change resize or crop");
    insta::assert_snapshot!(refusal(dir.path(), "crop: 7", &f32s(&["n", "3", "h", "w"])), @"the image FOLDER/0.png: it is 6 x 8 pixels (height x width) after resizing, too small to cut out 7 x 7; give a larger resize");
    insta::assert_snapshot!(refusal(dir.path(), "resize: 8", &f32s(&["2", "3", "h", "w"])), @"images in FOLDER: images of different sizes cannot be 2 in one run; give resize: [HEIGHT, WIDTH], or batch: 1");
    insta::assert_snapshot!(refusal(dir.path(), "std: [0]", &f32s(&["2", "3", "h", "w"])), @"images in FOLDER: images.std: one finite number other than 0 is needed, or one per channel");
    insta::assert_snapshot!(refusal(dir.path(), "mean: [1, 2, 3]\ncolors: gray", &f32s(&["n", "1", "h", "w"])), @"images in FOLDER: images.mean: 3 numbers are given for 1 channels");
    insta::assert_snapshot!(refusal(dir.path(), "mean: [1]", &input(DType::U8, &["n", "3", "8", "8"])), @r#"images in FOLDER: the input "x" takes pixels from 0 to 255 as they are (uint8); leave out scale, mean and std"#);
    insta::assert_snapshot!(refusal(dir.path(), "input: y", &f32s(&["n", "3", "8", "8"])), @r#"images in FOLDER: images.input: the model has no input "y"; its inputs are "x""#);
    let two = [f32s(&["n", "3", "8", "8"]), Input { name: "scale".into(), ..f32s(&["n"]) }];
    let error = from_folder(&images(dir.path(), ""), &two, &Options::default()).unwrap_err();
    insta::assert_snapshot!(format!("{error:#}").replace(&dir.path().display().to_string(), "FOLDER"), @r#"images in FOLDER: beside the images the model wants "scale", for which a folder of images has nothing; prepare all inputs yourself, as an .npz file with one array per input"#);
}

#[test]
fn files_that_cannot_be_decoded_are_named() {
    let dir = folder(&[[0; 3]], 8, 6);
    let x = input(DType::F32, &["n", "3", "h", "w"]);
    let whole = std::fs::read(dir.path().join("0.png")).unwrap();
    // Its head is all right.
    std::fs::write(dir.path().join("1.png"), &whole[..whole.len() - 20]).unwrap();
    let samples = load(dir.path(), "", &x, &Options::default()).unwrap();
    let error = format!("{:#}", samples.inputs(1).unwrap_err());
    assert!(error.contains("1.png cannot be decoded; mend it, or take it out of the folder"), "{error}");
    std::fs::write(dir.path().join("2.jpg"), "no image").unwrap();
    assert!(
        refusal(dir.path(), "", &x)
            .starts_with("images in FOLDER: FOLDER/2.jpg cannot be decoded; mend it, or take it out of the folder: ")
    );
    std::fs::remove_file(dir.path().join("2.jpg")).unwrap();
    std::fs::write(dir.path().join("2.jpg"), b"GIF89a\x01\x00\x01\x00").unwrap();
    insta::assert_snapshot!(refusal(dir.path(), "", &x), @"images in FOLDER: FOLDER/2.jpg cannot be decoded; mend it, or take it out of the folder: it is Gif, but only JPEG and PNG are read");
    let empty = tempfile::tempdir().unwrap();
    insta::assert_snapshot!(refusal(empty.path(), "", &x), @"images in FOLDER: there is no .jpg, .jpeg or .png file in it or below it");
    insta::assert_snapshot!(refusal(&empty.path().join("nowhere"), "", &x), @"images in FOLDER: cannot read the folder FOLDER: No such file or directory (os error 2)");
}

#[test]
fn settings_of_the_wrong_kind_are_explained() {
    let error = |yaml: &str| serde_yaml::from_str::<Images>(yaml).unwrap_err().to_string();
    insta::assert_snapshot!(error("{folder: a, resize: big}"), @"expected a number of pixels, or [height, width]");
    insta::assert_snapshot!(error("{folder: a, preprocess: imagnet}"), @"preprocess: unknown variant `imagnet`, expected one of `imagenet`, `caffe`, `tensorflow`, `clip`, `yolo`, `unit` at line 1 column 25");
}
