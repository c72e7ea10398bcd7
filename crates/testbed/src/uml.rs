//! User-mode Linux: a whole Linux kernel as an ordinary process, with the file systems and networks that this
//! machine's own kernel may lack.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use crate::TempDir;
use crate::process::Process;

/// Why no machine starts here although the program is installed (`ptrace` is forbidden in many containers), if so.
pub fn refusal() -> Option<&'static str> {
    static REFUSAL: OnceLock<Option<&str>> = OnceLock::new();
    *REFUSAL.get_or_init(|| {
        let logs = TempDir::new();
        // The first process ends well, which no kernel survives: it says so and aborts.
        let machine = boot(logs.path(), &["mem=64M", "init=/bin/true"]);
        machine.wait(Duration::from_secs(60));
        let ran = machine.stdout().contains("exitcode=0x00000000");
        (!ran).then_some("user-mode Linux does not start on this machine")
    })
}

/// Runs a shell script as root in a machine of its own, which sees this one's files read-only. Its current directory
/// is `directory`, the one place that it shares with this machine.
///
/// # Errors
/// Everything that was printed, when the script fails.
pub fn run(directory: &Path, script: &str, limit: Duration) -> Result<(), String> {
    let files = TempDir::new();
    let init = files.write("init.sh", include_str!("uml/init.sh"));
    std::fs::set_permissions(&init, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::write(directory.join("job.sh"), script).unwrap();
    let machine = boot(
        files.path(),
        &["mem=768M", &format!("init={}", init.display()), &format!("DIRECTORY={}", directory.display())],
    );
    machine.wait(limit);
    let read = |name: &str| std::fs::read_to_string(directory.join(name)).unwrap_or_default();
    match read("status").as_str() {
        "0\n" => Ok(()),
        _ => Err(format!("the script in the machine failed\n{}\n{}", read("log"), machine.log())),
    }
}

fn boot(directory: &Path, arguments: &[&str]) -> Process {
    let mut command = Command::new(crate::need::find("linux.uml").expect("user-mode Linux is installed"));
    command.args(["rootfstype=hostfs", "rootflags=/", "ro", "quiet"]).args(arguments);
    command.args(["con0=null,fd:1", "con=null", "ssl=null"]).arg(format!("uml_dir={}", directory.display()));
    // Without the library it may run all the same.
    if let Some(library) = xstate(directory) {
        command.env("LD_PRELOAD", library);
    }
    Process::start(&mut command, directory, "machine")
}

fn xstate(directory: &Path) -> Option<std::path::PathBuf> {
    let source = directory.join("xstate.c");
    let library = directory.join("xstate.so");
    std::fs::write(&source, include_str!("uml/xstate.c")).unwrap();
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).output();
    built.is_ok_and(|built| built.status.success()).then_some(library)
}
