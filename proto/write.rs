//! From a message to files: in one piece or with external data, streaming, and atomically.
//!
//! Neither the encoded message nor a weight is ever held in memory. When a model has a data file, two files have to change
//! together, which no system offers. So the data file gets a name of its own, derived from its content, and appears first; the
//! model's rename then switches from the old pair to the new one, at whatever moment the process is killed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use prost::Message;

use crate::atomic::{LENGTHS, Pending, Target};
use crate::error::{Error, Result};
use crate::external::{self, DataFile};
use crate::limits::MAX_MESSAGE_BYTES;
use crate::onnx::ModelProto;
use crate::sources::Sources;
use crate::stream::Stream;

/// Whether weights go to a file of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum External {
    /// Only if one file cannot hold the model.
    #[default]
    Auto,
    /// Every initializer from the threshold on.
    Always,
    /// One file, or an error.
    Never,
}

/// How to write a model.
#[derive(Clone, Debug)]
pub struct SaveOptions {
    /// Whether weights go to a file of their own.
    pub external: External,
    /// Initializers of at least this many bytes do, if any.
    pub threshold_bytes: u64,
    /// The data file's name. It has to be derived from whatever determines its content, as an existing file of that name is
    /// taken to be equal. By default it is `<stem>.<hash of the content>.data`, at the price of reading the weights once more.
    pub data_name: Option<String>,
    /// Wait until everything is on the disk before renaming, so that the old or the new model survives even a power failure.
    /// Without it they survive the end of the process, whatever ends it.
    pub sync: bool,
}

impl Default for SaveOptions {
    fn default() -> Self {
        Self { external: External::Auto, threshold_bytes: 1024, data_name: None, sync: false }
    }
}

/// A value in the message's metadata that becomes known while the weights are being written.
pub struct Late<'a> {
    /// What stands in the metadata in its place; as long as the value, and nowhere else in the tail of the message.
    pub placeholder: &'a str,
    /// Waits for the value.
    pub known: &'a dyn Fn() -> Known,
}

/// What a [`Late`] value turns out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Replaces the placeholder.
    pub value: String,
    /// The data file's name, should there be one, in place of that of the options and under the same condition.
    pub data_name: String,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Size of all files together.
    pub bytes: u64,
    /// The model, and its data file if it has one.
    pub files: Vec<PathBuf>,
}

/// Write `model` to `path`, replacing what is there in one step.
///
/// Bytes that `sources` knows are copied from file to file; external data of `model` is taken from there too. `path` may be the
/// file that `model` comes from. If it is a symbolic link, the file that it means is replaced, and a data file lies beside that.
/// A data file of the replaced model is removed if this crate named it.
///
/// # Errors
/// If external data cannot be had, the model does not fit into one file and may not use or does not fit with a second one, the
/// place cannot be written to, or writing fails. Whatever was at `path` is then untouched.
pub fn save(model: ModelProto, sources: &Sources, path: impl AsRef<Path>, options: &SaveOptions) -> Result<Written> {
    save_with(model, sources, path, options, None)
}

/// [`save`], with a value that is entered last.
///
/// # Errors
/// Those of [`save`], and if the placeholder is not in the message's metadata, or that is not in its tail.
pub fn save_with(
    mut model: ModelProto,
    sources: &Sources,
    path: impl AsRef<Path>,
    options: &SaveOptions,
    mut late: Option<Late<'_>>,
) -> Result<Written> {
    let target = Target::resolve(path.as_ref())?;
    external::inline(&mut model, sources)?;
    let data = move_out(&mut model, sources, &target, options, late.is_some())?;
    check_size(&model, &target, options)?;

    let replaced = external::own_data_files(&target);
    let start = |place: &Target, bytes: u64, fill: &dyn Fn(&mut Stream<'_>)| -> Result<(Pending, u64)> {
        let mut pending = place.create()?;
        pending.reserve(bytes)?;
        let mut stream = Stream::new(pending.file(), sources);
        fill(&mut stream);
        let bytes = stream.finish().map_err(Error::io("write", &place.path))?;
        Ok((pending, bytes))
    };
    let data = match data {
        Some((content, place)) => {
            let (mut pending, bytes) = start(&place, content.byte_len(), &|stream| content.write(stream))?;
            // The message is yet to be written, so it can say from the start what is known by now.
            if let Some(late) = late.take() {
                let Known { value, data_name } = (late.known)();
                external::check_name(&data_name, &target)?;
                external::rename(&mut model, &data_name);
                enter(&mut model, late.placeholder, &value).map_err(Error::io("write", &target.path))?;
                check_size(&model, &target, options)?;
                pending.set_path(target.folder.join(data_name));
            }
            Some((pending, bytes))
        }
        None => None,
    };
    let (mut message, bytes) = start(&target, model.encoded_len() as u64, &|stream| stream.message(&model))?;
    if let Some(late) = late {
        let value = (late.known)().value;
        message.replace(late.placeholder.as_bytes(), value.as_bytes()).map_err(Error::io("write", &target.path))?;
    }
    let mut written = Written { bytes, files: vec![target.path.clone()] };
    let data = data.map(|(pending, bytes)| {
        written.bytes += bytes;
        written.files.push(pending.path().to_owned());
        pending
    });
    if options.sync {
        data.iter().chain([&message]).try_for_each(Pending::sync)?;
    }

    commit(data, message)?;
    if options.sync {
        target.sync_folder()?;
    }
    for name in replaced {
        let path = target.folder.join(name);
        if !written.files.contains(&path) {
            // The model is written; a file that stays behind does no harm.
            let _ = fs::remove_file(path);
        }
    }
    Ok(written)
}

/// Refuse a message that readers refuse.
fn check_size(model: &ModelProto, target: &Target, options: &SaveOptions) -> Result<()> {
    let bytes = model.encoded_len() as u64;
    if bytes <= MAX_MESSAGE_BYTES {
        return Ok(());
    }
    let advice = match options.external {
        External::Never => "allow external data",
        External::Auto | External::Always => {
            "too much of it is not in raw initializers, which alone can move to a data file; fold constants first"
        }
    };
    Err(Error::TooLarge { path: target.path.clone(), bytes, advice })
}

/// Replace a placeholder in the metadata of a message.
fn enter(model: &mut ModelProto, placeholder: &str, value: &str) -> io::Result<()> {
    let mut texts = model.metadata_props.iter_mut().filter_map(|p| p.value.as_mut());
    match texts.find(|text| !placeholder.is_empty() && text.contains(placeholder)) {
        Some(text) if placeholder.len() == value.len() => *text = text.replacen(placeholder, value, 1),
        Some(_) => return Err(io::Error::new(io::ErrorKind::InvalidInput, LENGTHS)),
        None => return Err(io::Error::new(io::ErrorKind::InvalidInput, "a late value has no place in the metadata")),
    }
    Ok(())
}

/// Move weights of `model` to a data file if `options` or its size ask for it: what is in that file, and where it goes.
fn move_out(
    model: &mut ModelProto,
    sources: &Sources,
    target: &Target,
    options: &SaveOptions,
    is_named_late: bool,
) -> Result<Option<(DataFile, Target)>> {
    if let Some(name) = &options.data_name {
        external::check_name(name, target)?;
    }
    let wanted = match options.external {
        External::Always => true,
        External::Never => false,
        External::Auto => model.encoded_len() as u64 > MAX_MESSAGE_BYTES,
    };
    if !wanted {
        return Ok(None);
    }
    let content = DataFile::plan(model, options.threshold_bytes);
    if content.is_empty() {
        return Ok(None);
    }
    let name = match &options.data_name {
        // Until then an error speaks of the model.
        _ if is_named_late => None,
        Some(name) => Some(name.clone()),
        None => Some(content.name(target, sources)?),
    };
    content.refer(model, options.threshold_bytes, name.as_deref().unwrap_or(external::UNNAMED));
    let path = name.map_or_else(|| target.path.clone(), |name| target.folder.join(name));
    Ok(Some((content, Target { path, folder: target.folder.clone() })))
}

/// Rename the data file first: until the model's rename nobody refers to it.
fn commit(data: Option<Pending>, message: Pending) -> Result<()> {
    let Some(data) = data else { return message.commit() };
    let path = data.path().to_owned();
    let is_new = !path.exists();
    data.commit()?;
    let done = message.commit();
    if done.is_err() && is_new {
        let _ = fs::remove_file(path);
    }
    done
}
