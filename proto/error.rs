//! Everything that can go wrong between a file and its message.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::limits::{MAX_MESSAGE_BYTES, NEWEST_IR_VERSION, SizeError};
use crate::location::LocationError;

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure to read or to write a model. The text names the file or the tensor, what is wrong, and where it helps what to do.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// A verb: "open", "map", "write", …
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A folder, a device or a pipe where a file is expected.
    #[error("{} is {what}, not a regular file", path.display())]
    NotAFile {
        /// The path as resolved.
        path: PathBuf,
        /// "a folder" or "a special file".
        what: &'static str,
    },
    /// There is nothing to decode.
    #[error("{origin} is empty: not an ONNX model")]
    Empty {
        /// The file, or "the given bytes".
        origin: String,
    },
    /// The bytes are not an ONNX message.
    #[error("{origin} is not a valid ONNX model: {detail} (at byte {offset} of {size}){hint}")]
    Decode {
        /// The file, or "the given bytes".
        origin: String,
        /// The message and field being read, and what is wrong with it.
        detail: String,
        /// How far decoding came, in bytes from the start.
        offset: u64,
        /// Size of the whole, in bytes.
        size: u64,
        /// What may have happened, starting with ": "; may be empty.
        hint: &'static str,
    },
    /// The bytes decode, but to a message without a graph, as almost any short file may.
    #[error("{origin} has no graph: not an ONNX model")]
    NoGraph {
        /// The file, or "the given bytes".
        origin: String,
    },
    /// Fields that a later version added would be lost on writing, so that the model is refused instead.
    #[error(
        "{origin} has IR version {version}, newer than {NEWEST_IR_VERSION}, the newest that is understood; \
         export it with an older IR version"
    )]
    NewerIrVersion {
        /// The file, or "the given bytes".
        origin: String,
        /// What the model says.
        version: i64,
    },
    /// A tensor's type and shape do not give a size.
    #[error("tensor \"{tensor}\": {source}")]
    Size {
        /// Its name.
        tensor: String,
        /// The reason.
        source: SizeError,
    },
    /// A tensor has more or fewer bytes than its type and shape demand.
    #[error("tensor \"{tensor}\": its data type and shape need {expected} bytes, but it has {found}")]
    WrongLength {
        /// Its name.
        tensor: String,
        /// By type and shape.
        expected: u64,
        /// Stored inline, or claimed by `external_data`.
        found: u64,
    },
    /// `external_data` has no `location`, or a key twice, or a number that is none.
    #[error("tensor \"{tensor}\": external data entry \"{key}\" {problem}")]
    ExternalEntry {
        /// The tensor's name.
        tensor: String,
        /// `location`, `offset` or `length`.
        key: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The external file is not one that a model may refer to, or is not there.
    #[error("tensor \"{tensor}\": external data location \"{location}\" {source}")]
    Location {
        /// The tensor's name.
        tensor: String,
        /// As written in the model, control characters escaped.
        location: String,
        /// The reason.
        source: LocationError,
    },
    /// The external file is shorter than the tensor's place in it.
    #[error("tensor \"{tensor}\" lies at bytes {offset}+{length} of {}, which has only {size}: is the file complete?", path.display())]
    PastEnd {
        /// The tensor's name.
        tensor: String,
        /// The data file.
        path: PathBuf,
        /// Where the tensor starts.
        offset: u64,
        /// Its size in bytes.
        length: u64,
        /// The file's size in bytes.
        size: u64,
    },
    /// Protobuf messages end at 2 GiB.
    #[error(
        "{} would need {bytes} bytes in one file; the format's limit is {MAX_MESSAGE_BYTES}: {advice}",
        path.display()
    )]
    TooLarge {
        /// The file to be written.
        path: PathBuf,
        /// Encoded size.
        bytes: u64,
        /// What to do.
        advice: &'static str,
    },
    /// The folder of the file to be written does not exist.
    #[error("cannot write {}: there is no folder {}; create it first", path.display(), folder.display())]
    NoFolder {
        /// The file to be written.
        path: PathBuf,
        /// The folder that is missing.
        folder: PathBuf,
    },
    /// The file to be written is a symbolic link to nothing.
    #[error("cannot write {}: it is a symbolic link whose target does not exist; remove it first", path.display())]
    DanglingLink {
        /// The link.
        path: PathBuf,
    },
    /// The data file's name is not a plain file name, or it is the model's.
    #[error("\"{name}\" cannot name the data file of {}: a plain file name other than the model's is needed", path.display())]
    DataName {
        /// The name asked for.
        name: String,
        /// The model to be written.
        path: PathBuf,
    },
}

impl Error {
    /// For `map_err`: an I/O failure with its file.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}
