//! `--help`, the man pages and the completions are one: what one of them names, all of them name.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::process::{Command, Output, Stdio};

use testbed::TempDir;
use testbed::suite::{case, run};

fn main() {
    run(vec![
        case("every_command_and_option_has_its_man_page", &[], every_command_and_option_has_its_man_page),
        case("every_man_page_renders_without_a_warning", &[], every_man_page_renders_without_a_warning),
        case("every_command_and_option_is_completed", &[], every_command_and_option_is_completed),
        case("bash_completes_commands_and_options", &[], bash_completes_commands_and_options),
        case("every_command_says_its_exit_codes", &[], every_command_says_its_exit_codes),
        case("pages_that_cannot_be_written_are_a_problem", &[], pages_that_cannot_be_written_are_a_problem),
    ]);
}

/// The commands with their options, as `--help` has them.
fn commands() -> BTreeMap<String, Vec<String>> {
    let help = cloakroom(&["--help"]);
    let listed = help.split("\nCommands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let names = listed.lines().map(|line| line.split_whitespace().next().unwrap().to_owned());
    let names: Vec<String> = names.filter(|name| name != "help").collect();
    assert!(names.len() >= 8, "{names:?}");
    let options = |name: &String| {
        let help = cloakroom(&[name, "--help"]);
        let words = help.lines().filter(|line| line.trim_start().starts_with('-'));
        let long =
            words.filter_map(|line| line.split([' ', ',', '=', '[']).find(|word| word.starts_with("--")));
        long.map(str::to_owned).collect()
    };
    names.iter().map(|name| (name.clone(), options(name))).collect()
}

fn pages() -> TempDir {
    let directory = TempDir::new();
    assert_eq!(cloakroom(&["man", "--out", directory.path().join("man").to_str().unwrap()]), "");
    directory
}

fn every_command_and_option_has_its_man_page() {
    let directory = pages();
    let page = |name: &str| std::fs::read_to_string(directory.path().join("man").join(name)).unwrap();
    // Roff writes a hyphen that is one as \-.
    let plain = |text: String| text.replace("\\-", "-").replace("\\fB", "").replace("\\fR", "");
    let first = plain(page("cloakroom.1"));
    assert_eq!(plain(cloakroom(&["man"])), first);
    for (command, options) in commands() {
        assert!(first.contains(&format!("cloakroom-{command}(1)")), "{command} in {first}");
        let text = plain(page(&format!("cloakroom-{command}.1")));
        for option in options {
            assert!(text.contains(&option), "{option} of {command} in {text}");
        }
    }
}

fn every_man_page_renders_without_a_warning() {
    if Command::new("man").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "man is missing: tools/packages test brings it");
        eprintln!("not run: there is no man");
        return;
    }
    let directory = pages();
    for entry in std::fs::read_dir(directory.path().join("man")).unwrap() {
        let page = entry.unwrap().path();
        let mut man = Command::new("man");
        man.args(["--warnings", "-E", "UTF-8", "-l"]).arg(&page).env("MANWIDTH", "80").env("MANPAGER", "cat");
        // A locale that the machine does not have is a warning, too.
        man.env("LC_ALL", "C.UTF-8");
        let Output { stdout, stderr, status } = man.stdin(Stdio::null()).output().unwrap();
        let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert!(status.success() && stderr.is_empty(), "{}: {stderr}", page.display());
        assert!(stdout.contains("SYNOPSIS") && stdout.contains("cloakroom"), "{stdout}");
    }
}

fn every_command_and_option_is_completed() {
    for shell in ["bash", "zsh", "fish"] {
        let script = cloakroom(&["completions", shell]);
        for (command, options) in commands() {
            assert!(script.contains(&command), "{command} in {shell}");
            for option in options {
                // fish names them without the dashes.
                let option = if shell == "fish" { option.trim_start_matches('-') } else { &option };
                assert!(script.contains(option), "{option} of {command} in {shell}");
            }
        }
    }
}

fn bash_completes_commands_and_options() {
    let directory = TempDir::new();
    let script = directory.path().join("cloakroom");
    std::fs::write(&script, cloakroom(&["completions", "bash"])).unwrap();
    let completed = |words: &str, current: &str, previous: &str, index: u32| {
        let line = format!(
            "source {}; COMP_WORDS=({words} '{current}'); COMP_CWORD={index}; \
             _cloakroom cloakroom '{current}' '{previous}'; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            script.display()
        );
        let Output { stdout, stderr, .. } =
            Command::new("bash").args(["--norc", "-c", &line]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&stderr), "");
        String::from_utf8(stdout).unwrap()
    };
    assert_eq!(completed("cloakroom", "unl", "cloakroom", 1), "unlock\n");
    assert_eq!(completed("cloakroom show", "--rev", "show", 2), "--reveal\n");
    assert!(completed("cloakroom completions", "", "completions", 2).contains("fish"));
}

fn every_command_says_its_exit_codes() {
    for (command, _) in
        commands().into_iter().filter(|(name, _)| !["man", "completions"].contains(&name.as_str()))
    {
        let help = cloakroom(&[&command, "--help"]);
        assert!(help.to_lowercase().contains("exit code"), "{command}: {help}");
    }
}

fn pages_that_cannot_be_written_are_a_problem() {
    let Output { stderr, status, .. } = command(&["man", "--out", "/proc/nowhere"]).output().unwrap();
    assert_eq!(status.code(), Some(1));
    let stderr = String::from_utf8(stderr).unwrap();
    assert!(stderr.starts_with("error: cannot write the pages: ") && stderr.contains("\nhint: "), "{stderr}");
}

fn cloakroom(arguments: &[&str]) -> String {
    let Output { stdout, stderr, status } = command(arguments).output().unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cloakroom"));
    command.args(arguments).stdin(Stdio::null());
    command
}
