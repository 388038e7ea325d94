//! The commands, one file each.

pub mod bisect;
pub mod compile;
pub mod diff;
mod engines;
pub mod init;
pub mod inspect;
pub mod lint;
pub mod operators;
pub mod passes;
pub mod prunable;
mod recipe;
pub mod reduce;
pub mod rules;
pub mod types;
pub mod verify;

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use clap::CommandFactory;

use crate::{
    cli::Cli,
    failure::{Failure, Kind, OrFail, Result},
    pipeline::Pipeline,
};

/// Prints the JSON Schema of pipeline files.
pub fn schema() -> Result {
    let schema = schemars::schema_for!(Pipeline);
    print(&(serde_json::to_string_pretty(&schema).or_fail(Kind::Internal)? + "\n"))
}

/// Prints a completion script.
pub fn completions(shell: clap_complete::Shell) -> Result {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "planish", &mut script);
    print(&String::from_utf8_lossy(&script))
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

/// Writes a small file in one step.
fn write_file(path: &Path, text: &str) -> Result {
    refuse_dash(path)?;
    planish_proto::write_file(path, text.as_bytes()).or_fail(Kind::File)
}

/// The file that a path to write to means, in a form that can be compared. Fails if it cannot be written.
fn check_target(path: &Path) -> Result<PathBuf> {
    refuse_dash(path)?;
    planish_proto::check_target(path).or_fail(Kind::File)
}

/// By convention a dash is standard output, for which there are other arguments; nobody means a file of that name.
fn refuse_dash(path: &Path) -> Result {
    match path == Path::new("-") {
        true => Err(Failure::message(Kind::File, "cannot write to -: a file is needed; ./- is the file of that name")),
        false => Ok(()),
    }
}
