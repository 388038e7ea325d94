//! New files that appear complete or not at all.
//!
//! A file is written under a temporary name in the folder where it belongs and then renamed, which the system does in one step.
//! Whoever opens the old file, or has it mapped, keeps the old bytes.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::error::{Error, Result};
use crate::sources::folder_of;

/// Where a file is to be written: an existing folder, and a name in it that is free or a regular file's.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) path: PathBuf,
    pub(crate) folder: PathBuf,
}

impl Target {
    /// Check `path`. A symbolic link is followed, so that it stays a link and the file that it means is replaced.
    pub(crate) fn resolve(path: &Path) -> Result<Self> {
        match fs::metadata(path) {
            Ok(old) if old.is_file() => {}
            // Renaming over a device would replace it.
            Ok(old) => {
                let what = if old.is_dir() { "a folder" } else { "a special file" };
                return Err(Error::NotAFile { path: path.to_owned(), what });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(Error::Io { action: "write", path: path.to_owned(), source }),
        }
        let path = if path.is_symlink() {
            fs::canonicalize(path).map_err(|_| Error::DanglingLink { path: path.to_owned() })?
        } else {
            path.to_owned()
        };
        let folder = folder_of(&path);
        if path.file_name().is_none() || !folder.is_dir() {
            return Err(Error::NoFolder { path, folder });
        }
        Ok(Self { path, folder })
    }

    /// Start the new file.
    pub(crate) fn create(&self) -> Result<Pending> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(".planish-").suffix(".tmp");
        #[cfg(unix)]
        {
            // What any program asks for, less what the user masks, instead of a temporary file's secrecy.
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(fs::Permissions::from_mode(0o666));
        }
        let temp = builder.tempfile_in(&self.folder).map_err(Error::io("create a file in", &self.folder))?;
        Ok(Pending { temp, path: self.path.clone() })
    }

    /// Make the renames in this folder survive a power failure.
    pub(crate) fn sync_folder(&self) -> Result<()> {
        // Elsewhere folders cannot be opened, and renaming is synchronous.
        #[cfg(unix)]
        File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(Error::io("sync", &self.folder))?;
        Ok(())
    }
}

/// Check that a file can be written to `path`, and say which one that would be: links followed, the folder canonical. So two
/// paths that give the same result mean the same file.
///
/// # Errors
/// If `path` is a folder or a special file, or its folder is missing or takes no new files.
pub fn check_target(path: impl AsRef<Path>) -> Result<PathBuf> {
    let target = Target::resolve(path.as_ref())?;
    // Nothing else tells for sure whether a folder can be written to. The file vanishes again.
    target.create()?;
    let folder = fs::canonicalize(&target.folder).map_err(Error::io("open", &target.folder))?;
    Ok(target.path.file_name().map_or_else(|| folder.clone(), |name| folder.join(name)))
}

/// Write a small file to `path`, replacing what is there in one step. If it is a symbolic link, the file that it means is
/// replaced.
///
/// # Errors
/// If `path` is a folder or a special file, or writing fails. Whatever was there is then untouched.
pub fn write_file(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let target = Target::resolve(path.as_ref())?;
    let mut pending = target.create()?;
    pending.file().write_all(bytes).map_err(Error::io("write", &target.path))?;
    pending.commit()
}

/// What is wrong with a late value that does not fit into its place.
pub(crate) const LENGTHS: &str = "a late value has another length than its placeholder";

/// A file under its temporary name. Unless committed, it is removed again.
pub(crate) struct Pending {
    temp: NamedTempFile,
    path: PathBuf,
}

impl Pending {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Change the name that it is to get. Only the folder that it was created in takes it in one step.
    pub(crate) fn set_path(&mut self, path: PathBuf) {
        self.path = path;
    }

    pub(crate) fn file(&mut self) -> &mut File {
        self.temp.as_file_mut()
    }

    /// Ask the system for room, so that a full disk is noticed before anything is written, and blocks need not be
    /// found page by page. The file stays as long as it is.
    #[cfg(target_os = "linux")]
    pub(crate) fn reserve(&mut self, bytes: u64) -> Result<()> {
        use rustix::fs::{FallocateFlags, fallocate};
        use rustix::io::Errno;
        match fallocate(self.temp.as_file(), FallocateFlags::KEEP_SIZE, 0, bytes.max(1)) {
            Err(full @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => {
                Err(Error::Io { action: "reserve room for", path: self.path.clone(), source: full.into() })
            }
            // Not every file system can.
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Does nothing where the system has no such call.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn reserve(&mut self, _: u64) -> Result<()> {
        Ok(())
    }

    /// Replace the last occurrence of `old` by `new`, which is as long. It has to be in the last megabytes.
    pub(crate) fn replace(&mut self, old: &[u8], new: &[u8]) -> io::Result<()> {
        let invalid = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, what.to_owned()));
        if old.is_empty() || old.len() != new.len() {
            return invalid(LENGTHS);
        }
        let file = self.temp.as_file_mut();
        let size = file.metadata()?.len();
        // Nearly always it is at the very end.
        for length in [1_u64 << 14, 1 << 18, 1 << 24] {
            let start = size.saturating_sub(length);
            let mut tail = Vec::new();
            file.seek(SeekFrom::Start(start))?;
            file.read_to_end(&mut tail)?;
            if let Some(place) = tail.windows(old.len()).rposition(|window| window == old) {
                file.seek(SeekFrom::Start(start.saturating_add(place as u64)))?;
                return file.write_all(new);
            }
        }
        invalid("the place of a late value is not in the tail of the message")
    }

    /// Wait until the content is on the disk.
    pub(crate) fn sync(&self) -> Result<()> {
        self.temp.as_file().sync_all().map_err(Error::io("sync", &self.path))
    }

    /// Give the file its name, in place of any other that bears it.
    pub(crate) fn commit(self) -> Result<()> {
        match self.temp.persist(&self.path) {
            Ok(_) => Ok(()),
            Err(refused) => Err(Error::Io { action: "replace", path: self.path, source: refused.error }),
        }
    }
}
