//! A command that has ended, and what it said.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::process::{Command, Output};

pub(crate) struct Ran {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) code: Option<i32>,
}

impl Ran {
    pub(crate) fn of(command: &mut Command) -> Ran {
        Ran::ended(command.output().unwrap())
    }

    pub(crate) fn ended(Output { stdout, stderr, status }: Output) -> Ran {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ran { stdout: text(stdout), stderr: text(stderr), code: status.code() }
    }

    /// Without what is told where something takes long: on a machine with much to do anything may.
    pub(crate) fn without_progress(mut self) -> Ran {
        let lines = self.stderr.lines().filter(|line| !line.ends_with(" ..."));
        self.stderr = lines.fold(String::new(), |all, line| all + line + "\n");
        self
    }

    /// All of it, and nothing else.
    #[track_caller]
    pub(crate) fn is(&self, code: i32, stdout: &str, stderr: &str) {
        let shown = |stdout: &str, stderr: &str, code| {
            format!("{stdout}--- stderr\n{stderr}--- exit code {code:?}\n")
        };
        let seen = shown(&self.stdout, &self.stderr, self.code);
        let expected = shown(stdout, stderr, Some(code));
        assert!(seen == expected, "--- expected\n{expected}--- seen\n{seen}");
    }
}
