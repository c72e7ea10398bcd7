//! Places nobody else uses: a port and a directory.

use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, getsockname, setsockopt, socket, sockopt::ReuseAddr,
};

use crate::watchdog::{self, News, tell};

/// A loopback port that stays ours for the life of this process, also while its server is down: a bound socket
/// that never listens keeps it, and lets servers that set SO_REUSEADDR (all of ours do) listen on it.
pub fn free_port() -> u16 {
    static KEPT: Mutex<Vec<OwnedFd>> = Mutex::new(Vec::new());
    let keeper = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(keeper.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
    // Only now: with it set before, the kernel may choose a port that another keeper has.
    setsockopt(&keeper, ReuseAddr, &true).unwrap();
    let port = getsockname::<SockaddrIn>(keeper.as_raw_fd()).unwrap().port();
    KEPT.lock().unwrap().push(keeper);
    port
}

/// Whether somebody listens on this loopback port.
pub(crate) fn listening(port: u16) -> bool {
    std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
}

/// Listens on a port of [`free_port`].
pub(crate) fn listen(port: u16) -> TcpListener {
    TcpListener::bind(("127.0.0.1", port)).unwrap_or_else(|error| panic!("listen on port {port}: {error}"))
}

/// A directory that servers of any user can enter, removed when dropped.
#[derive(Debug)]
pub struct TempDir {
    path: PathBuf,
    number: u32,
}

impl TempDir {
    /// A new, empty directory.
    #[allow(clippy::new_without_default, reason = "a directory on disk is nobody's default")]
    pub fn new() -> TempDir {
        TempDir::at(watchdog::directory)
    }

    /// The same where nothing waits for a disk, if there is such a place: for servers that sync small files.
    pub fn in_memory() -> TempDir {
        match watchdog::has_memory() {
            true => TempDir::at(watchdog::memory),
            false => TempDir::new(),
        }
    }

    fn at(directory: fn(u32) -> PathBuf) -> TempDir {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = directory(number);
            match std::fs::create_dir(&path) {
                Ok(()) => {
                    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
                    tell(&News::Made(number));
                    return TempDir { path, number };
                }
                // Left behind by an earlier process with our pid.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => panic!("create {}: {error}", path.display()),
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path below it.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file below it and says where.
    pub fn write(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        std::fs::write(&path, content).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
        path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // A server that was killed a moment ago may still have been writing: what stays goes at our death.
        if std::fs::remove_dir_all(&self.path).is_ok() {
            tell(&News::Removed(self.number));
        }
    }
}
