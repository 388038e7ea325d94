//! Which files a model may refer to: only such as lie in its own folder.
//!
//! A model is data from strangers, and a `location` is a path that they chose. It must not make the reader hand out other
//! files, so anything but a plain relative path is refused by its text, on every platform alike, and whatever symbolic links
//! make of the rest is refused if it leads out of the folder.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use thiserror::Error;

/// Why an external data location is refused.
#[derive(Debug, Error)]
pub enum LocationError {
    /// No text, or one with NUL in it.
    #[error("is not a file name")]
    NotAName,
    /// It starts at the root or at a drive.
    #[error("is absolute; it must be relative to the model's folder")]
    Absolute,
    /// It has a component `..`.
    #[error("contains \"..\"; it must stay in the model's folder")]
    Parent,
    /// Windows would take it for a separator.
    #[error("contains a backslash; components are separated by \"/\"")]
    Backslash,
    /// A symbolic link leads elsewhere.
    #[error("leads through a symbolic link to {}, outside of the model's folder", .0.display())]
    Leaves(PathBuf),
    /// The model came as bytes, so that there is no folder.
    #[error("cannot be resolved: the model was given as bytes, without a folder")]
    NoFolder,
    /// There is no such file, or it cannot be reached.
    #[error("cannot be found in {}: {source}", folder.display())]
    NotFound {
        /// The model's folder.
        folder: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
}

/// The real path of the file that `location` names in the first of `folders` that has it.
pub(crate) fn resolve(location: &str, folders: &[PathBuf]) -> Result<PathBuf, LocationError> {
    check(location)?;
    let mut result = Err(LocationError::NoFolder);
    for folder in folders {
        let found = fs::canonicalize(folder).and_then(|real| Ok((fs::canonicalize(real.join(location))?, real)));
        match found {
            Ok((path, real)) if path.starts_with(&real) => return Ok(path),
            Ok((path, _)) => return Err(LocationError::Leaves(path)),
            Err(source) => result = Err(LocationError::NotFound { folder: folder.clone(), source }),
        }
    }
    result
}

/// Refuse what a look at the text tells.
fn check(location: &str) -> Result<(), LocationError> {
    if location.is_empty() || location.contains('\0') {
        return Err(LocationError::NotAName);
    }
    if location.contains('\\') {
        return Err(LocationError::Backslash);
    }
    let mut first_two = location.chars();
    if first_two.next().is_some_and(|c| c.is_ascii_alphabetic()) && first_two.next() == Some(':') {
        return Err(LocationError::Absolute);
    }
    for component in Path::new(location).components() {
        match component {
            Component::Normal(_) | Component::CurDir => {}
            Component::ParentDir => return Err(LocationError::Parent),
            Component::RootDir | Component::Prefix(_) => return Err(LocationError::Absolute),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_relative_paths_pass() {
        assert!(check("weights.data").is_ok());
        assert!(check("./sub/weights.bin").is_ok());
        assert!(check("..weights").is_ok());
        assert!(matches!(check(""), Err(LocationError::NotAName)));
        assert!(matches!(check("a\0b"), Err(LocationError::NotAName)));
        assert!(matches!(check("/etc/passwd"), Err(LocationError::Absolute)));
        assert!(matches!(check("C:/secret"), Err(LocationError::Absolute)));
        assert!(matches!(check("c:secret"), Err(LocationError::Absolute)));
        assert!(matches!(check("sub/../../x"), Err(LocationError::Parent)));
        assert!(matches!(check(".."), Err(LocationError::Parent)));
        assert!(matches!(check("..\\x"), Err(LocationError::Backslash)));
        assert!(matches!(check("\\\\host\\share"), Err(LocationError::Backslash)));
    }
}
