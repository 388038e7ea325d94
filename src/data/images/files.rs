//! Image files: finding them, and decoding one.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use image::{ImageFormat, ImageReader, RgbImage};

/// What is decoded. Others are known by name, to say what to do about them.
const READ: &[&str] = &["jpeg", "jpg", "png"];
const NOT_READ: &[&str] = &["avif", "bmp", "gif", "heic", "heif", "jp2", "ppm", "tif", "tiff", "webp"];

/// The images of a folder and of its subfolders.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// In the order of their paths.
    pub(super) images: Vec<PathBuf>,
    /// How many files there are of kinds that are not read, by extension.
    others: BTreeMap<String, u64>,
}

impl Found {
    /// What was left out.
    pub(super) fn note(&self) -> Option<String> {
        let list: Vec<String> = self.others.iter().map(|(e, n)| format!("{n} .{e}")).collect();
        let list = list.join(", ");
        (!list.is_empty()).then(|| format!("files left out, because only JPEG and PNG are read: {list}"))
    }
}

/// Looks for images, also in subfolders. Hidden files and links to folders are left out.
pub(super) fn find(folder: &Path) -> Result<Found> {
    let mut found = Found::default();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let place = || format!("cannot read the folder {}", folder.display());
        for entry in fs::read_dir(&folder).with_context(place)? {
            let entry = entry.with_context(place)?;
            let path = entry.path();
            let hidden = entry.file_name().to_string_lossy().starts_with('.');
            match (hidden, entry.file_type().with_context(place)?.is_dir()) {
                (true, _) => {}
                (false, true) => folders.push(path),
                (false, false) => {
                    let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
                    if READ.contains(&extension.as_str()) {
                        found.images.push(path);
                    } else if NOT_READ.contains(&extension.as_str()) {
                        *found.others.entry(extension).or_default() += 1;
                    }
                }
            }
        }
    }
    found.images.sort();
    Ok(found)
}

/// Height and width of an image, by its head.
pub(super) fn size(path: &Path) -> Result<(u32, u32)> {
    let dimensions = open(path).and_then(|r| Ok(r.into_dimensions()?));
    let (width, height) = dimensions.with_context(|| unreadable(path))?;
    Ok((height, width))
}

/// The pixels of a file as 8-bit RGB. Transparency is dropped, gray is repeated, and what Exif says of the orientation is
/// not looked at, as in the loaders that networks are trained with.
pub(super) fn decode(path: &Path) -> Result<RgbImage> {
    let image = open(path).and_then(|r| Ok(r.decode()?)).with_context(|| unreadable(path))?;
    Ok(image.into_rgb8())
}

/// By its content, not its extension: many a .png is a JPEG.
fn open(path: &Path) -> Result<ImageReader<std::io::BufReader<fs::File>>> {
    let reader = ImageReader::open(path)?.with_guessed_format()?;
    match reader.format() {
        Some(ImageFormat::Jpeg | ImageFormat::Png) => Ok(reader),
        Some(other) => bail!("it is {other:?}, but only JPEG and PNG are read"),
        None => bail!("it is neither JPEG nor PNG"),
    }
}

fn unreadable(path: &Path) -> String {
    format!("{} cannot be decoded; mend it, or take it out of the folder", path.display())
}
