//! From pixels to the numbers that the model takes.

use anyhow::{Result, ensure};
use image::RgbImage;
use planish_ir::DType;

use super::settings::{Colors, Images, Layout, Preprocess};
use crate::data::inputs::Input;

/// One factor and one offset per channel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scaling {
    factor: [f64; 3],
    offset: [f64; 3],
}

impl Scaling {
    const NONE: Scaling = Scaling { factor: [1.0; 3], offset: [0.0; 3] };

    /// Settles the numbers for an input.
    pub(super) fn resolve(images: &Images, input: &Input, colors: Colors, notes: &mut Vec<String>) -> Result<Scaling> {
        let says_nothing = images.scale.is_none() && images.mean.is_none() && images.std.is_none();
        if input.dtype == DType::U8 {
            ensure!(
                says_nothing,
                "the input {:?} takes pixels from 0 to 255 as they are (uint8); leave out scale, mean and std",
                input.name
            );
            return Ok(Scaling::NONE);
        }
        if says_nothing && images.preprocess.is_none() {
            notes.push(
                "pixels are scaled to 0..1; if the model was trained with others, give preprocess, or scale, mean and std"
                    .to_owned(),
            );
        }
        let of_255 = 1.0 / 255.0;
        let (scale, mean, std): (f64, [f64; 3], [f64; 3]) = match images.preprocess {
            None | Some(Preprocess::Unit | Preprocess::Yolo) => (of_255, [0.0; 3], [1.0; 3]),
            Some(Preprocess::Imagenet) => (of_255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            Some(Preprocess::Clip) => {
                (of_255, [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
            }
            Some(Preprocess::Tensorflow) => (1.0 / 127.5, [1.0; 3], [1.0; 3]),
            // Red, green, blue here, and turned below.
            Some(Preprocess::Caffe) => (1.0, [123.68, 116.779, 103.939], [1.0; 3]),
        };
        let ordered = |[r, g, b]: [f64; 3]| match colors {
            Colors::Rgb => [r, g, b],
            Colors::Bgr => [b, g, r],
            // One channel has the mean of what the three have.
            Colors::Gray => [(r + g + b) / 3.0; 3],
        };
        let scale = images.scale.unwrap_or(scale);
        let mean = given(&images.mean, colors, "mean")?.unwrap_or_else(|| ordered(mean));
        let std = given(&images.std, colors, "std")?.unwrap_or_else(|| ordered(std));
        let mut scaling = Scaling::NONE;
        for (c, (m, s)) in mean.iter().zip(&std).enumerate() {
            scaling.factor[c] = scale / s;
            scaling.offset[c] = -m / s;
        }
        Ok(scaling)
    }

    /// Appends the numbers of an image.
    pub(super) fn add(&self, image: &RgbImage, colors: Colors, layout: Layout, values: &mut Vec<f32>) {
        let channels: &[usize] = match colors {
            Colors::Rgb => &[0, 1, 2],
            Colors::Bgr => &[2, 1, 0],
            Colors::Gray => &[0],
        };
        let pixel = |p: &[u8; 3], source: usize| match colors {
            Colors::Gray => luma(p),
            Colors::Rgb | Colors::Bgr => p.get(source).copied().unwrap_or_default(),
        };
        let tables: Vec<[f32; 256]> = (0..channels.len()).map(|c| self.table(c)).collect();
        let pixels = image.as_raw().as_chunks::<3>().0;
        values.reserve(pixels.len().saturating_mul(channels.len()));
        match layout {
            Layout::Nchw => {
                for (table, &source) in tables.iter().zip(channels) {
                    values.extend(pixels.iter().map(|p| table[usize::from(pixel(p, source))]));
                }
            }
            Layout::Nhwc => {
                for p in pixels {
                    let row = tables.iter().zip(channels);
                    values.extend(row.map(|(table, &source)| table[usize::from(pixel(p, source))]));
                }
            }
        }
    }

    /// What every level of a channel becomes.
    fn table(&self, channel: usize) -> [f32; 256] {
        let (factor, offset) = (self.factor[channel.min(2)], self.offset[channel.min(2)]);
        std::array::from_fn(|level| (level as f64 * factor + offset) as f32)
    }
}

/// Numbers of the user, one per channel.
fn given(values: &Option<Vec<f64>>, colors: Colors, key: &str) -> Result<Option<[f64; 3]>> {
    let Some(values) = values else { return Ok(None) };
    match (values.as_slice(), colors) {
        (&[one], _) => Ok(Some([one; 3])),
        (&[a, b, c], Colors::Rgb | Colors::Bgr) => Ok(Some([a, b, c])),
        _ => anyhow::bail!("images.{key}: {} numbers are given for {} channels", values.len(), colors.channels()),
    }
}

/// Brightness by ITU-R 601, rounded.
fn luma(&[r, g, b]: &[u8; 3]) -> u8 {
    let sum = u32::from(r) * 19595 + u32::from(g) * 38470 + u32::from(b) * 7471 + 0x8000;
    (sum >> 16).min(255) as u8
}
