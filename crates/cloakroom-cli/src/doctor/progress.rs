//! What the command is doing, said on stderr where somebody waits for it.

use std::io::IsTerminal;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use crate::output::tell;

/// From here on somebody wants to know.
const PATIENCE: Duration = Duration::from_secs(1);

/// Does something, and says what: at once on a terminal, elsewhere once it takes long.
pub(super) fn during<T>(what: &str, act: impl FnOnce() -> T) -> T {
    if std::io::stderr().is_terminal() {
        tell!("{what} ...");
        return act();
    }
    std::thread::scope(|scope| {
        let (done, end) = channel::<()>();
        scope.spawn(move || {
            if end.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                tell!("{what} ...");
            }
        });
        let result = act();
        drop(done);
        result
    })
}
