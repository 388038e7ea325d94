//! The `planish` command.

use std::process::ExitCode;

use clap::Parser;
use planish::{cli::Cli, engine::ort::say_if_it_crashes};

fn main() -> ExitCode {
    let cli = Cli::parse();
    cli.init_logging();
    say_if_it_crashes();
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            #[expect(clippy::print_stderr, reason = "this is where errors leave the program")]
            {
                eprintln!("error: {failure}");
            }
            failure.exit_code()
        }
    }
}
