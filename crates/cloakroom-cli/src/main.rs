//! The `cloakroom` command. Exit codes: 0 fine, 1 a problem, 2 wrong usage, or it could not look.

mod check;
mod create;
mod detect;
mod doctor;
mod gc;
mod iam;
mod ini;
mod locks;
mod output;
mod pages;
mod process;
mod show;
mod store;
mod unlock;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use output::{BAD, paint, tell};

/// Shared, locked PHP sessions
///
/// Finds the store, sets PHP up for it, says what is wrong, and shows what is stored. Secrets are masked everywhere. Colour is
/// for terminals; NO_COLOR turns it off.
///
/// Exit codes: 0 fine, 1 a problem, 2 wrong usage, or the command could not look.
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
    Create(create::Arguments),
    Iam(iam::Arguments),
    Gc(gc::Arguments),
    Show(show::Arguments),
    Locks(locks::Arguments),
    Unlock(unlock::Arguments),
    Man(pages::ManArguments),
    Completions(pages::CompletionsArguments),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Check(arguments) => check::run(&arguments),
        Command::Detect(arguments) => detect::run(&arguments),
        Command::Doctor(arguments) => return doctor::run(&arguments),
        Command::Ini(arguments) => ini::run(&arguments),
        Command::Create(arguments) => create::run(&arguments),
        Command::Gc(arguments) => gc::run(&arguments),
        Command::Iam(arguments) => iam::run(&arguments),
        Command::Show(arguments) => show::run(&arguments),
        Command::Locks(arguments) => locks::run(&arguments),
        Command::Unlock(arguments) => unlock::run(&arguments),
        Command::Man(arguments) => pages::man(&arguments),
        Command::Completions(arguments) => pages::completions(&arguments),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            tell!("{}{error}", paint(BAD, "error: "));
            ExitCode::FAILURE
        }
    }
}
