//! What a pipeline says of images.

use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Images as samples. A number of the model is (pixel · scale − mean) / std, of a pixel from 0 to 255.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Images {
    /// A folder of .jpg, .jpeg and .png files; its subfolders count.
    pub folder: PathBuf,
    /// The input that takes them, where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// Where the other settings start from: a usual way to prepare images. Each of them can be overridden.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preprocess: Option<Preprocess>,
    /// New size: one number for both sides, or [height, width].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resize: Option<Size>,
    /// How the new size is reached; by default `cover` for one number and `stretch` for two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fit: Option<Fit>,
    /// Gray level, 0 to 255, of what `fit: pad` adds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fill: Option<u8>,
    /// Both sides are brought to the nearest multiple of this, for networks without a fixed size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multiple: Option<u32>,
    /// Size of the middle that is cut out after resizing: one number for both sides, or [height, width].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crop: Option<Size>,
    /// Order of axes; by default what the model's input looks like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<Layout>,
    /// Order of channels; by default rgb, or gray where the model has one channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub colors: Option<Colors>,
    /// How pixels in between are computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interpolation: Option<Interpolation>,
    /// Factor of the pixels before anything else; 1/255 = 0.00392156862745098 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
    /// Subtracted after scaling: one number per channel in the order of `colors`, or one for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean: Option<Vec<f64>>,
    /// Divides last: one number per channel in the order of `colors`, or one for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub std: Option<Vec<f64>>,
}

/// Usual ways to prepare images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Preprocess {
    /// As torchvision and timm do for ImageNet: 8/7 of the size, the middle of it, RGB with the mean and deviation of ImageNet.
    Imagenet,
    /// As for networks from Caffe: geometry as imagenet, BGR from 0 to 255 minus the mean.
    Caffe,
    /// As for Inception and the TensorFlow ports: geometry as imagenet, RGB from -1 to 1.
    Tensorflow,
    /// As for CLIP: bicubic, the shorter side to the size, the middle of it, RGB with its own mean and deviation.
    Clip,
    /// As for YOLO: fitted into the size, gray bars around it, RGB from 0 to 1.
    Yolo,
    /// Stretched to the size, RGB from 0 to 1.
    Unit,
}

/// Height and width.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a number of pixels, or [height, width]")]
pub enum Size {
    /// Of both sides.
    Both(u32),
    /// Height, width.
    Each([u32; 2]),
}

/// How an image gets a size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Fit {
    /// As small as possible while both sides are at least the size; the ratio of the sides stays.
    Cover,
    /// As large as possible while no side exceeds the size; the ratio of the sides stays.
    Contain,
    /// As `contain`, with bars around it up to the size.
    Pad,
    /// Exactly the size; the ratio of the sides changes.
    Stretch,
}

/// Order of axes, without a batch axis where the model has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// Channels before rows and columns.
    Nchw,
    /// Channels last.
    Nhwc,
}

/// Order of channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Colors {
    /// Red first.
    Rgb,
    /// Blue first.
    Bgr,
    /// Brightness alone, by ITU-R 601 as in most loaders.
    Gray,
}

/// Filters, made wider where an image shrinks, as PIL and torchvision do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// The nearest pixel.
    Nearest,
    /// Linear.
    #[default]
    Bilinear,
    /// Cubic with a = -0.5.
    Bicubic,
    /// Lanczos with three lobes.
    Lanczos,
}

impl Size {
    /// Height and width.
    pub(super) const fn sides(self) -> (u32, u32) {
        match self {
            Size::Both(n) => (n, n),
            Size::Each([height, width]) => (height, width),
        }
    }
}

impl Colors {
    /// How many channels there are.
    pub(super) const fn channels(self) -> u64 {
        match self {
            Colors::Rgb | Colors::Bgr => 3,
            Colors::Gray => 1,
        }
    }
}

/// The largest side that can be asked for; more is a slip.
const MAX_SIDE: u32 = 16384;

impl Images {
    /// Fails on settings that make no sense; the message names the key.
    pub fn check(&self) -> Result<()> {
        for (key, size) in [("resize", self.resize), ("crop", self.crop)] {
            let sides = size.map(Size::sides);
            if let Some((height, width)) = sides
                && (!(1..=MAX_SIDE).contains(&height) || !(1..=MAX_SIDE).contains(&width))
            {
                bail!("images.{key}: sides from 1 to {MAX_SIDE} pixels are possible");
            }
        }
        ensure!(
            self.multiple.is_none_or(|m| (1..=1024).contains(&m)),
            "images.multiple: a number from 1 to 1024 is needed"
        );
        ensure!(
            self.scale.is_none_or(|s| s.is_finite() && s != 0.0),
            "images.scale: a finite number other than 0 is needed"
        );
        for (key, values, may_be_zero) in [("mean", &self.mean, true), ("std", &self.std, false)] {
            let Some(values) = values else { continue };
            ensure!(
                matches!(values.len(), 1 | 3) && values.iter().all(|v| v.is_finite() && (may_be_zero || *v != 0.0)),
                "images.{key}: one finite number{} is needed, or one per channel",
                if may_be_zero { "" } else { " other than 0" }
            );
        }
        ensure!(self.fill.is_none() || self.fits_by(Fit::Pad), "images.fill: it is for fit: pad");
        ensure!(
            self.fit.is_none() || self.resize.is_some() || self.preprocess.is_some(),
            "images.fit: it says how resize is reached, but there is no resize"
        );
        Ok(())
    }

    fn fits_by(&self, fit: Fit) -> bool {
        self.fit.map_or(self.preprocess == Some(Preprocess::Yolo), |f| f == fit)
    }

    /// The order of channels for a model that has so many.
    pub(super) fn colors(&self, channels: Option<u64>) -> Result<Colors> {
        let usual = if self.preprocess == Some(Preprocess::Caffe) { Colors::Bgr } else { Colors::Rgb };
        let colors = self.colors.unwrap_or(if channels == Some(1) { Colors::Gray } else { usual });
        match channels {
            Some(n) if n != colors.channels() => bail!(
                "the model takes {n} channels, but colors: {} makes {}",
                format!("{colors:?}").to_lowercase(),
                colors.channels()
            ),
            _ => Ok(colors),
        }
    }
}
