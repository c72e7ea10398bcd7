//! Which core runs what: a round trip between two cores costs a wake-up of the other one.

use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use nix::unistd::Pid;

/// The first two cores that this process may use; the same one twice where there is no second.
pub(crate) fn two() -> (usize, usize) {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let mut cores = (0..CpuSet::count()).filter(|&core| allowed.is_set(core).unwrap());
    let first = cores.next().unwrap();
    (first, cores.next().unwrap_or(first))
}

/// Keeps all threads of a process on one core; 0 is the calling thread.
pub(crate) fn pin(pid: i32, core: usize) {
    let mut set = CpuSet::new();
    set.set(core).unwrap();
    allow(pid, &set);
}

/// Lets them run on both cores again.
pub(crate) fn unpin(pid: i32, (first, second): (usize, usize)) {
    let mut set = CpuSet::new();
    set.set(first).unwrap();
    set.set(second).unwrap();
    allow(pid, &set);
}

fn allow(pid: i32, set: &CpuSet) {
    if pid == 0 {
        return sched_setaffinity(Pid::from_raw(0), set).unwrap();
    }
    for thread in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let thread = thread.unwrap().file_name().to_string_lossy().parse().unwrap();
        // A thread may have ended since.
        let _ = sched_setaffinity(Pid::from_raw(thread), set);
    }
}

/// CPU time of the calling thread so far.
pub(crate) fn cpu_of_thread() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).unwrap();
    let duration = |time: TimeVal| {
        Duration::new(time.tv_sec().unsigned_abs(), u32::try_from(time.tv_usec()).unwrap() * 1000)
    };
    duration(usage.user_time()) + duration(usage.system_time())
}
