//! Statistics in a folder, for later runs on the same model and samples.
//!
//! A file is named by the BLAKE3 hash of all that its content depends on: the models with their weights, the inputs as the
//! engine sees them, the engine and its version, this version of planish, and what is asked for. It ends with the hash of
//! itself, and one that does not is ignored with a note, as is every other failure here: statistics can always be collected
//! anew.

use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Seek, Write},
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use blake3::{Hash, Hasher};
use planish_ir::{Model, Tensor, onnx::export, verify};
use planish_passes::{
    Samples, Weights,
    calibration::{Asked, Store},
};
use prost::Message;
use rayon::prelude::*;
use tempfile::NamedTempFile;

use crate::{
    failure::{Kind, OrFail, Result},
    report::bytes,
};

/// Begins every file; the number changes with the format.
const MAGIC: &[u8] = b"planish statistics 1\n";
/// Bytes read at a time.
const PIECE: usize = 4 << 20;

/// A folder of statistics.
pub struct Kept<'a> {
    folder: PathBuf,
    /// Reads the models' weights.
    weights: &'a dyn Weights,
    /// Statistics of a kind that can be kept were asked for.
    asked: AtomicBool,
    notes: Mutex<Vec<String>>,
}

impl<'a> Kept<'a> {
    /// Uses a folder, which is made if there is none. Fails if it cannot be.
    pub fn in_folder(folder: &Path, weights: &'a dyn Weights) -> Result<Kept<'a>> {
        fs::create_dir_all(folder)
            .or_fail_with(Kind::Config, || format!("calibration.cache: {} cannot be a folder", folder.display()))?;
        Ok(Kept { folder: folder.to_owned(), weights, asked: AtomicBool::new(false), notes: Mutex::default() })
    }

    /// What the user should know of what happened, a sentence each.
    pub fn notes(&self) -> Vec<String> {
        if !self.asked.load(Ordering::Relaxed) {
            let folder = self.folder.display();
            return vec![format!(
                "nothing was kept in {folder}, or taken from there: no pass had statistics of such a kind"
            )];
        }
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, note: String) {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).push(note);
    }

    fn path(&self, key: &str) -> PathBuf {
        self.folder.join(format!("{}.statistics", key.get(..32).unwrap_or(key)))
    }

    /// Hash of a model: its structure, and its weights as they are.
    fn hash_model(&self, model: &Model) -> Option<Hash> {
        let mut message = export(&verify(model).ok()?);
        let graph = message.graph.as_mut()?;
        let mut weights = Hasher::new();
        for t in &mut graph.initializer {
            let constant = t.name.as_ref().and_then(|n| model.graph.value(model.graph.value_named(n)?)?.constant());
            // What remains is hashed with the structure.
            if let Some(constant) = constant.filter(|c| t.raw_data.is_some() && c.raw().is_some()) {
                t.raw_data = None;
                self.hash_weight(constant, &mut weights).ok()?;
            }
        }
        let mut hasher = Hasher::new();
        hasher.update(&message.encode_to_vec()).update(weights.finalize().as_bytes());
        Some(hasher.finalize())
    }

    /// Through the file, so that nothing stays resident.
    fn hash_weight(&self, tensor: &Tensor, hasher: &mut Hasher) -> io::Result<()> {
        let whole = usize::try_from(tensor.byte_len()).map_err(io::Error::other)?;
        let mut piece = vec![0; whole.min(PIECE)];
        let mut offset = 0;
        while offset < whole {
            let size = PIECE.min(whole - offset);
            let piece = piece.get_mut(..size).unwrap_or_default();
            self.weights.read(tensor, offset, piece)?;
            hasher.update_rayon(piece);
            offset += size;
        }
        Ok(())
    }

    fn read(
        &self,
        path: &Path,
        key: &str,
        count: usize,
        take: Take<'_>,
    ) -> io::Result<std::result::Result<(), String>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        let Some(content) = length.checked_sub(32) else { return Ok(Err("it is too short".to_owned())) };
        let mut hasher = Hasher::new();
        hasher.update_reader((&mut file).take(content))?;
        let mut hash = [0; 32];
        file.read_exact(&mut hash)?;
        if hasher.finalize() != hash {
            return Ok(Err("it was changed or not written to its end".to_owned()));
        }
        file.rewind()?;
        let mut reader = BufReader::new(file).take(content);
        let mut head = vec![0; MAGIC.len() + key.len()];
        reader.read_exact(&mut head)?;
        if head.get(..MAGIC.len()) != Some(MAGIC) || head.get(MAGIC.len()..) != Some(key.as_bytes()) {
            return Ok(Err("it is of something else".to_owned()));
        }
        if read_number(&mut reader)? != count as u64 {
            return Ok(Err("it has another number of statistics".to_owned()));
        }
        let mut record = Vec::new();
        for at in 0..count {
            let size = read_number(&mut reader)?;
            record.clear();
            (&mut reader).take(size).read_to_end(&mut record)?;
            if let Err(e) = take(at, &record) {
                return Ok(Err(e));
            }
        }
        Ok(Ok(()))
    }

    /// In one step: whatever happens, a file of this name is whole.
    fn write(&self, key: &str, count: usize, record: &mut dyn FnMut(usize) -> Vec<u8>) -> io::Result<u64> {
        let mut file = NamedTempFile::new_in(&self.folder)?;
        let mut to = Hashed { inner: BufWriter::new(file.as_file_mut()), hasher: Hasher::new(), bytes: 0 };
        to.write_all(MAGIC)?;
        to.write_all(key.as_bytes())?;
        to.write_all(&(count as u64).to_le_bytes())?;
        for at in 0..count {
            let record = record(at);
            to.write_all(&(record.len() as u64).to_le_bytes())?;
            to.write_all(&record)?;
        }
        let (hash, bytes) = (to.hasher.finalize(), to.bytes);
        to.inner.write_all(hash.as_bytes())?;
        to.inner.flush()?;
        drop(to);
        file.persist(self.path(key)).map_err(|e| e.error)?;
        Ok(bytes)
    }
}

type Take<'t> = &'t mut dyn FnMut(usize, &[u8]) -> std::result::Result<(), String>;

impl Store for Kept<'_> {
    fn key(&self, asked: &Asked<'_>) -> Option<String> {
        self.asked.store(true, Ordering::Relaxed);
        let mut hasher = Hasher::new();
        let mut field = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
        };
        field(MAGIC);
        field(env!("CARGO_PKG_VERSION").as_bytes());
        field(asked.engine.name().as_bytes());
        field(asked.engine.version().as_bytes());
        for model in asked.models {
            field(self.hash_model(model)?.as_bytes());
        }
        // Anew each time: a pass may look at some of the samples only.
        field(hash_samples(asked.samples)?.as_bytes());
        asked.statistics.iter().for_each(|s| field(s.as_bytes()));
        Some(hasher.finalize().to_hex().to_string())
    }

    fn load(&self, key: &str, count: usize, take: Take<'_>) -> bool {
        let path = self.path(key);
        let why = match self.read(&path, key, count, take) {
            Ok(Ok(())) => {
                self.note(format!("{count} statistics were taken from {}", path.display()));
                return true;
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => return false,
            Err(e) => e.to_string(),
            Ok(Err(why)) => why,
        };
        self.note(format!("the statistics in {} were not used, but collected anew: {why}", path.display()));
        false
    }

    fn save(&self, key: &str, count: usize, record: &mut dyn FnMut(usize) -> Vec<u8>) {
        match self.write(key, count, record) {
            Ok(size) => {
                self.note(format!("{count} statistics were kept in {} ({})", self.path(key).display(), bytes(size)))
            }
            Err(e) => self.note(format!("statistics could not be kept in {}: {e}", self.folder.display())),
        }
    }
}

/// Hash of the inputs of all runs, as the engine sees them. `None` if they cannot be had, which the run itself will tell.
fn hash_samples(samples: &dyn Samples) -> Option<Hash> {
    let one = |i: usize| {
        let inputs = samples.get(i).ok()?;
        let mut hasher = Hasher::new();
        for (name, tensor) in inputs.iter() {
            hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes());
            hasher.update(tensor.digest().as_bytes());
        }
        Some(hasher.finalize())
    };
    let hashes: Vec<Hash> = (0..samples.len()).into_par_iter().map(one).collect::<Option<_>>()?;
    let mut hasher = Hasher::new();
    hashes.iter().for_each(|h| {
        hasher.update(h.as_bytes());
    });
    Some(hasher.finalize())
}

fn read_number(reader: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    reader.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Hashes what it hands on.
struct Hashed<W> {
    inner: W,
    hasher: Hasher,
    bytes: u64,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(bytes.get(..written).unwrap_or_default());
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use planish_ir::text::parse;
    use planish_passes::{Engine, EngineError, InMemory, Runnable, Tensors};

    use super::*;

    struct Named(&'static str);

    impl Engine for Named {
        fn name(&self) -> &str {
            self.0
        }

        fn load(&self, _: &Model, _: &[String]) -> std::result::Result<Box<dyn Runnable>, EngineError> {
            Err(EngineError::Failed { message: "it does not run".to_owned() })
        }
    }

    fn model(weight: f32) -> Model {
        let text = r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[N,2] x) => (float[N,2] y) <float[2] w = {1.0, WEIGHT}> { y = Mul (x, w) }"#;
        parse(&text.replace("WEIGHT", &format!("{weight:?}"))).unwrap()
    }

    fn samples(value: f32) -> Vec<Tensors> {
        vec![Tensors::from([("x".to_owned(), Tensor::from_f32([1, 2].as_slice(), &[value, 0.0]).unwrap())])]
    }

    #[test]
    fn keys_tell_apart_what_matters() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::in_folder(dir.path(), &InMemory).unwrap();
        let key = |model: &Model, samples: &[Tensors], engine: &'static str, statistic: &str| {
            let statistics = [statistic.to_owned()];
            let asked = Asked { models: &[model], samples: &samples, engine: &Named(engine), statistics: &statistics };
            kept.key(&asked).unwrap()
        };
        let keys = [
            key(&model(1.0), &samples(1.0), "a", "range"),
            key(&model(2.0), &samples(1.0), "a", "range"),
            key(&model(1.0), &samples(2.0), "a", "range"),
            key(&model(1.0), &samples(1.0), "b", "range"),
            key(&model(1.0), &samples(1.0), "a", "gram"),
            key(&model(1.0), &samples(1.0)[..0], "a", "range"),
        ];
        assert_eq!(keys.iter().collect::<std::collections::BTreeSet<_>>().len(), keys.len());
        assert_eq!(keys[0], key(&model(1.0), &samples(1.0), "a", "range"));
    }

    #[test]
    fn damaged_files_are_ignored_and_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::in_folder(&dir.path().join("new"), &InMemory).unwrap();
        let key = blake3::hash(b"key").to_hex().to_string();
        let records = [b"one".to_vec(), Vec::new(), vec![7; 100_000]];
        let load = |count: usize| {
            let mut found = Vec::new();
            let is_whole = kept.load(&key, count, &mut |at, bytes| {
                assert_eq!(at, found.len());
                found.push(bytes.to_vec());
                Ok(())
            });
            is_whole.then_some(found)
        };
        assert_eq!(load(3), None);
        assert!(kept.notes()[0].contains("no pass had statistics"));
        kept.asked.store(true, Ordering::Relaxed);
        assert!(kept.notes().is_empty());
        kept.save(&key, 3, &mut |at| records[at].clone());
        assert_eq!(load(3).as_deref(), Some(&records[..]));
        assert_eq!(load(2), None);
        let path = kept.path(&key);
        let whole = fs::read(&path).unwrap();
        for at in [0, 30, whole.len() / 2, whole.len() - 1] {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&path, &damaged).unwrap();
            assert_eq!(load(3), None);
            fs::write(&path, &whole[..at]).unwrap();
            assert_eq!(load(3), None);
        }
        assert!(
            kept.notes()
                .last()
                .unwrap()
                .ends_with("not used, but collected anew: it was changed or not written to its end")
        );
        // Under the name of another key.
        fs::write(&path, &whole).unwrap();
        let other = blake3::hash(b"other").to_hex().to_string();
        fs::rename(&path, kept.path(&other)).unwrap();
        assert!(!kept.load(&other, 3, &mut |_, _| Ok(())));
        assert!(kept.notes().last().unwrap().ends_with("it is of something else"));
        kept.save(&key, 3, &mut |at| records[at].clone());
        assert_eq!(load(3).as_deref(), Some(&records[..]));
        // No temporary file stays behind.
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 2);
    }
}
