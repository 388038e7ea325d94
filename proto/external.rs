//! Weights in a file of their own: which, where in it, and under which name.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::{Component, Path};

use bytes::Bytes;

use crate::atomic::Target;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::onnx::tensor_proto::DataLocation;
use crate::onnx::{ModelProto, StringStringEntryProto};
use crate::read;
use crate::sources::Sources;
use crate::stream::Stream;
use crate::tensors::{self, Place};

/// Every weight starts at a multiple of this, so that runtimes can map it.
const ALIGNMENT: u64 = 4096;

/// Stands for the name of a data file that is yet to be named.
pub(crate) const UNNAMED: &str = "unnamed.data";

/// The content of a data file: the weights one after another, equal ones (the very same memory) once.
#[derive(Debug, Default)]
pub(crate) struct DataFile {
    weights: Vec<Bytes>,
    /// By address and length.
    offsets: BTreeMap<(usize, usize), u64>,
    end: u64,
}

impl DataFile {
    /// What moves out of `model` by its size: initializers of at least `threshold` bytes.
    pub(crate) fn plan(model: &mut ModelProto, threshold: u64) -> Self {
        let mut plan = Self::default();
        let Ok(()) = tensors::for_each(model, |place, tensor| {
            if let Some(raw) = tensor.raw_data.as_ref().filter(|raw| moves(place, raw, threshold)) {
                plan.add(raw);
            }
            Ok::<(), Infallible>(())
        });
        plan
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.weights.is_empty()
    }

    /// How long the file becomes.
    pub(crate) const fn byte_len(&self) -> u64 {
        self.end
    }

    /// A name for this content beside the model at `target`: `<stem>.<12 hexadecimal digits>.data`.
    pub(crate) fn name(&self, target: &Target, sources: &Sources) -> Result<String> {
        let mut digest = Digest::new();
        for weight in &self.weights {
            digest.payload(weight, sources).map_err(Error::io("read the weights for", &target.path))?;
        }
        Ok(format!("{}.{}.data", stem(&target.path), digest.hex()))
    }

    /// Replace what [`Self::plan`] chose by references to the file `name`.
    pub(crate) fn refer(&self, model: &mut ModelProto, threshold: u64, name: &str) {
        let Ok(()) = tensors::for_each(model, |place, tensor| {
            let Some(raw) = tensor.raw_data.take_if(|raw| moves(place, raw, threshold)) else { return Ok(()) };
            let offset = self.offsets.get(&key(&raw)).copied().unwrap_or_default();
            tensor.data_location = Some(DataLocation::External.into());
            tensor.external_data = vec![
                entry("location", name.to_owned()),
                entry("offset", offset.to_string()),
                entry("length", raw.len().to_string()),
            ];
            Ok::<(), Infallible>(())
        });
    }

    /// Write the content.
    pub(crate) fn write(&self, stream: &mut Stream<'_>) {
        for weight in &self.weights {
            stream.align(ALIGNMENT);
            stream.bytes(weight);
        }
    }

    fn add(&mut self, raw: &Bytes) {
        if self.offsets.contains_key(&key(raw)) {
            return;
        }
        let offset = self.end.next_multiple_of(ALIGNMENT);
        self.offsets.insert(key(raw), offset);
        self.end = offset + raw.len() as u64;
        self.weights.push(raw.clone());
    }
}

/// Attributes and sparse tensors stay: not every runtime looks for external data there.
fn moves(place: Place, raw: &Bytes, threshold: u64) -> bool {
    place == Place::Initializer && !raw.is_empty() && raw.len() as u64 >= threshold
}

fn key(raw: &Bytes) -> (usize, usize) {
    (raw.as_ptr().addr(), raw.len())
}

fn entry(key: &str, value: String) -> StringStringEntryProto {
    StringStringEntryProto { key: Some(key.to_owned()), value: Some(value) }
}

/// Give the data file that [`DataFile::refer`] called [`UNNAMED`] its name. Nothing else is external by then.
pub(crate) fn rename(model: &mut ModelProto, name: &str) {
    let Ok(()) = tensors::for_each(model, |_, tensor| {
        for entry in tensor.external_data.iter_mut().filter(|entry| entry.key() == "location") {
            entry.value = Some(name.to_owned());
        }
        Ok::<(), Infallible>(())
    });
}

/// Take back external data: every tensor of `model` gets its bytes inline, as slices of the mapped files.
pub(crate) fn inline(model: &mut ModelProto, sources: &Sources) -> Result<()> {
    tensors::for_each(model, |_, tensor| {
        if tensor.data_location() == DataLocation::External {
            tensor.raw_data = Some(sources.external(tensor)?);
            tensor.data_location = None;
            tensor.external_data.clear();
        }
        Ok(())
    })
}

/// The data files that the model now at `target` uses and that bear the name which this crate gives them. Only those can be
/// removed with the model, because nothing else refers to them.
pub(crate) fn own_data_files(target: &Target) -> Vec<String> {
    let mut names = Vec::new();
    // A file that is no model has no data files.
    let Ok(mut old) = read::open(&target.path) else { return names };
    let Ok(()) = tensors::for_each(&mut old.model, |_, tensor| {
        for entry in tensor.external_data.iter().filter(|entry| entry.key() == "location") {
            let name = entry.value();
            if is_own_name(name, &stem(&target.path)) && names.iter().all(|known| known != name) {
                names.push(name.to_owned());
            }
        }
        Ok::<(), Infallible>(())
    });
    names
}

fn is_own_name(name: &str, stem: &str) -> bool {
    let digits = name.strip_prefix(stem).and_then(|rest| rest.strip_prefix('.')?.strip_suffix(".data"));
    digits.is_some_and(|digits| {
        digits.len() == 12 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// Refuse a name that is not one plain file name, or is the model's own.
pub(crate) fn check_name(name: &str, target: &Target) -> Result<()> {
    let mut components = Path::new(name).components();
    let plain = matches!(components.next(), Some(Component::Normal(first)) if first == name);
    let clash = target.path.file_name().is_some_and(|model| model == name);
    if plain && components.next().is_none() && !clash && !name.contains(['\\', ':', '\0']) {
        return Ok(());
    }
    Err(Error::DataName { name: name.to_owned(), path: target.path.clone() })
}

fn stem(path: &Path) -> String {
    path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_are_ours() {
        assert!(is_own_name("out.0123456789ab.data", "out"));
        for other in
            ["out.onnx.data", "out.0123456789AB.data", "out.0123456789abc.data", "x/out.0123456789ab.data", "out"]
        {
            assert!(!is_own_name(other, "out"), "{other}");
        }
        assert!(!is_own_name("a.0123456789ab.data", "out"));
    }

    #[test]
    fn data_names_are_plain() {
        let target = Target { path: "folder/out.onnx".into(), folder: "folder".into() };
        assert!(check_name("out.data", &target).is_ok());
        for bad in ["", ".", "..", "a/b", "/a", "a/", "a\\b", "C:a", "a\0", "out.onnx"] {
            assert!(check_name(bad, &target).is_err(), "{bad:?}");
        }
    }
}
