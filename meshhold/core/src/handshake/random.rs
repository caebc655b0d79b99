//! Randomness for the pure core: a generator that is seeded once.
//!
//! Owns the expansion of a 32-byte seed (BLAKE3 as an extendable output). Must not know the system's source.

use rand_core::{CryptoRng, Error, RngCore};

/// Expands a secret seed. Whoever creates it must draw the seed from the system.
pub struct SeededRng(blake3::OutputReader);

impl SeededRng {
    /// The generator of this seed.
    pub fn new(seed: [u8; 32]) -> Self {
        Self(blake3::Hasher::new_derive_key("meshhold v1 randomness").update(&seed).finalize_xof())
    }

    /// An independent generator.
    pub fn fork(&mut self) -> Self {
        let mut seed = [0; 32];
        self.fill_bytes(&mut seed);
        Self::new(seed)
    }
}

impl core::fmt::Debug for SeededRng {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("SeededRng(..)")
    }
}

impl RngCore for SeededRng {
    fn next_u32(&mut self) -> u32 {
        let mut bytes = [0; 4];
        self.fill_bytes(&mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.fill_bytes(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    fn fill_bytes(&mut self, dest: &mut [u8]) {
        self.0.fill(dest);
    }

    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), Error> {
        self.fill_bytes(dest);
        Ok(())
    }
}

impl CryptoRng for SeededRng {}

impl snow::types::Random for SeededRng {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        self.fill_bytes(dest);
        Ok(())
    }
}
