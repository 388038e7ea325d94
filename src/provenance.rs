//! What a compiled model says about where it comes from, and how it gets to the disk.
//!
//! The hashes of the input take as long as everything else, so they are computed on a thread of their own. Not even the
//! writing waits for them: they are entered when the weights are on their way.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
    thread::{Scope, ScopedJoinHandle},
};

use planish_ir::Model;
use planish_passes::{StepConfig, Target};
use planish_proto::{Known, Late, MappedFile, Written};
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
    let placeholders = vec![PLACEHOLDER.to_owned(); hashes.count];
    let provenance = Provenance {
        planish: env!("CARGO_PKG_VERSION"),
        input_blake3: &placeholders,
        calibration_blake3: pipeline.calibration.as_ref().map(|_| calibration_hash(samples)).transpose()?.flatten(),
        pipeline: Recorded::of(pipeline),
    };
    let text = serde_json::to_string(&provenance).or_fail(Kind::Internal)?;
    model.metadata.insert("planish".to_owned(), text.clone());
    // As the text of the list has them, so that all are one value.
    let joined = |hashes: &[String]| hashes.join("\",\"");
    let placeholder = joined(&placeholders);
    let known = || {
        let value = joined(hashes.wait());
        let identity = text.replacen(&placeholder, &value, 1);
        Known { data_name: model_file::data_name(to.path, &identity), value }
    };
    let late = Late { placeholder: &placeholder, known: &known };
    model_file::save(model, &source.sources, to.path, to.external, to.sync, Some(late))
}
