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
pub struct TempDir(PathBuf);

impl TempDir {
    /// A new, empty directory.
    #[allow(clippy::new_without_default, reason = "a directory on disk is nobody's default")]
    pub fn new() -> TempDir {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        loop {
            let name = format!("cloakroom-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            let path = std::env::temp_dir().join(name);
            match std::fs::create_dir(&path) {
                Ok(()) => {
                    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
                    crate::process::remove_at_death(&path);
                    return TempDir(path);
                }
                // Left behind by an earlier process with our pid.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => panic!("create {}: {error}", path.display()),
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A path below it.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
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
        if std::fs::remove_dir_all(&self.0).is_ok() {
            crate::process::removed(&self.0);
        }
    }
}
