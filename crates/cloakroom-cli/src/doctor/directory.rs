//! A session directory: whether it is there, whom it lets in, its room, and how it is mounted.

use std::ffi::CString;
use std::fs::Metadata;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, User, access, getgrouplist};

use super::findings::{self as kinds, Finding};
use super::judge::below;

/// Less room than this is none.
const ROOM: u64 = 64 << 10;

/// A worker who uses the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Worker {
    pub(super) place: String,
    pub(super) user: String,
}

/// What is wrong with the directory of `N;MODE;/path`, where the system has its root at `root`.
pub(super) fn look(root: &Path, save_path: &str, workers: &[Worker]) -> Vec<Finding> {
    let mut parts = save_path.split(';');
    let name = parts.next_back().unwrap_or_default();
    let levels: usize = parts.next().and_then(|levels| levels.trim().parse().ok()).unwrap_or_default();
    let directory = below(root, name);
    let user = user_of(workers);
    let metadata = match std::fs::metadata(&directory) {
        Ok(metadata) if metadata.is_dir() => metadata,
        Ok(_) => {
            let what = format!("{name} is not a directory");
            return vec![Finding::problem(
                kinds::NO_DIRECTORY,
                what,
                "name a directory in session.save_path",
            )];
        }
        Err(error) => {
            let change = format!("install -d -m 0700 -o {user} {name}");
            return vec![Finding::problem(kinds::NO_DIRECTORY, format!("{name}: {error}"), change)];
        }
    };
    let mut found = rights(name, &directory, &metadata, workers);
    found.extend(room(name, &directory));
    found.extend(missing_levels(name, &directory, levels));
    found.extend(mount(root, name));
    if found.is_empty() {
        found.extend(skew(name, &directory));
    }
    found
}

fn user_of(workers: &[Worker]) -> &str {
    workers.first().map_or("www-data", |worker| &worker.user)
}

fn rights(name: &str, directory: &Path, metadata: &Metadata, workers: &[Worker]) -> Vec<Finding> {
    let user = user_of(workers);
    let mut found = Vec::new();
    let mode = metadata.mode() & 0o7777;
    for Worker { place, user } in workers {
        if may_write(metadata, user) == Some(false) {
            let owner = User::from_uid(metadata.uid().into()).ok().flatten();
            let owner = owner.map_or(metadata.uid().to_string(), |owner| owner.name);
            let what =
                format!("{place} runs as {user}, who may not write to {name} (of {owner}, mode {mode:04o})");
            found.push(Finding::problem(kinds::OWNER, what, format!("chown {user} {name}")));
        }
    }
    if workers.is_empty() && access(directory, AccessFlags::W_OK | AccessFlags::X_OK).is_err() {
        let what = format!("whoever runs this command may not write to {name} (mode {mode:04o})");
        found.push(Finding::problem(kinds::OWNER, what, format!("run it as PHP's user, or chown {name}")));
    }
    if mode & 0o004 != 0 {
        let what = format!("{name}: every user of this host can list it (mode {mode:04o})");
        // Others need /tmp as it is.
        let change = match mode & 0o1002 {
            0o1002 => {
                let own = "/var/lib/php/sessions";
                format!("install -d -m 0700 -o {user} {own}, and session.save_path = \"{own}\"")
            }
            _ => format!("chmod o-r {name}"),
        };
        found.push(Finding::problem(kinds::MODE, what, change));
    } else if mode & 0o1002 == 0o002 {
        let what = format!("{name}: every user of this host can remove what is in it (mode {mode:04o})");
        found.push(Finding::problem(kinds::MODE, what, format!("chmod +t {name}")));
    }
    found
}

/// `None` where nobody knows that user.
fn may_write(metadata: &Metadata, user: &str) -> Option<bool> {
    let user = User::from_name(user).ok().flatten()?;
    let groups = getgrouplist(&CString::new(user.name.as_str()).ok()?, user.gid).unwrap_or_default();
    let shift = match () {
        () if user.uid.is_root() => return Some(true),
        () if metadata.uid() == user.uid.as_raw() => 6,
        () if groups.iter().any(|group| group.as_raw() == metadata.gid()) => 3,
        () => 0,
    };
    Some(metadata.mode() >> shift & 0o3 == 0o3)
}

fn room(name: &str, directory: &Path) -> Option<Finding> {
    let disk = statvfs(directory).ok()?;
    let bytes = disk.blocks_available() * disk.fragment_size();
    if bytes < ROOM {
        let what = format!("the file system of {name} is full");
        return Some(Finding::problem(kinds::FULL, what, "remove what is not needed there; df names it"));
    }
    if disk.files() > 0 && disk.files_available() == 0 {
        let what = format!("the file system of {name} has no room for one more file (df -i)");
        return Some(Finding::problem(kinds::FULL, what, "remove expired sessions: php -r 'session_gc();'"));
    }
    None
}

/// Ids may have other characters than these; those that hexadecimal ones have are in all of them.
fn missing_levels(name: &str, directory: &Path, levels: usize) -> Option<Finding> {
    let mut deepest = vec![directory.to_owned()];
    for _ in 0..levels.min(2) {
        deepest = deepest
            .iter()
            .flat_map(|parent| "0123456789abcdef".chars().map(|digit| parent.join(digit.to_string())))
            .collect();
        if let Some(missing) = deepest.iter().find(|directory| !directory.is_dir()) {
            let short = missing.strip_prefix(directory).unwrap_or(missing);
            let what =
                format!("{name} is to have {levels} levels of directories: {} is missing", short.display());
            let change =
                "make them with PHP's ext/session/mod_files.sh, or leave the number out of session.save_path";
            return Some(Finding::problem(kinds::LEVELS, what, change));
        }
    }
    None
}

fn mount(root: &Path, name: &str) -> Option<Finding> {
    let mounts = std::fs::read_to_string(root.join("proc/mounts")).ok()?;
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let holding = fields.filter(|fields| fields.len() > 3 && Path::new(name).starts_with(fields[1]));
    // The last of equals is on top.
    let fields = holding.max_by_key(|fields| fields[1].len())?;
    let (point, options) = (fields[1], fields[3]);
    if !fields[2].starts_with("nfs") {
        return None;
    }
    let alone = |option: &&str| {
        *option == "nolock" || option.strip_prefix("local_lock=").is_some_and(|it| it != "none")
    };
    let option = options.split(',').find(alone)?;
    let what =
        format!("{name} is on NFS ({point}), mounted with {option}: locks are seen by this host alone");
    Some(Finding::problem(
        kinds::NFS,
        what,
        format!("/etc/fstab: leave {option} out of the options of {point}"),
    ))
}

/// The server's clock sets a file's time.
fn skew(name: &str, directory: &Path) -> Option<Finding> {
    let probe = directory.join(format!("cloakroom_doctor_{}", std::process::id()));
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&probe).ok()?;
    let written = file.metadata().and_then(|metadata| metadata.modified());
    // Only what was made here is removed.
    let _ = std::fs::remove_file(&probe);
    let (now, written) = (SystemTime::now(), written.ok()?);
    let apart = now.duration_since(written).or_else(|_| written.duration_since(now)).unwrap_or_default();
    (apart > Duration::from_secs(30)).then(|| {
        let what = format!("the clock of {name} is {} seconds off this host's", apart.as_secs());
        Finding::problem(kinds::SKEW, what, "set the clocks of both by NTP")
    })
}
