//! A minimal io_uring, for a relay that compares ways to send; the daemon has one of its own.

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, OwnedFd};

use super::Region;

/// Operations that a [`Ring`] can be given before it waits.
const ENTRIES: u32 = 64;
/// A ring in which nothing ends for this long has failed, in seconds.
const SILENCE_MAX_S: u64 = 60;

/// How a [`Ring`] sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    /// SEND: the kernel copies.
    Plain,
    /// SEND_ZC: the kernel reads the buffer until it says that it does not any more.
    ZeroCopy,
    /// WRITE_FIXED, from the registered buffer.
    WriteFixed,
}

/// What became of an operation.
#[derive(Debug)]
pub struct Done {
    /// The name that it was given.
    pub name: u64,
    /// Bytes, or why there are none.
    pub outcome: io::Result<u32>,
    /// Another one of the same name will follow: the kernel still reads the buffer.
    pub more: bool,
    /// This is that other one.
    pub notified: bool,
}

/// A minimal io_uring over one registered buffer, one source, some readers and a file.
pub struct Ring {
    io: IoUring,
    /// Not dropped while the kernel may still use it.
    buffer: ManuallyDrop<Region>,
    in_flight: u64,
    input: OwnedFd,
    readers: Vec<OwnedFd>,
    file: OwnedFd,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("in_flight", &self.in_flight).finish_non_exhaustive()
    }
}

impl Ring {
    /// Opens one, set up as the daemon's is, and registers the buffer.
    ///
    /// # Errors
    /// The kernel's: too old, forbidden, or too little memory may be locked.
    pub fn new(
        mut buffer: Region,
        input: OwnedFd,
        readers: Vec<OwnedFd>,
        file: OwnedFd,
    ) -> io::Result<Self> {
        let mut builder = IoUring::builder();
        let io = builder.setup_single_issuer().setup_defer_taskrun().build(ENTRIES)?;
        let part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        // SAFETY: the buffer is mapped until the ring has no operation in flight; see `drop`.
        unsafe { io.submitter().register_buffers(&[part])? };
        Ok(Self { io, buffer: ManuallyDrop::new(buffer), in_flight: 0, input, readers, file })
    }

    /// Where a part of the buffer is.
    fn part(&mut self, at: u64, bytes: u64) -> io::Result<(*mut u8, u32)> {
        let (at, len) = (usize::try_from(at), usize::try_from(bytes));
        let (at, len) = (at.map_err(io::Error::other)?, len.map_err(io::Error::other)?);
        let part = self.buffer.get_mut(at..at + len).ok_or(io::ErrorKind::InvalidInput)?;
        Ok((part.as_mut_ptr(), u32::try_from(bytes).map_err(io::Error::other)?))
    }

    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: entries are made by this type alone: they point into its buffer, which stays
        // mapped until their last completion, and name descriptors that it owns.
        unsafe { self.io.submission().push(entry) }.map_err(io::Error::other)?;
        self.in_flight += 1;
        Ok(())
    }

    /// Receives what is there into a part of the buffer; 0 at the end.
    ///
    /// # Errors
    /// No such part, or too many operations.
    pub fn receive(&mut self, at: u64, bytes: u64, name: u64) -> io::Result<()> {
        let (pointer, len) = self.part(at, bytes)?;
        let entry = opcode::Recv::new(types::Fd(self.input.as_raw_fd()), pointer, len).build();
        self.push(&entry.user_data(name))
    }

    /// Sends a part of the buffer to a reader.
    ///
    /// # Errors
    /// As [`Self::receive`].
    pub fn send(
        &mut self,
        reader: usize,
        how: Sending,
        at: u64,
        bytes: u64,
        name: u64,
    ) -> io::Result<()> {
        let (pointer, len) = self.part(at, bytes)?;
        let socket = self.readers.get(reader).ok_or(io::ErrorKind::InvalidInput)?;
        let socket = types::Fd(socket.as_raw_fd());
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        let entry = match how {
            Sending::Plain => opcode::Send::new(socket, pointer, len).flags(flags).build(),
            Sending::ZeroCopy => opcode::SendZc::new(socket, pointer, len).flags(flags).build(),
            Sending::WriteFixed => opcode::WriteFixed::new(socket, pointer, len, 0).build(),
        };
        self.push(&entry.user_data(name))
    }

    /// Writes a part of the buffer to the file.
    ///
    /// # Errors
    /// As [`Self::receive`].
    pub fn write(&mut self, at: u64, bytes: u64, offset: u64, name: u64) -> io::Result<()> {
        let (pointer, len) = self.part(at, bytes)?;
        let file = types::Fd(self.file.as_raw_fd());
        let entry = opcode::WriteFixed::new(file, pointer, len, 0).offset(offset).build();
        self.push(&entry.user_data(name))
    }

    /// Submits, and waits until something has ended.
    ///
    /// # Errors
    /// The kernel's; nothing ends for a minute.
    pub fn wait(&mut self) -> io::Result<Vec<Done>> {
        let most = types::Timespec::new().sec(SILENCE_MAX_S);
        let bound = types::SubmitArgs::new().timespec(&most);
        match self.io.submitter().submit_with_args(1, &bound) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        let ended: Vec<cqueue::Entry> = self.io.completion().collect();
        let done = ended.iter().map(|entry| {
            let more = cqueue::more(entry.flags());
            self.in_flight -= u64::from(!more);
            Done {
                name: entry.user_data(),
                outcome: u32::try_from(entry.result())
                    .map_err(|_| io::Error::from_raw_os_error(-entry.result())),
                more,
                notified: cqueue::notif(entry.flags()),
            }
        });
        Ok(done.collect())
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.in_flight == 0 {
            // SAFETY: no operation is in flight, so the kernel uses the buffer no longer; and it is
            // not used again here.
            unsafe { ManuallyDrop::drop(&mut self.buffer) };
        }
    }
}
