//! The commands, one file each.

pub mod compile;
pub mod diff;
pub mod init;
pub mod inspect;
pub mod passes;
pub mod verify;

use std::{io::Write, path::Path};

use clap::CommandFactory;
use planish_passes::Engine;

use crate::{
    cli::{Cli, RunArgs},
    engine,
    failure::{Kind, OrFail, Result},
    pipeline::{EngineChoice, Pipeline},
};

/// Prints the JSON Schema of pipeline files.
pub fn schema() -> Result {
    let schema = schemars::schema_for!(Pipeline);
    print(&(serde_json::to_string_pretty(&schema).or_fail(Kind::Internal)? + "\n"))
}

/// Prints a completion script.
pub fn completions(shell: clap_complete::Shell) {
    clap_complete::generate(shell, &mut Cli::command(), "planish", &mut std::io::stdout());
}

/// Writes to standard output. A reader that has gone away (`planish … | head`) is no error.
fn print(text: &str) -> Result {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e).or_fail(Kind::File),
        _ => Ok(()),
    }
}

fn print_json(value: &impl serde::Serialize) -> Result {
    print(&(serde_json::to_string_pretty(value).or_fail(Kind::Internal)? + "\n"))
}

/// Writes a small file through a temporary one beside it.
fn write_file(path: &Path, text: &str) -> Result {
    let folder = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(".planish-").permissions(permissions()).tempfile_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.persist(path)?;
        Ok(())
    };
    write().or_fail_with(Kind::File, || format!("cannot write {}", path.display()))
}

/// Those of a file that a program makes in the ordinary way, before the umask.
#[cfg(unix)]
fn permissions() -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o666)
}

/// The engine that the user chose; `None` for `off`.
fn open_engine(choice: EngineChoice, run: &RunArgs) -> Result<Option<Box<dyn Engine>>> {
    Ok(match choice {
        EngineChoice::Off => None,
        EngineChoice::Tract => Some(Box::new(engine::tract::Tract)),
        EngineChoice::Onnxruntime => {
            Some(Box::new(engine::ort::OnnxRuntime::open(run.onnxruntime_lib.as_deref()).or_fail(Kind::Config)?))
        }
    })
}
