//! `sendmmsg` and `recvmmsg`: the load program must cost little of the processors that the tunnel needs.
//!
//! Owns this package's `unsafe`.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Most datagrams of one call.
pub(super) const BATCH: usize = 64;

pub(super) use meshhold::platform::linux::sys_net::set_option;

/// Sets a socket buffer beyond the system's limit (root).
pub(super) fn set_buffer(socket: BorrowedFd<'_>, option: libc::c_int, bytes: libc::c_int) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, option, bytes)
}

/// Sends `payload` up to `count` times on a connected socket; how many went.
pub(super) fn send(socket: BorrowedFd<'_>, payload: &[u8], count: usize) -> io::Result<usize> {
    let mut vector = libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() };
    let mut messages = [message(&raw mut vector); BATCH];
    let count = count.min(BATCH) as libc::c_uint;
    // SAFETY: `count` initialised messages; each names `vector`, which lives on and is only read through.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count, 0) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Waits for datagrams and takes up to [`BATCH`]; how many came.
pub(super) fn receive(socket: BorrowedFd<'_>, buffers: &mut [[u8; 2048]]) -> io::Result<usize> {
    let mut vectors = [const { libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 } }; BATCH];
    let mut messages = [message(std::ptr::null_mut()); BATCH];
    let mut count = 0;
    for ((vector, message), buffer) in vectors.iter_mut().zip(&mut messages).zip(buffers) {
        *vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        message.msg_hdr.msg_iov = vector;
        count += 1;
    }
    let flags = libc::MSG_WAITFORONE;
    // SAFETY: `count` messages name as many vectors, which name as many buffers; all live on and are writable.
    let received = unsafe {
        libc::recvmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count, flags as _, std::ptr::null_mut())
    };
    usize::try_from(received).map_err(|_| io::Error::last_os_error())
}

fn message(vector: *mut libc::iovec) -> libc::mmsghdr {
    // SAFETY: mmsghdr is plain old data; all zeroes is a valid value (it has private padding).
    let mut message: libc::mmsghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_hdr.msg_iov = vector;
    message.msg_hdr.msg_iovlen = 1;
    message
}
