//! From the size of an image to the size that the model takes.

use anyhow::{Result, bail, ensure};
use image::{
    Rgb, RgbImage,
    imageops::{self, FilterType},
};

use super::settings::{Fit, Images, Interpolation, Preprocess, Size};

/// The largest image that is made; only a very long and thin one can become as large.
const MAX_PIXELS: u64 = 1 << 27;

/// Resizing and cropping, with all sizes settled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Geometry {
    /// Height, width, and how they are reached; the image's own size without it.
    resize: Option<(u32, u32, Fit)>,
    fill: u8,
    multiple: u32,
    /// Height, width.
    crop: Option<(u32, u32)>,
    filter: FilterType,
}

impl Geometry {
    /// Settles the sizes for a model that fixes these.
    pub(super) fn resolve(
        images: &Images,
        height: Option<u32>,
        width: Option<u32>,
        notes: &mut Vec<String>,
    ) -> Result<Geometry> {
        use Preprocess::{Caffe, Clip, Imagenet, Tensorflow, Unit, Yolo};
        let model = height.zip(width);
        let interpolation = match (images.interpolation, images.preprocess) {
            (Some(given), _) => given,
            (None, Some(Clip)) => Interpolation::Bicubic,
            (None, _) => Interpolation::default(),
        };
        let mut geometry = Geometry {
            resize: None,
            fill: images.fill.unwrap_or(if images.preprocess == Some(Yolo) { 114 } else { 0 }),
            multiple: images.multiple.unwrap_or(1),
            crop: images.crop.map(Size::sides),
            filter: match interpolation {
                Interpolation::Nearest => FilterType::Nearest,
                Interpolation::Bilinear => FilterType::Triangle,
                Interpolation::Bicubic => FilterType::CatmullRom,
                Interpolation::Lanczos => FilterType::Lanczos3,
            },
        };
        let mut usual = |size: u32| {
            model.unwrap_or_else(|| {
                notes.push(format!(
                    "the model leaves the size of images open, and they are made {size} x {size}; images.crop or \
                     images.resize sets another size"
                ));
                (size, size)
            })
        };
        match (images.resize, images.preprocess) {
            (Some(size), preprocess) => {
                let default = match (size, preprocess) {
                    (_, Some(Yolo)) => Fit::Pad,
                    (Size::Both(_), _) => Fit::Cover,
                    (Size::Each(_), _) => Fit::Stretch,
                };
                let (h, w) = size.sides();
                geometry.resize = Some((h, w, images.fit.unwrap_or(default)));
            }
            (None, Some(Imagenet | Caffe | Tensorflow | Clip)) => {
                let (h, w) = geometry.crop.unwrap_or_else(|| usual(224));
                geometry.crop = Some((h, w));
                // 256 for 224, and the same share for other sizes.
                let larger = |n: u32| if images.preprocess == Some(Clip) { n } else { share(n, 8, 7) };
                geometry.resize = Some((larger(h), larger(w), images.fit.unwrap_or(Fit::Cover)));
            }
            (None, Some(Yolo)) => {
                let (h, w) = usual(640);
                geometry.resize = Some((h, w, images.fit.unwrap_or(Fit::Pad)));
            }
            (None, Some(Unit) | None) if geometry.crop.is_none() => {
                geometry.resize = model.map(|(h, w)| (h, w, images.fit.unwrap_or(Fit::Stretch)));
            }
            (None, Some(Unit) | None) => {}
        }
        // What is larger than the model takes is cut down to it.
        if geometry.crop.is_none() && matches!(geometry.resize, Some((_, _, Fit::Cover))) {
            geometry.crop = model;
        }
        geometry.check(height, width)?;
        Ok(geometry)
    }

    /// Fails if the sizes are not those of the model.
    fn check(&self, height: Option<u32>, width: Option<u32>) -> Result<()> {
        let Some((h, w)) = self.size() else {
            ensure!(
                height.is_none() && width.is_none(),
                "the model fixes the size of images to {} x {} (height x width); give resize: [HEIGHT, WIDTH], or crop",
                side(height),
                side(width)
            );
            return Ok(());
        };
        if height.is_some_and(|n| n != h) || width.is_some_and(|n| n != w) {
            bail!(
                "images come out as {h} x {w} (height x width), but the model takes {} x {}; change resize or crop",
                side(height),
                side(width)
            );
        }
        Ok(())
    }

    /// Height and width of every result, if they are the same for all images.
    pub(super) fn size(&self) -> Option<(u32, u32)> {
        match (self.crop, self.resize) {
            (Some(size), _) => Some(size),
            (None, Some((h, w, Fit::Stretch | Fit::Pad))) => {
                Some((round_to(h, self.multiple), round_to(w, self.multiple)))
            }
            (None, _) => None,
        }
    }

    /// True if all results have the same size.
    pub(super) fn is_fixed(&self) -> bool {
        self.size().is_some()
    }

    /// Resizes and crops an image.
    pub(super) fn apply(&self, image: RgbImage) -> Result<RgbImage> {
        let (height, width) = (image.height(), image.width());
        ensure!(height > 0 && width > 0, "it has no pixels");
        let (h, w) = self.sides(height, width);
        ensure!(
            u64::from(h) * u64::from(w) <= MAX_PIXELS,
            "it is {height} x {width} pixels (height x width), too long and thin to be resized to {h} x {w}"
        );
        let mut image = self.resized(image, height, width);
        if let Some((h, w)) = self.crop {
            ensure!(
                image.height() >= h && image.width() >= w,
                "it is {} x {} pixels (height x width) after resizing, too small to cut out {h} x {w}; give a larger \
                 resize",
                image.height(),
                image.width()
            );
            let (y, x) = (middle(image.height(), h), middle(image.width(), w));
            if (image.height(), image.width()) != (h, w) {
                image = imageops::crop_imm(&image, x, y, w, h).to_image();
            }
        }
        Ok(image)
    }

    /// Height and width of the result for an image of this height and width.
    pub(super) fn size_of(&self, (height, width): (u32, u32)) -> (u32, u32) {
        self.size().unwrap_or_else(|| self.sides(height, width))
    }

    /// Height and width after resizing, without bars.
    fn sides(&self, height: u32, width: u32) -> (u32, u32) {
        let (h, w) = match self.resize {
            None => (height, width),
            Some((h, w, Fit::Stretch)) => (h, w),
            Some((h, w, fit)) => {
                // The side that decides gets its size exactly, the other one follows.
                let by_height = u64::from(h) * u64::from(width) >= u64::from(w) * u64::from(height);
                match (fit == Fit::Cover, by_height) {
                    (true, true) => (h, follow(width, h, height)),
                    (true, false) => (follow(height, w, width), w),
                    (false, true) => (share(height, w, width), w),
                    (false, false) => (h, share(width, h, height)),
                }
            }
        };
        match self.resize {
            // The bars make up for what is missing.
            Some((_, _, Fit::Pad)) => (h, w),
            _ => (round_to(h, self.multiple), round_to(w, self.multiple)),
        }
    }

    fn resized(&self, image: RgbImage, height: u32, width: u32) -> RgbImage {
        let sides = self.sides(height, width);
        let image = match sides == (height, width) {
            true => image,
            false => imageops::resize(&image, sides.1, sides.0, self.filter),
        };
        let Some((h, w, Fit::Pad)) = self.resize else { return image };
        let (h, w) = (round_to(h, self.multiple), round_to(w, self.multiple));
        let mut framed = RgbImage::from_pixel(w, h, Rgb([self.fill; 3]));
        let (y, x) = (h.saturating_sub(image.height()) / 2, w.saturating_sub(image.width()) / 2);
        imageops::replace(&mut framed, &image, i64::from(x), i64::from(y));
        framed
    }
}

/// `n` · `times` / `over`, rounded down as torchvision does, at least 1.
fn follow(n: u32, times: u32, over: u32) -> u32 {
    let cut = u64::from(n) * u64::from(times) / u64::from(over.max(1));
    u32::try_from(cut).unwrap_or(u32::MAX).max(1)
}

/// Where the middle of so many pixels begins; halves are rounded to even.
const fn middle(of: u32, size: u32) -> u32 {
    let rest = of.saturating_sub(size);
    rest / 2 + (rest & 1 & (rest / 2))
}

/// `n` · `times` / `over`, rounded half up, at least 1.
fn share(n: u32, times: u32, over: u32) -> u32 {
    let (times, over) = (u64::from(times), u64::from(over.max(1)));
    let rounded = (u64::from(n) * times + over / 2) / over;
    u32::try_from(rounded).unwrap_or(u32::MAX).max(1)
}

/// The nearest multiple, at least one.
fn round_to(n: u32, multiple: u32) -> u32 {
    let multiple = multiple.max(1);
    (n.saturating_add(multiple / 2) / multiple).max(1).saturating_mul(multiple)
}

fn side(n: Option<u32>) -> String {
    n.map_or_else(|| "any".to_owned(), |n| n.to_string())
}
