//! What the barrier on the other interfaces knows: prefixes that must not leave there, and what these have in common.
//!
//! Owns the order of changes: at no moment is less barred than before and after. Must not know networks.

use std::collections::BTreeSet;

use aya::maps::{Array, LpmTrie, MapData};
use meshhold_common::{
    Address,
    maps::{Barred, BarrierHint},
};

use super::{
    EbpfError,
    maps::{of, prefix},
};

/// A prefix: its length in the common form of addresses, and its base.
pub(super) type Prefix = (u32, Address);

/// Bits of the common form before an IPv4 address.
const MAPPED_BITS: u32 = 96;

pub(super) struct Barrier {
    prefixes: LpmTrie<MapData, Address, Barred>,
    hint: Array<MapData, BarrierHint>,
}

impl Barrier {
    pub(super) fn new(
        prefixes: LpmTrie<MapData, Address, Barred>,
        hint: Array<MapData, BarrierHint>,
    ) -> Self {
        Self { prefixes, hint }
    }

    /// What a former daemon has barred. A map that was just made says of everything that it may be barred.
    pub(super) fn adopt(&self) -> Result<BTreeSet<Prefix>, EbpfError> {
        let entries = self.prefixes.iter().map(|entry| entry.map(|(key, _)| (key.prefix_len(), key.data())));
        entries.collect::<Result<_, _>>().map_err(of("BARRIER"))
    }

    /// `now` becomes `next`: what is new first, and the hint covers both meanwhile.
    pub(super) fn apply(
        &mut self,
        now: &mut BTreeSet<Prefix>,
        next: BTreeSet<Prefix>,
    ) -> Result<(), EbpfError> {
        if *now == next {
            return Ok(());
        }
        self.tell(&now.union(&next).copied().collect())?;
        for new in next.iter().filter(|new| !now.contains(new)).copied().collect::<Vec<_>>() {
            self.prefixes.insert(&prefix(new), Barred { is: 1 }, 0).map_err(of("BARRIER"))?;
            now.insert(new);
        }
        for gone in now.difference(&next).copied().collect::<Vec<_>>() {
            self.prefixes.remove(&prefix(gone)).map_err(of("BARRIER"))?;
            now.remove(&gone);
        }
        self.tell(&next)
    }

    fn tell(&mut self, prefixes: &BTreeSet<Prefix>) -> Result<(), EbpfError> {
        self.hint.set(0, hint(prefixes), 0).map_err(of("BARRIER_HINT"))
    }
}

fn hint(prefixes: &BTreeSet<Prefix>) -> BarrierHint {
    let v4 = prefixes.iter().filter(|(_, base)| base.is_v4());
    let v4 = v4.map(|(bits, base)| (bits.saturating_sub(MAPPED_BITS), word(base, 3)));
    let v6 = prefixes
        .iter()
        .filter(|(_, base)| !base.is_v4())
        .map(|(bits, base)| ((*bits).min(32), word(base, 0)));
    let ((mask4, value4), (mask6, value6)) = (common(v4), common(v6));
    BarrierHint { mask4, value4, mask6, value6 }
}

fn word(address: &Address, at: usize) -> u32 {
    address.raw().get(at).copied().map(u32::from_be).unwrap_or_default()
}

/// The bits that all of these have in common from the first on, as they lie in memory.
fn common(prefixes: impl Iterator<Item = (u32, u32)>) -> (u32, u32) {
    let joined = prefixes.reduce(|(bits, base), (other_bits, other)| {
        (bits.min(other_bits).min((base ^ other).leading_zeros()), base)
    });
    let Some((bits, base)) = joined else {
        return (BarrierHint::NOTHING.mask4, BarrierHint::NOTHING.value4);
    };
    let mask = u32::MAX.checked_shl(32 - bits).unwrap_or_default();
    (mask.to_be(), (base & mask).to_be())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(octets: [u8; 4], bits: u32) -> Prefix {
        (MAPPED_BITS + bits, Address::v4(octets))
    }

    fn v6(first: u16, second: u16) -> Prefix {
        let [a, b] = first.to_be_bytes();
        let [c, d] = second.to_be_bytes();
        (32, Address::v6([a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]))
    }

    #[test]
    fn the_hint_never_denies_what_is_barred() {
        let prefixes =
            [v4([198, 18, 0, 0], 18), v4([198, 19, 64, 0], 18), v4([10, 0, 0, 0], 8), v6(0xfd12, 1)];
        for count in 1..=prefixes.len() {
            let barred: BTreeSet<Prefix> = prefixes.iter().take(count).copied().collect();
            let hint = hint(&barred);
            assert!(barred.iter().all(|(_, base)| hint.may_hold(base)), "{count}");
        }
    }

    #[test]
    fn the_hint_spares_what_is_far_from_it() {
        let hint = hint(&BTreeSet::from([v4([198, 18, 0, 0], 18), v6(0xfd12, 1)]));
        assert!(
            !hint.may_hold(&Address::v4([198, 18, 64, 1])) && !hint.may_hold(&Address::v4([192, 0, 2, 1]))
        );
        assert!(!hint.may_hold(&v6(0xfd12, 2).1));
        let (none, some) = (Address::v4([0; 4]), Address::v6([0; 16]));
        assert!(!BarrierHint::NOTHING.may_hold(&none) && !BarrierHint::NOTHING.may_hold(&some));
    }
}
