//! The libc calls of xtask: users, namespaces, signals, what a process may call; no policy.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Whether this process has the effective user id 0.
pub(crate) fn is_root() -> bool {
    // SAFETY: geteuid takes nothing, touches no memory of ours and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Clock ticks per second: the unit of the CPU times in `/proc`.
pub(crate) fn ticks_per_second() -> u64 {
    // SAFETY: sysconf takes a constant and returns a number; it touches no memory of ours.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    u64::try_from(ticks).expect("the kernel has a tick rate")
}

/// Sends a signal to one process. Never to a group: a pid of 0 or below is refused.
pub(crate) fn kill(pid: u32, signal: i32) -> io::Result<()> {
    let pid = i32::try_from(pid).ok().filter(|pid| *pid > 0);
    let pid = pid.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: kill takes two numbers and touches no memory of ours; `pid` names one process.
    check(unsafe { libc::kill(pid, signal) })
}

/// Moves the calling thread, and only it, into a network namespace.
pub(crate) fn enter_netns(namespace: &File) -> io::Result<()> {
    // SAFETY: setns changes the calling thread's namespace only; the descriptor is open because
    // the caller holds the `File`.
    check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) })
}

/// Makes `command` start inside a network namespace and a cgroup (its open `cgroup.procs`), in a
/// process group of its own so that a Ctrl-C at the terminal reaches only xtask. Of descriptors it
/// gets its standard three: whoever started us may hold a lock by one, and a daemon can outlive us.
pub(crate) fn confine(command: &mut Command, netns: Option<File>, cgroup_procs: Option<File>) {
    command.process_group(0);
    let join = move || {
        if let Some(procs) = &cgroup_procs {
            // SAFETY: the buffer is one byte of static memory and the descriptor is open because
            // the closure owns the `File`; write is async-signal-safe, as a child between fork
            // and exec needs.
            let written = unsafe { libc::write(procs.as_raw_fd(), b"0".as_ptr().cast(), 1) };
            if written != 1 {
                return Err(io::Error::last_os_error());
            }
        }
        netns.as_ref().map_or(Ok(()), enter_netns)?;
        keep_no_descriptors()
    };
    // SAFETY: between fork and exec the closure makes three system calls (write, setns,
    // close_range) and reads errno; it neither allocates nor locks. It upholds that itself.
    unsafe { command.pre_exec(join) };
}

/// Marks all descriptors but the standard three to be closed by the next exec.
fn keep_no_descriptors() -> io::Result<()> {
    let flags = libc::CLOSE_RANGE_CLOEXEC.cast_signed();
    // SAFETY: close_range takes three numbers; with this flag it closes nothing now, so that every
    // descriptor that somebody owns stays open for its owner.
    check(unsafe { libc::close_range(libc::STDERR_FILENO.cast_unsigned() + 1, u32::MAX, flags) })
}

/// Makes `command` start with io_uring refused by a seccomp filter, as container engines do.
pub(crate) fn forbid_io_uring(command: &mut Command) {
    let forbid = || {
        // SAFETY: prctl with these constants sets a flag of the calling process and reads no
        // memory; PR_SET_NO_NEW_PRIVS wants the unused arguments to be zero.
        check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
        let statement = |code, k| libc::sock_filter { code, jt: 0, jf: 0, k };
        let errno = libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs();
        let mut filter = [
            // The first word of the data that the filter sees is the number of the call.
            statement(filter_code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS), 0),
            libc::sock_filter {
                code: filter_code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K),
                jt: 0,
                jf: 1,
                k: IO_URING_SETUP,
            },
            statement(filter_code(libc::BPF_RET | libc::BPF_K), errno),
            statement(filter_code(libc::BPF_RET | libc::BPF_K), libc::SECCOMP_RET_ALLOW),
        ];
        let program = libc::sock_fprog { len: 4, filter: filter.as_mut_ptr() };
        let mode = libc::SECCOMP_MODE_FILTER;
        // SAFETY: `program` points to the four instructions of `filter`; both live in this frame
        // until the kernel has copied them.
        check(unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) })
    };
    // SAFETY: between fork and exec the closure makes two system calls on memory of its own
    // frame; it neither allocates nor locks. It upholds that itself.
    unsafe { command.pre_exec(forbid) };
}

/// The same number on every architecture that came after the call did.
const IO_URING_SETUP: u32 = 425;

fn filter_code(code: u32) -> u16 {
    u16::try_from(code).expect("the codes of classic BPF have 16 bits")
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_of_processes_is_never_signalled() {
        for pid in [0, u32::MAX] {
            assert_eq!(kill(pid, 0).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
        kill(std::process::id(), 0).unwrap();
    }

    #[test]
    fn descriptors_of_our_own_starter_go_no_further() {
        // SAFETY: dup takes a number and touches no memory of ours; what it returns is nobody's.
        let inherited = unsafe { libc::dup(libc::STDERR_FILENO) };
        assert!(inherited > libc::STDERR_FILENO, "{inherited}");
        let mut look = Command::new("test");
        look.arg("-e").arg(format!("/proc/self/fd/{inherited}"));
        assert!(look.status().unwrap().success(), "it is not inherited by others either");
        confine(&mut look, None, None);
        assert!(!look.status().unwrap().success(), "it is inherited");
    }

    #[test]
    fn the_filter_is_accepted_and_other_calls_go_on() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "grep -q '^Seccomp:.*2' /proc/self/status"]);
        forbid_io_uring(&mut shell);
        assert!(shell.status().unwrap().success());
    }
}
