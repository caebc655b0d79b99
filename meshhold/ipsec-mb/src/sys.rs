//! The calls of `shim.c`, made safe.
//!
//! Owns the library's manager, which does one thing at a time and is one thread's. Must not know what a key is for.

use std::ptr::NonNull;

use zeroize::Zeroize;

use crate::{Direction, KEY, NONCE, TAG, Text};

/// Room for an expanded AES-256-GCM key, in bytes, by `build.rs`.
const GCM_KEY: usize = match usize::from_str_radix(env!("GCM_KEY"), 10) {
    Ok(bytes) => bytes,
    Err(_) => panic!("build.rs gives a number"),
};

/// `IMB_MGR` (intel-ipsec-mb.h).
#[repr(C)]
struct Mgr {
    _opaque: [u8; 0],
}

/// `struct gcm_key_data` (intel-ipsec-mb.h), and what is left of its room.
#[repr(C, align(64))]
pub(crate) struct GcmKey([u8; GCM_KEY]);

impl Drop for GcmKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

unsafe extern "C" {
    fn meshhold_mb_new() -> *mut Mgr;
    fn meshhold_mb_free(mgr: *mut Mgr);
    fn meshhold_mb_gcm_key(mgr: *mut Mgr, key: *const u8, expanded: *mut GcmKey);
    fn meshhold_mb_gcm(
        mgr: *mut Mgr,
        seal: bool,
        key: *const GcmKey,
        nonce: *const u8,
        input: *const u8,
        output: *mut u8,
        len: u64,
        tag: *mut u8,
    );
    fn meshhold_mb_chacha(
        mgr: *mut Mgr,
        seal: bool,
        key: *const u8,
        nonce: *const u8,
        input: *const u8,
        output: *mut u8,
        len: u64,
        tag: *mut u8,
    ) -> bool;
}

impl Text<'_> {
    /// Beginning of what is read and of what is written, and the length of both; `None` where they differ in it.
    fn parts(&mut self) -> Option<(*const u8, *mut u8, u64)> {
        let to = self.to.as_mut_ptr();
        let from = self.from.map_or(to.cast_const(), <[u8]>::as_ptr);
        let len = self.to.len();
        (self.from.is_none_or(|from| from.len() == len)).then_some((from, to, len as u64))
    }
}

/// A manager of the library, of the thread that made it.
pub(crate) struct Manager(NonNull<Mgr>);

impl Manager {
    /// `None` without memory, and on a processor that the library isn't fast on.
    pub(crate) fn new() -> Option<Self> {
        // SAFETY: takes nothing, and gives a manager that is ours alone or NULL.
        NonNull::new(unsafe { meshhold_mb_new() }).map(Self)
    }

    pub(crate) fn gcm_key(&self, key: &[u8; KEY]) -> Box<GcmKey> {
        let mut expanded = Box::new(GcmKey([0; GCM_KEY]));
        // SAFETY: the manager lives; the call reads 32 bytes and writes one `gcm_key_data`, for which build.rs had the
        // compiler see that there is room.
        unsafe { meshhold_mb_gcm_key(self.0.as_ptr(), key.as_ptr(), &raw mut *expanded) };
        expanded
    }

    /// The tag, with AES-256-GCM; `None` where `text` is of two lengths.
    pub(crate) fn gcm(
        &self,
        direction: Direction,
        key: &GcmKey,
        nonce: &[u8; NONCE],
        mut text: Text<'_>,
    ) -> Option<[u8; TAG]> {
        let (from, to, len) = text.parts()?;
        let (mut tag, seal) = ([0; TAG], direction == Direction::Seal);
        // SAFETY: the manager is this thread's, and no other call runs; key, nonce and tag are as long as the function says,
        // and `from` and `to` are `len` bytes, the same or apart.
        unsafe {
            meshhold_mb_gcm(self.0.as_ptr(), seal, key, nonce.as_ptr(), from, to, len, tag.as_mut_ptr());
        }
        Some(tag)
    }

    /// The tag, with ChaCha20-Poly1305; `None` where `text` is of two lengths or the library fails.
    pub(crate) fn chacha(
        &self,
        direction: Direction,
        key: &[u8; KEY],
        nonce: &[u8; NONCE],
        mut text: Text<'_>,
    ) -> Option<[u8; TAG]> {
        let (from, to, len) = text.parts()?;
        let (mut tag, seal) = ([0; TAG], direction == Direction::Seal);
        let (mgr, out) = (self.0.as_ptr(), tag.as_mut_ptr());
        // SAFETY: as for `gcm`. The library keeps the addresses of what it was given, and reads them in this call only.
        let done = unsafe { meshhold_mb_chacha(mgr, seal, key.as_ptr(), nonce.as_ptr(), from, to, len, out) };
        done.then_some(tag)
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        // SAFETY: it is ours, and nobody has it after this.
        unsafe { meshhold_mb_free(self.0.as_ptr()) };
    }
}
