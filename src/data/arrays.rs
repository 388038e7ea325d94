//! Arrays from files, matched with the model's inputs and cut into batches.

mod convert;
mod cut;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use planish_ir::{DType, Dims, Tensor};
use zip::ZipArchive;

use super::{
    Make, Options, Samples, Tensors,
    inputs::{Input, defaults_kept},
    npy,
};
pub(super) use convert::{convert, fits};
use cut::cut;
pub(super) use cut::{Sizes, open_batch};

/// All samples of an `.npz` file.
pub(super) fn from_npz(path: &Path, inputs: &[Input], options: &Options) -> Result<Samples> {
    let place = || format!("samples in {}", path.display());
    // An .npz file is a zip archive with one .npy file per array.
    let file = File::open(path).with_context(place)?;
    let mut archive = ZipArchive::new(BufReader::new(file)).with_context(place)?;
    let names: BTreeSet<String> =
        archive.file_names().filter_map(|n| n.strip_suffix(".npy")).map(str::to_owned).collect();
    let (mut arrays, mut kept) = (Vec::new(), Vec::new());
    for input in inputs {
        if !names.contains(&input.name) {
            if input.optional {
                kept.push(input);
                continue;
            }
            bail!("{}: {}", place(), missing(&input.name, &names, inputs));
        }
        let at = || format!("{}: array {:?}", place(), input.name);
        let member = archive.by_name(&format!("{}.npy", input.name)).with_context(at)?;
        arrays.push((input, npy::read(member).with_context(at)?));
    }
    let mut notes: Vec<String> = defaults_kept(&kept).into_iter().collect();
    let ignored: Vec<String> =
        names.iter().filter(|n| inputs.iter().all(|i| i.name != **n)).map(|n| format!("{n:?}")).collect();
    if !ignored.is_empty() {
        notes.push(format!("ignored, because the model has no such inputs: {}", ignored.join(", ")));
    }
    cut(arrays, options, notes).with_context(place)
}

/// All samples of a folder.
pub(super) fn from_folder(folder: &Path, inputs: &[Input], options: &Options) -> Result<Samples> {
    let place = || format!("samples in {}", folder.display());
    let files = npy_files(folder).with_context(place)?;
    let named = files.iter().map(|(stem, path)| (format!("{stem}.npy"), path.clone())).collect();
    let whole = |i: &Input| files.get(&file_stem(&i.name));
    if inputs.iter().any(|i| whole(i).is_some()) {
        let (mut arrays, mut kept) = (Vec::new(), Vec::new());
        for input in inputs {
            match whole(input) {
                Some(path) => arrays.push((input, read_file(path)?)),
                None if input.optional => kept.push(input),
                None => {
                    let names = files.keys().cloned().collect();
                    bail!("{}: {}", place(), missing(&file_stem(&input.name), &names, inputs));
                }
            }
        }
        let notes = defaults_kept(&kept).into_iter().collect();
        return Ok(Samples { files: named, ..cut(arrays, options, notes).with_context(place)? });
    }
    Ok(Samples { files: named, ..one_file_per_run(&files, inputs, options).with_context(place)? })
}

/// `INPUT_K.npy`, or `K.npy` for the only input.
fn one_file_per_run(files: &BTreeMap<String, PathBuf>, inputs: &[Input], options: &Options) -> Result<Samples> {
    let mut runs: BTreeMap<u64, Vec<(&Input, &PathBuf)>> = BTreeMap::new();
    let wanted: Vec<&Input> = inputs.iter().filter(|i| !i.optional).collect();
    for (stem, path) in files {
        let number = |prefix: &str| stem.strip_prefix(prefix)?.parse::<u64>().ok();
        let found = inputs.iter().find_map(|i| Some((i, number(&format!("{}_", file_stem(&i.name)))?)));
        let lone = || Some((*wanted.first()?, number("")?)).filter(|_| wanted.len() == 1);
        if let Some((input, k)) = found.or_else(lone) {
            runs.entry(k).or_default().push((input, path));
        }
    }
    let example = inputs.first().map_or_else(String::new, |i| file_stem(&i.name));
    ensure!(
        !runs.is_empty(),
        "no file fits an input of the model: expected {example}.npy with all samples, or {example}_0.npy, \
         {example}_1.npy, … \
         with one run each"
    );
    let (mut notes, mut sizes, mut total) = (Vec::new(), Vec::new(), 0u64);
    let mut files = Vec::new();
    for (k, parts) in runs {
        if options.samples.is_some_and(|limit| total >= limit) {
            break;
        }
        if let Some(absent) = wanted.iter().find(|i| parts.iter().all(|(p, _)| p.name != i.name)) {
            bail!("run {k} lacks the file {}_{k}.npy", file_stem(&absent.name));
        }
        let mut bound = Sizes::new(options);
        let mut count = 1;
        for (input, path) in &parts {
            // The head says whether it fits; the numbers are read when they are needed.
            let place = || path.display().to_string();
            let (dtype, dims) = head(path).with_context(place)?;
            convert(&Tensor::from_raw(dtype, [0].as_slice(), Default::default())?, input, &mut notes)?;
            let dims = with_batch_axis(&dims, input);
            bound.check(input, &dims).with_context(place)?;
            count = dims.first().copied().unwrap_or(1);
        }
        files.push(parts.into_iter().map(|(i, path)| (i.clone(), path.clone())).collect());
        sizes.push(count);
        total = total.saturating_add(count);
    }
    Ok(Samples { sizes, notes, ..Samples::made(Files { runs: files, options: options.clone() }) })
}

/// Runs whose inputs have files of their own.
#[derive(Debug)]
struct Files {
    runs: Vec<Vec<(Input, PathBuf)>>,
    options: Options,
}

impl Make for Files {
    fn make(&self, run: usize, _samples: u64) -> Result<Tensors> {
        let mut batch = Tensors::new();
        // A file may have changed since its head was read.
        let mut sizes = Sizes::new(&self.options);
        for (input, path) in self.runs.get(run).context("there is no such run")? {
            let place = || path.display().to_string();
            let array = convert(&read_file(path)?, input, &mut Vec::new()).with_context(place)?;
            let dims = with_batch_axis(array.dims(), input);
            sizes.check(input, &dims).with_context(place)?;
            batch.insert(input.name.clone(), array.with_dims(dims)?);
        }
        Ok(batch)
    }
}

/// A file may hold one sample without the batch axis.
fn with_batch_axis(dims: &[u64], input: &Input) -> Dims {
    match &input.shape {
        Some(shape) if shape.len() == dims.len() + 1 => std::iter::once(1).chain(dims.iter().copied()).collect(),
        _ => Dims::from_slice(dims),
    }
}

/// The arrays of a folder by their names without `.npy`.
pub(super) fn npy_files(folder: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "npy")
            && let Some(stem) = path.file_stem().and_then(|s| s.to_str())
        {
            files.insert(stem.to_owned(), path.clone());
        }
    }
    Ok(files)
}

fn head(path: &Path) -> Result<(DType, Dims)> {
    npy::head(BufReader::new(File::open(path)?))
}

fn read_file(path: &Path) -> Result<Tensor> {
    let place = || path.display().to_string();
    npy::read(BufReader::new(File::open(path).with_context(place)?)).with_context(place)
}

/// An input's name as part of a file name: what is no letter, digit, `.`, `-` or `_` becomes `_`.
fn file_stem(input: &str) -> String {
    input.chars().map(|c| if c.is_alphanumeric() || "._-".contains(c) { c } else { '_' }).collect()
}

fn missing(name: &str, names: &BTreeSet<String>, inputs: &[Input]) -> String {
    // An array that another input claims is no candidate.
    let free = names.iter().filter(|n| inputs.iter().all(|i| i.name != **n));
    let near = free.max_by(|a, b| strsim::jaro_winkler(a, name).total_cmp(&strsim::jaro_winkler(b, name)));
    let hint = near.map_or_else(String::new, |n| format!("; rename {n:?} if that is it"));
    format!("there is no array for the input {name:?}{hint}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use planish_ir::Dim;

    fn input(name: &str, dtype: DType, shape: Vec<Dim>) -> Input {
        Input { name: name.into(), dtype, shape: Some(shape), optional: false }
    }

    fn save(path: &Path, shape: &[u64], data: &[f32]) {
        use npyz::WriterBuilder;
        let file = File::create(path).unwrap();
        let mut w = npyz::WriteOptions::new().default_dtype().shape(shape).writer(file).begin_nd().unwrap();
        w.extend(data).unwrap();
        w.finish().unwrap();
    }

    #[test]
    fn a_compressed_archive_is_cut_into_batches_and_names_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.npz");
        let mut zip = zip::ZipWriter::new(File::create(&path).unwrap());
        for (name, rows) in [("x", 5u64), ("labels", 5)] {
            use npyz::WriterBuilder;
            let deflated =
                zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
            zip.start_file(format!("{name}.npy"), deflated).unwrap();
            let options = npyz::WriteOptions::new().default_dtype().shape(&[rows, 2]);
            let mut w = options.writer(&mut zip).begin_nd().unwrap();
            w.extend((0..rows * 2).map(|v| v as f32)).unwrap();
            w.finish().unwrap();
        }
        zip.finish().unwrap();
        let inputs = [input("x", DType::F32, vec![Dim::symbol("n"), Dim::Known(2)])];
        let options = Options { batch: Some(2), ..Options::default() };
        let samples = from_npz(&path, &inputs, &options).unwrap();
        assert_eq!(samples.count(), 5);
        let sizes: Vec<_> = samples.all().unwrap().iter().map(|b| b["x"].dims()[0]).collect();
        assert_eq!(sizes, [2, 2, 1]);
        assert_eq!(samples.all().unwrap()[1]["x"].to_f64().unwrap(), [4.0, 5.0, 6.0, 7.0]);
        assert_eq!(samples.notes, ["ignored, because the model has no such inputs: \"labels\""]);

        let inputs = [input("label", DType::F32, vec![Dim::symbol("n"), Dim::Known(2)])];
        let error = format!("{:#}", from_npz(&path, &inputs, &options).unwrap_err());
        assert!(
            error.ends_with("there is no array for the input \"label\"; rename \"labels\" if that is it"),
            "{error}"
        );
    }

    #[test]
    fn a_folder_holds_arrays_or_runs() {
        let dir = tempfile::tempdir().unwrap();
        let inputs = [input("a/x", DType::F32, vec![Dim::Unknown, Dim::symbol("len")])];
        save(&dir.path().join("a_x_0.npy"), &[3], &[1.0, 2.0, 3.0]);
        save(&dir.path().join("a_x_10.npy"), &[2, 1], &[5.0, 6.0]);
        save(&dir.path().join("a_x_2.npy"), &[1, 1], &[4.0]);
        let runs = from_folder(dir.path(), &inputs, &Options::default()).unwrap();
        let shapes: Vec<_> = runs.all().unwrap().iter().map(|b| b["a/x"].dims().to_vec()).collect();
        assert_eq!(shapes, [vec![1, 3], vec![1, 1], vec![2, 1]]);
        assert_eq!(runs.count(), 4);
        save(&dir.path().join("a_x.npy"), &[2, 1], &[7.0, 8.0]);
        let whole = from_folder(dir.path(), &inputs, &Options::default()).unwrap();
        assert_eq!(whole.runs(), 2);
        let wrong = [input("y", DType::F32, vec![])];
        let error = format!("{:#}", from_folder(dir.path(), &wrong, &Options::default()).unwrap_err());
        assert!(error.contains("expected y.npy"), "{error}");
    }
}
