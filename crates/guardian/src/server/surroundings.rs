//! What the guardian asks of the kernel for itself, and undoes for its child.

// Signal dispositions, signalfd and close_range have no safe wrapper in rustix.
#![allow(unsafe_code)]

use std::fs::{self, File};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd};
use std::ptr;

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Resource, getrlimit};

const OOM_SCORE_ADJ: &str = "/proc/self/oom_score_adj";

/// With less than this, locking what is allocated later would make allocations fail.
const MEMLOCK_BYTES_AMPLE: u64 = 64 << 20;

const IGNORED: [libc::c_int; 9] = [
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGPIPE,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGTSTP,
];

/// Closes what a careless parent left open above stderr: a listening socket of the daemon's, held here for months,
/// would keep its port taken.
pub(super) fn close_inherited_files() {
    // SAFETY: called before this process opens anything, so no file that Rust owns is closed. A kernel before 5.9
    // does not know the call, and then nothing is closed.
    unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32) };
}

/// Ignores the signals that end programs and returns a file that is readable when a child has exited.
pub(super) fn arrange_signals() -> io::Result<OwnedFd> {
    ignore_signals()?;
    // Inherited as ignored, it would make the kernel throw away how children ended.
    set_disposition(libc::SIGCHLD, libc::SIG_DFL)?;
    let mut set = empty_set();
    // SAFETY: `set` was initialised by sigemptyset; signalfd returns a new descriptor that nobody else owns.
    unsafe {
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        if libc::sigprocmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        match libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

/// What ends programs does not end this one. To be said again after an attempt to execute another program.
pub(super) fn ignore_signals() -> io::Result<()> {
    IGNORED.into_iter().try_for_each(|signal| set_disposition(signal, libc::SIG_IGN))
}

/// Gives a child the signal dispositions and mask of a fresh process. Async-signal-safe.
pub(super) fn reset_signals() -> io::Result<()> {
    // The kernel's `struct sigaction` with SIG_DFL, no flags and an empty mask is all zeroes, whatever its layout.
    let default = [0_u64; 16];
    for signal in 1..=64 {
        // Not through the C library, which keeps two signals for itself that may have been inherited as ignored.
        // The kernel refuses SIGKILL and SIGSTOP, which are always as they should be.
        // SAFETY: `default` is larger than the structure, and the kernel only reads it.
        unsafe {
            let old = ptr::null_mut::<u64>();
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), old, size_of::<u64>());
        }
    }
    let set = empty_set();
    // SAFETY: `set` was initialised by sigemptyset and outlives the call.
    match unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn set_disposition(signal: libc::c_int, handler: libc::sighandler_t) -> io::Result<()> {
    // SAFETY: SIG_IGN and SIG_DFL run no code of ours.
    match unsafe { libc::signal(signal, handler) } {
        libc::SIG_ERR => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn empty_set() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises what it is given and cannot fail on a valid pointer.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        set.assume_init()
    }
}

/// Asks never to be chosen when memory runs out; refused without privileges, which is no error. Returns the value
/// before, for the child; `None` where nothing was changed.
pub(super) fn protect_from_oom_killer() -> Option<String> {
    let before = fs::read_to_string(OOM_SCORE_ADJ).ok()?;
    fs::write(OOM_SCORE_ADJ, "-1000").ok()?;
    Some(before)
}

/// Sets the calling process's OOM score. Async-signal-safe.
pub(super) fn set_oom_score_adj(value: &str) -> io::Result<()> {
    use rustix::fs::{Mode, OFlags};
    let file =
        rustix::fs::open(c"/proc/self/oom_score_adj", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, value.as_bytes())?;
    Ok(())
}

/// Keeps this process in memory, as far as the limit allows. A child starts without.
pub(super) fn lock_memory() -> bool {
    let ample = getrlimit(Resource::Memlock).current.is_none_or(|bytes| bytes >= MEMLOCK_BYTES_AMPLE);
    let later = if ample { MlockAllFlags::FUTURE } else { MlockAllFlags::empty() };
    mlockall(MlockAllFlags::CURRENT | later).is_ok()
}

/// Takes note of all exits that were signalled so far.
pub(super) fn drain(child_exits: &File) {
    let mut buffer = [0; 1024];
    while io::Read::read(&mut &*child_exits, &mut buffer).is_ok_and(|count| count == buffer.len()) {}
}
