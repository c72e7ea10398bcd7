//! Cleans up when this process dies, whatever kills it: SIGKILL, Ctrl-C, an abort. Statics, which are never dropped,
//! are cleaned up too.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock};

use nix::unistd::AccessFlags;

/// A shell that outlives us by a moment: it reads what to clean up from a pipe, and does it when the pipe closes.
const SCRIPT: &str = r#"
    trap '' HUP INT TERM
    base=$1
    memory=$2
    while read -r what number start; do
        case $what in
            started) eval "process_${number}_$start=1" ;;
            reaped) unset "process_${number}_$start" ;;
            made) eval "directory_$number=1" ;;
            removed) unset "directory_$number" ;;
        esac
    done
    set | while IFS=_= read -r kind number start _; do
        case $kind in
            process)
                stat=
                read -r stat <"/proc/$number/stat"
                set -- ${stat##*) }
                # Another process may have the number by now; where nobody has it, its group may live on.
                if [ -z "$stat" ] || [ "${20}" = "$start" ]; then kill -KILL -"$number"; fi ;;
            directory) rm -rf "$base-$number" "$memory-$number" ;;
        esac
    done
"#;

/// What is to be cleaned up, and what no longer is.
pub(crate) enum News<'a> {
    /// A leader of a process group, by pid and start time.
    Started(i32, &'a str),
    Reaped(i32, &'a str),
    /// A directory of ours, by number.
    Made(u32),
    Removed(u32),
}

/// Tells the watchdog.
pub(crate) fn tell(news: &News) {
    let line = match news {
        News::Started(pid, start) => format!("started {pid} {start}\n"),
        News::Reaped(pid, start) => format!("reaped {pid} {start}\n"),
        News::Made(number) => format!("made {number}\n"),
        News::Removed(number) => format!("removed {number}\n"),
    };
    static PIPE: OnceLock<Mutex<ChildStdin>> = OnceLock::new();
    let pipe = PIPE.get_or_init(|| Mutex::new(start()));
    // Without its watchdog a test still stops what it drops.
    let _ = pipe.lock().unwrap().write_all(line.as_bytes());
}

/// Where the directory of this number is.
pub(crate) fn directory(number: u32) -> PathBuf {
    PathBuf::from(format!("{}-{number}", base(&std::env::temp_dir())))
}

/// The same in [`MEMORY`].
pub(crate) fn memory(number: u32) -> PathBuf {
    PathBuf::from(format!("{}-{number}", base(Path::new(MEMORY))))
}

/// Whether there is such a place, and we may write to it.
pub(crate) fn has_memory() -> bool {
    nix::unistd::access(MEMORY, AccessFlags::W_OK | AccessFlags::X_OK).is_ok()
}

/// Where Linux has files without a disk.
const MEMORY: &str = "/dev/shm";

fn base(directory: &Path) -> String {
    format!("{}/cloakroom-{}", directory.display(), std::process::id())
}

#[allow(clippy::zombie_processes, reason = "it outlives this process, and init waits for it")]
fn start() -> ChildStdin {
    let mut shell = Command::new("sh")
        .args(["-c", SCRIPT, "watchdog", &base(&std::env::temp_dir()), &base(Path::new(MEMORY))])
        // `set` is to print nothing but what the script has set.
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("start sh");
    shell.stdin.take().expect("it was piped")
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    use super::*;

    #[test]
    fn another_process_that_has_the_number_by_now_is_left_alone() {
        let sleep = || Command::new("sleep").arg("1000").process_group(0).spawn().unwrap();
        let (mut ours, mut anothers, mut reaped) = (sleep(), sleep(), sleep());
        let start = |child: &std::process::Child| crate::process::start_time(child.id().cast_signed());
        let mut watchdog = Command::new("sh")
            .args(["-c", SCRIPT, "watchdog", "/nowhere/cloakroom-0", "/nowhere/memory-0"])
            .env_clear()
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pipe = watchdog.stdin.take().unwrap();
        writeln!(pipe, "started {} {}", ours.id(), start(&ours)).unwrap();
        writeln!(pipe, "started {} 1", anothers.id()).unwrap();
        writeln!(pipe, "started {} {}", reaped.id(), start(&reaped)).unwrap();
        for _ in 0..1000 {
            writeln!(pipe, "reaped {} {}", reaped.id(), start(&reaped)).unwrap();
        }
        drop(pipe);
        watchdog.wait().unwrap();
        let ended_by = [&mut ours, &mut anothers, &mut reaped].map(|sleep| {
            // Who was left alone ends now, by another signal.
            let _ = kill(Pid::from_raw(sleep.id().cast_signed()), Signal::SIGTERM);
            sleep.wait().unwrap().signal().unwrap()
        });
        assert_eq!(ended_by, [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGTERM].map(|signal| signal as i32));
    }
}
