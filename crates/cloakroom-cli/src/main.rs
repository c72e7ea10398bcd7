//! The `cloakroom` command. Exit codes: 0 fine, 1 a problem, 2 wrong usage.

mod check;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Check(arguments) => check::run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
