//! Which axes of an input are rows, columns and channels.

use anyhow::{Result, bail};
use planish_ir::{DType, Dim};

use super::settings::{Images, Layout};
use crate::data::{Options, inputs::Input};

/// The axes of an input that takes images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Axes {
    pub(super) layout: Layout,
    /// The first axis is the batch.
    pub(super) has_batch: bool,
    /// What the model fixes.
    pub(super) channels: Option<u64>,
    pub(super) height: Option<u32>,
    pub(super) width: Option<u32>,
}

/// True if an input has the type and the number of axes of images.
pub(super) fn may_be_image(input: &Input) -> bool {
    takes_pixels(input.dtype) && input.shape.as_ref().is_none_or(|s| matches!(s.len(), 3 | 4))
}

fn takes_pixels(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F16 | DType::BF16 | DType::F64 | DType::U8)
}

impl Axes {
    /// Finds them. What is guessed is noted.
    pub(super) fn of(input: &Input, images: &Images, options: &Options, notes: &mut Vec<String>) -> Result<Axes> {
        let name = &input.name;
        if !takes_pixels(input.dtype) {
            bail!("the input {name:?} is {}, and images are floats or uint8", input.dtype);
        }
        let shape = match (&input.shape, images.layout) {
            (Some(shape), _) => sizes(shape, input, options),
            // Nothing is known: what the user says.
            (None, Some(_)) => vec![None; 4],
            (None, None) => {
                bail!("the model does not say which axes its input {name:?} has; give images.layout (nchw or nhwc)")
            }
        };
        let has_batch = match shape.len() {
            4 => true,
            3 => false,
            n => bail!("the input {name:?} has {n} axes, and images take 4, or 3 without a batch axis"),
        };
        let axes = &shape[usize::from(has_batch)..];
        let (first, last) = (axes.first().copied().flatten(), axes.last().copied().flatten());
        let is_channels = |d: Option<u64>| matches!(d, Some(1 | 3));
        let layout = match images.layout {
            Some(layout) => layout,
            None => {
                let layout = match (is_channels(first), is_channels(last)) {
                    (true, false) => Layout::Nchw,
                    (false, true) => Layout::Nhwc,
                    _ => bail!(
                        "the shape {} of the input {name:?} does not show whether channels come first or last; give \
                         images.layout (nchw or nhwc)",
                        show(input)
                    ),
                };
                let order = if layout == Layout::Nchw { "nchw" } else { "nhwc" };
                notes.push(format!("the input {name:?} looks like layout: {order} by its shape {}", show(input)));
                layout
            }
        };
        let [a, b, c] = axes else { bail!("the input {name:?} has too few axes") };
        let (channels, height, width) = match layout {
            Layout::Nchw => (*a, *b, *c),
            Layout::Nhwc => (*c, *a, *b),
        };
        let side = |d: Option<u64>| d.map(u32::try_from).transpose();
        Ok(Axes { layout, has_batch, channels, height: side(height)?, width: side(width)? })
    }
}

/// What is fixed, by the model or by `--dim`.
fn sizes(shape: &[Dim], input: &Input, options: &Options) -> Vec<Option<u64>> {
    let unnamed = |axis: usize| options.dims.get(&format!("{}.{axis}", input.name)).copied();
    shape.iter().enumerate().map(|(axis, d)| d.bind(&options.dims).known().or_else(|| unnamed(axis))).collect()
}

fn show(input: &Input) -> String {
    let dims: Vec<String> = input.shape.iter().flatten().map(ToString::to_string).collect();
    format!("[{}]", dims.join(", "))
}
