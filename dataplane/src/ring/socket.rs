//! Sockets and files outside the ring: made, tuned, asked. Each function is one or two system
//! calls.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A TCP socket for a connection to `address`.
///
/// # Errors
/// No descriptor is left, or the family is not there.
pub fn tcp(address: &SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: socket takes no pointers.
    let fd = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: fd was just made and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Size of a small structure, as the kernel wants it.
#[expect(clippy::cast_possible_truncation, reason = "a structure of a few hundred bytes")]
pub(super) const fn size<T>() -> libc::socklen_t {
    size_of::<T>() as libc::socklen_t
}

fn set(fd: BorrowedFd<'_>, level: i32, name: i32, value: libc::c_int) -> io::Result<()> {
    // SAFETY: value is readable for its own size for the length of the call.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size::<libc::c_int>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sends what is there at once: heads and last bytes are small, and nobody will send more behind
/// them.
///
/// # Errors
/// Not a TCP socket.
pub fn no_delay(fd: BorrowedFd<'_>) -> io::Result<()> {
    set(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)
}

/// Sends what the socket takes at this moment, without waiting; how many bytes that were. For
/// heads: they are small, and what follows them waits for them.
///
/// # Errors
/// The connection is broken.
pub fn send_now(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: bytes is readable for its length for the length of the call.
    let sent = unsafe { libc::send(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) };
    match usize::try_from(sent) {
        Ok(sent) => Ok(sent),
        Err(_) => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            error => Err(error),
        },
    }
}

/// Takes bytes off a socket that lie there and were looked at already; how many that were.
///
/// # Errors
/// The connection is broken.
pub fn discard_now(fd: BorrowedFd<'_>, bytes: usize) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
    // SAFETY: with MSG_TRUNC a TCP socket drops the bytes instead of writing them (tcp(7)).
    let got = unsafe { libc::recv(fd.as_raw_fd(), std::ptr::null_mut(), bytes, flags) };
    usize::try_from(got).map_err(|_| io::Error::last_os_error())
}

/// Ends both directions: whatever is in flight on the socket completes.
pub fn shutdown(fd: BorrowedFd<'_>) {
    // SAFETY: shutdown takes no pointers. ENOTCONN means that it has happened already.
    unsafe { libc::shutdown(fd.as_raw_fd(), libc::SHUT_RDWR) };
}

/// The kernel's name of a socket, by which the probes know it (`SO_COOKIE`). 0 if it has none.
pub fn cookie(fd: BorrowedFd<'_>) -> u64 {
    let mut cookie = 0u64;
    let mut length = size::<u64>();
    // SAFETY: cookie and length are writable for their sizes for the length of the call.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { cookie } else { 0 }
}

/// What `TCP_INFO` tells of a connection (`struct tcp_info`, Linux 6.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TcpInfo {
    /// State, as in `include/net/tcp_states.h`.
    pub state: u8,
    /// Smoothed round-trip time, µs.
    pub srtt_us: u32,
    /// Least round-trip time, µs.
    pub min_rtt_us: u32,
    /// Congestion window, segments.
    pub cwnd: u32,
    /// Segments retransmitted.
    pub total_retrans: u32,
    /// Payload bytes acknowledged by the other side, SYN and FIN included.
    pub bytes_acked: u64,
    /// Payload bytes received, FIN included.
    pub bytes_received: u64,
    /// Time with data in flight or to be sent, µs.
    pub busy_time_us: u64,
    /// Of it, time limited by the receiver's window, µs.
    pub rwnd_limited_us: u64,
    /// Of it, time limited by the send buffer, µs.
    pub sndbuf_limited_us: u64,
    /// Latest delivery rate, bytes per second.
    pub delivery_rate: u64,
    /// Bytes in the send queue that were not sent yet.
    pub notsent_bytes: u32,
}

/// Asks the kernel about a connection.
///
/// # Errors
/// Not a TCP socket.
pub fn tcp_info(fd: BorrowedFd<'_>) -> io::Result<TcpInfo> {
    let mut raw = [0u8; 256];
    let mut length = size::<[u8; 256]>();
    // SAFETY: raw and length are writable for their sizes for the length of the call.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            raw.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(parse_tcp_info(&raw))
}

/// Offsets of `struct tcp_info` (include/uapi/linux/tcp.h); the kernel only ever appends to it.
fn parse_tcp_info(raw: &[u8; 256]) -> TcpInfo {
    let u32_at = |at: usize| u32::from_ne_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]]);
    let u64_at = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&raw[at..at + 8]);
        u64::from_ne_bytes(bytes)
    };
    TcpInfo {
        state: raw[0],
        srtt_us: u32_at(68),
        cwnd: u32_at(80),
        total_retrans: u32_at(100),
        bytes_acked: u64_at(120),
        bytes_received: u64_at(128),
        notsent_bytes: u32_at(144),
        min_rtt_us: u32_at(148),
        delivery_rate: u64_at(160),
        busy_time_us: u64_at(168),
        rwnd_limited_us: u64_at(176),
        sndbuf_limited_us: u64_at(184),
    }
}

/// How much memory this process may lock, bytes; `u64::MAX` without a limit.
pub fn lockable_bytes() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: limit is writable for the length of the call.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    if result != 0 { 0 } else { limit.rlim_cur }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn tcp_info_counts_bytes() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(&[7; 1000]).unwrap();
        server.read_exact(&mut [0; 1000]).unwrap();
        let info = tcp_info(server.as_fd()).unwrap();
        assert_eq!(info.bytes_received, 1000);
        assert_eq!(info.state, 1, "established");
        assert!(info.cwnd > 0 && info.cwnd < 1000, "cwnd {}", info.cwnd);
        assert_ne!(cookie(client.as_fd()), cookie(server.as_fd()));
    }

    #[test]
    fn sends_and_discards_without_waiting() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        assert_eq!(send_now(server.as_fd(), b"headbody").unwrap(), 8);
        assert_eq!(client.peek(&mut [0; 16]).unwrap(), 8);
        assert_eq!(discard_now(client.as_fd(), 4).unwrap(), 4);
        let mut rest = [0; 4];
        client.read_exact(&mut rest).unwrap();
        assert_eq!(&rest, b"body");
        let much = vec![0; 1 << 20];
        while send_now(server.as_fd(), &much).unwrap() > 0 {}
        drop(client);
        while send_now(server.as_fd(), &much).is_ok() {}
    }
}
