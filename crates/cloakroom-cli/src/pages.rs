//! `cloakroom man` and `cloakroom completions`: made from the same definitions as `--help`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::CommandFactory as _;
use cloakroom::{Error, ErrorKind, Result};

/// Prints the man page, or writes one for each command into a directory
#[derive(clap::Args)]
pub(crate) struct ManArguments {
    /// Writes cloakroom.1, cloakroom-check.1 and so on into this directory, which is made if it is missing
    #[arg(long, value_name = "DIRECTORY")]
    out: Option<PathBuf>,
}

/// Prints what a shell needs to complete commands and options
///
/// bash: cloakroom completions bash > /usr/share/bash-completion/completions/cloakroom
///
/// zsh: cloakroom completions zsh > /usr/local/share/zsh/site-functions/_cloakroom
///
/// fish: cloakroom completions fish > ~/.config/fish/completions/cloakroom.fish
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct CompletionsArguments {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

pub(crate) fn man(arguments: &ManArguments) -> Result<ExitCode> {
    // Its pages would say nothing that the others do not.
    let command = crate::Arguments::command().disable_help_subcommand(true);
    match &arguments.out {
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(command).render(&mut page).map_err(cannot_write)?;
            print(&page)
        }
        Some(directory) => {
            std::fs::create_dir_all(directory).map_err(cannot_write)?;
            clap_mangen::generate_to(command, directory).map_err(cannot_write)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

pub(crate) fn completions(arguments: &CompletionsArguments) -> Result<ExitCode> {
    use clap_complete::{Shell as Of, generate};
    let mut command = crate::Arguments::command();
    let shell = match arguments.shell {
        Shell::Bash => Of::Bash,
        Shell::Zsh => Of::Zsh,
        Shell::Fish => Of::Fish,
    };
    let mut script = Vec::new();
    generate(shell, &mut command, "cloakroom", &mut script);
    print(&script)
}

fn print(bytes: &[u8]) -> Result<ExitCode> {
    std::io::stdout().write_all(bytes).map_err(cannot_write)?;
    Ok(ExitCode::SUCCESS)
}

fn cannot_write(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Config, "cannot write the pages")
        .source(error)
        .hint("name a directory that this user may write to")
}
