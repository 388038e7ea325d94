//! What a compiled model says about where it comes from, and how it gets to the disk.
//!
//! The hashes of the input take as long as everything else, so they are computed on a thread of their own. For a model in
//! one file even the writing does not wait: the hash is entered when the rest is on its way.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
    thread::{Scope, ScopedJoinHandle},
};

use planish_ir::Model;
use planish_passes::{StepConfig, Target};
use planish_proto::{Late, MappedFile, Written};
use serde::Serialize;

use crate::{
    cli::ExternalData,
    data::Samples,
    failure::{Kind, OrFail, Result},
    model_file::{self, ModelFile},
    pipeline::{Calibration, Pipeline, Verify, Version},
};

/// Stands in the message for a hash that is still being computed.
const PLACEHOLDER: &str = "planish-placeholder-for-the-hash-of-the-input-0123456789abcdefgh";

/// Below this many bytes of constants no model needs a second file, so the name of that file cannot depend on the hash.
const SURELY_ONE_FILE: u64 = 1 << 30;

/// BLAKE3 of the files of a model, on their way.
pub struct Hashes<'s> {
    task: LazyLock<Vec<String>, Box<dyn FnOnce() -> Vec<String> + Send + 's>>,
    count: usize,
}

impl<'s> Hashes<'s> {
    /// Starts to compute them.
    pub fn start<'e>(scope: &'s Scope<'s, 'e>, files: Vec<Arc<MappedFile>>) -> Hashes<'s> {
        let count = files.len();
        let task: ScopedJoinHandle<'s, Vec<String>> =
            scope.spawn(move || files.iter().map(|f| model_file::hash(f)).collect());
        // A panic there is a bug here: a model without its provenance must not be written as if all were well.
        let wait = || task.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Hashes { task: LazyLock::new(Box::new(wait)), count }
    }

    /// Waits for them. The model's own file comes first.
    pub fn wait(&self) -> &[String] {
        &self.task
    }
}

/// What goes into the metadata of a compiled model, under the key `planish`, as JSON.
#[derive(Serialize)]
struct Provenance<'a> {
    planish: &'a str,
    input_blake3: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    calibration_blake3: Option<String>,
    pipeline: Recorded<'a>,
}

/// What of a pipeline determines the result. Where files lie on this machine does not, so only their names are kept.
#[derive(Serialize)]
struct Recorded<'a> {
    version: Version,
    target: Target,
    #[serde(skip_serializing_if = "Option::is_none")]
    calibration: Option<Calibration>,
    passes: &'a [StepConfig],
    verify: &'a Verify,
}

impl<'a> Recorded<'a> {
    fn of(pipeline: &'a Pipeline) -> Recorded<'a> {
        let name =
            |p: &mut PathBuf| *p = p.file_name().map(|n| n.to_string_lossy().into_owned().into()).unwrap_or_default();
        let mut calibration = pipeline.calibration.clone();
        if let Some(c) = &mut calibration {
            // How statistics were come by is of no meaning for them.
            (c.cache, c.memory) = (None, None);
            c.paths().for_each(name);
        }
        let Pipeline { version, target, passes, verify, .. } = pipeline;
        Recorded { version: *version, target: *target, calibration, passes, verify }
    }
}

/// BLAKE3 of the files of samples: of a single one as `b3sum` prints it, of several that of what `b3sum` prints for them in
/// their folder.
fn calibration_hash(samples: &Samples) -> Result<Option<String>> {
    match samples.files.as_slice() {
        [] => Ok(None),
        [(_, path)] => model_file::hash_file(path).map(Some),
        files => {
            let mut list = String::new();
            for (name, path) in files {
                list += &format!("{}  {name}\n", model_file::hash_file(path)?);
            }
            Ok(Some(blake3::hash(list.as_bytes()).to_hex().to_string()))
        }
    }
}

fn constant_bytes(model: &Model) -> u64 {
    let mut bytes: u64 = 0;
    model.graph.walk(&mut |g| {
        bytes = g.values().filter_map(|(_, v)| v.constant()).fold(bytes, |sum, t| sum.saturating_add(t.byte_len()));
    });
    bytes
}

/// Where and how to write.
#[derive(Debug, Clone, Copy)]
pub struct Destination<'a> {
    /// The file.
    pub path: &'a Path,
    /// Where weights go.
    pub external: ExternalData,
    /// Wait for the disk.
    pub sync: bool,
}

/// Enters the provenance into a model and writes it.
pub fn write(
    model: &mut Model,
    source: &ModelFile,
    hashes: &Hashes<'_>,
    pipeline: &Pipeline,
    samples: &Samples,
    to: Destination<'_>,
) -> Result<Written> {
    let one_file = match to.external {
        ExternalData::Never => true,
        ExternalData::Auto => constant_bytes(model) < SURELY_ONE_FILE,
        ExternalData::Always => false,
    };
    let is_late = one_file && hashes.count == 1;
    let placeholder = [PLACEHOLDER.to_owned()];
    let provenance = Provenance {
        planish: env!("CARGO_PKG_VERSION"),
        input_blake3: if is_late { &placeholder } else { hashes.wait() },
        calibration_blake3: pipeline.calibration.as_ref().map(|_| calibration_hash(samples)).transpose()?.flatten(),
        pipeline: Recorded::of(pipeline),
    };
    let text = serde_json::to_string(&provenance).or_fail(Kind::Internal)?;
    model.metadata.insert("planish".to_owned(), text.clone());
    let value = || hashes.wait().concat().into_bytes();
    let late = is_late.then_some(Late { placeholder: PLACEHOLDER.as_bytes(), value: &value });
    model_file::save(model, &source.sources, to.path, to.external, &text, to.sync, late)
}
