//! Folders of images, decoded and prepared when a run needs them.
//!
//! The files of a folder and of its subfolders are taken in the order of their paths, so that the samples are the same on
//! every machine. If fewer are asked for, they are spread evenly over that order: folders are often sorted by class. A
//! file that cannot be read is an error that names it, never a sample less.

mod files;
mod geometry;
mod layout;
mod pixels;
mod settings;

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use planish_ir::{DType, Dims, Tensor};

use super::{
    Make, Options, Samples, Tensors,
    arrays::{Sizes, convert, open_batch},
    inputs::{Input, defaults_kept},
    spread,
};
use geometry::Geometry;
use layout::Axes;
use pixels::Scaling;
pub use settings::{Colors, Fit, Images, Interpolation, Layout, Preprocess, Size};

/// Images that are ready to be decoded.
#[derive(Debug)]
struct Prepared {
    input: Input,
    files: Vec<PathBuf>,
    /// Images per run.
    batch: usize,
    axes: Axes,
    colors: Colors,
    geometry: Geometry,
    scaling: Scaling,
    options: Options,
}

/// All samples of a folder. Reads the head of every file that will be used, and no pixels.
pub(super) fn from_folder(images: &Images, inputs: &[Input], options: &Options) -> Result<Samples> {
    open(images, inputs, options).with_context(|| format!("images in {}", images.folder.display()))
}

fn open(images: &Images, inputs: &[Input], options: &Options) -> Result<Samples> {
    images.check()?;
    let input = choose(images, inputs)?.clone();
    let kept: Vec<&Input> = inputs.iter().filter(|i| i.optional && i.name != input.name).collect();
    let mut notes: Vec<String> = defaults_kept(&kept).into_iter().collect();
    let axes = Axes::of(&input, images, options, &mut notes)?;
    let colors = images.colors(axes.channels)?;
    let geometry = Geometry::resolve(images, axes.height, axes.width, &mut notes)?;
    let scaling = Scaling::resolve(images, &input, colors, &mut notes)?;
    let found = files::find(&images.folder)?;
    notes.extend(found.note());
    ensure!(!found.images.is_empty(), "there is no .jpg, .jpeg or .png file in it or below it");
    let total = found.images.len() as u64;
    let files = spread(found.images, options.samples, "images", &mut notes);
    files.iter().try_for_each(|path| files::size(path).map(drop))?;
    let per_run = match axes.has_batch {
        true => open_batch(std::iter::once(&input), options, &mut notes)?,
        false => 1,
    };
    ensure!(
        per_run == 1 || geometry.is_fixed(),
        "images of different sizes cannot be {per_run} in one run; give resize: [HEIGHT, WIDTH], or batch: 1"
    );
    let fixed = axes.has_batch && input.shape.as_ref().and_then(|s| s.first()?.known()).is_some();
    let sizes = run_sizes(files.len() as u64, per_run, fixed, &mut notes);
    ensure!(!sizes.is_empty(), "there are {total} images, too few for a single run of {per_run}");
    let batch = usize::try_from(per_run)?;
    let inside = |p: &PathBuf| p.strip_prefix(&images.folder).unwrap_or(p).to_string_lossy().into_owned();
    let named = files.iter().map(|p| (inside(p), p.clone())).collect();
    let prepared = Prepared { input, files, batch, axes, colors, geometry, scaling, options: options.clone() };
    Ok(Samples { sizes, notes, files: named, ..Samples::made(prepared) })
}

/// Samples of each run. What is left over is told if the model takes an exact number.
pub(super) fn run_sizes(total: u64, per_run: u64, fixed: bool, notes: &mut Vec<String>) -> Vec<u64> {
    let per_run = per_run.max(1);
    let (whole, rest) = (total / per_run, total % per_run);
    let mut sizes: Vec<u64> = (0..whole).map(|_| per_run).collect();
    match (rest, fixed) {
        (0, _) => {}
        (_, false) => sizes.push(rest),
        (_, true) => notes
            .push(format!("the last {rest} samples are not used, because the model takes exactly {per_run} at a time")),
    }
    sizes
}

/// The input that takes the images. All others must have defaults.
fn choose<'a>(images: &Images, inputs: &'a [Input]) -> Result<&'a Input> {
    let names = |list: &[&Input]| list.iter().map(|i| format!("{:?}", i.name)).collect::<Vec<_>>().join(", ");
    let all: Vec<&Input> = inputs.iter().collect();
    let required: Vec<&Input> = inputs.iter().filter(|i| !i.optional).collect();
    let chosen = match &images.input {
        Some(name) => match inputs.iter().find(|i| i.name == *name) {
            Some(input) => input,
            None => bail!("images.input: the model has no input {name:?}; its inputs are {}", names(&all)),
        },
        None => match required.as_slice() {
            [one] => *one,
            [] if inputs.len() == 1 => &inputs[0],
            [] => bail!("say with images.input which of the inputs {} takes the images", names(&all)),
            many => {
                let pictures: Vec<&&Input> = many.iter().filter(|i| layout::may_be_image(i)).collect();
                match pictures.as_slice() {
                    [one] => **one,
                    _ => bail!("say with images.input which of the inputs {} takes the images", names(many)),
                }
            }
        },
    };
    let others: Vec<&Input> = required.into_iter().filter(|i| i.name != chosen.name).collect();
    ensure!(
        others.is_empty(),
        "beside the images the model wants {}, for which a folder of images has nothing; \
         prepare all inputs yourself, as an .npz file with one array per input",
        names(&others)
    );
    Ok(chosen)
}

impl Make for Prepared {
    fn shapes(&self, run: usize, samples: u64) -> Result<Vec<Dims>> {
        match self.geometry.size() {
            Some(size) => Ok(vec![self.dims(size, samples)]),
            // Of its own size, so it is the only one of its run.
            None => {
                let path = self.files.get(run).context("there is no such run")?;
                Ok(vec![self.dims(self.geometry.size_of(files::size(path)?), samples)])
            }
        }
    }

    fn make(&self, run: usize, samples: u64) -> Result<Tensors> {
        let start = run.saturating_mul(self.batch);
        let files = self.files.iter().skip(start).take(usize::try_from(samples)?);
        let mut values: Vec<f32> = Vec::new();
        let mut size = None;
        for path in files {
            let place = || format!("the image {}", path.display());
            let image = files::decode(path).with_context(place)?;
            let image = self.geometry.apply(image).with_context(place)?;
            let found = (image.height(), image.width());
            ensure!(
                *size.get_or_insert(found) == found,
                "{} comes out as {found:?} pixels, the image before it in the same run as {size:?}",
                place()
            );
            self.scaling.add(&image, self.colors, self.axes.layout, &mut values);
        }
        let dims = self.dims(size.context("there is no such run")?, samples);
        let tensor = match self.input.dtype {
            // They are whole numbers in the range: nothing was scaled.
            DType::U8 => {
                let bytes: Vec<u8> = values.iter().map(|&v| v as u8).collect();
                Tensor::from_raw(DType::U8, dims, bytes.into())?
            }
            _ => convert(&Tensor::from_f32(dims, &values)?, &self.input, &mut Vec::new())?,
        };
        Sizes::new(&self.options).check(&self.input, tensor.dims())?;
        Ok(Tensors::from([(self.input.name.clone(), tensor)]))
    }
}

impl Prepared {
    /// Shape of the input for images of this height and width.
    fn dims(&self, (height, width): (u32, u32), samples: u64) -> Dims {
        let (height, width) = (u64::from(height), u64::from(width));
        let mut dims = Dims::new();
        if self.axes.has_batch {
            dims.push(samples);
        }
        let channels = self.colors.channels();
        dims.extend(match self.axes.layout {
            Layout::Nchw => [channels, height, width],
            Layout::Nhwc => [height, width, channels],
        });
        dims
    }
}

#[cfg(test)]
mod tests;
