//! The `cloakroom` command. Exit codes: 0 fine, 1 a problem, 2 wrong usage.

mod check;
mod detect;
mod doctor;
mod ini;
#[allow(dead_code, reason = "the commands that use all of it come one by one")]
mod output;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use output::{BAD, paint, tell};

/// Shared, locked PHP sessions
#[derive(Parser)]
#[command(name = "cloakroom", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Check(check::Arguments),
    Detect(detect::Arguments),
    Doctor(doctor::Arguments),
    Ini(ini::Arguments),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Check(arguments) => check::run(&arguments),
        Command::Detect(arguments) => detect::run(&arguments),
        Command::Doctor(arguments) => return doctor::run(&arguments),
        Command::Ini(arguments) => ini::run(&arguments),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            tell!("{}{error}", paint(BAD, "error: "));
            ExitCode::FAILURE
        }
    }
}
