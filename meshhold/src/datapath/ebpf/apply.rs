//! Brings the kernel tables from what they hold to what they should hold, in an order that never opens more than
//! either of the two.

use std::{collections::BTreeMap, fs, io, mem};

use meshhold_common::maps::{Generation, PORT_WORDS, PortBits, RETIRED_SECONDS, port_slot};
use meshhold_common::packet::{TCP, UDP};

use super::{
    EbpfError,
    maps::{Maps, of, prefix},
    wanted::{Bits, Wanted},
};

/// Ports that were closed a short while ago, see [`meshhold_common::Host::is_retired`].
#[derive(Clone)]
pub(super) struct Retired {
    pub(super) generation: Generation,
    pub(super) bits: [Bits; 2],
}

impl Default for Retired {
    fn default() -> Self {
        let empty = || Box::new([0; PORT_WORDS]);
        Self { generation: Generation::default(), bits: [empty(), empty()] }
    }
}

impl Maps {
    /// `now` becomes `next` step by step, so that after a failure it still says what the kernel holds.
    pub(super) fn apply(&mut self, now: &mut Wanted, next: Wanted) -> Result<(), EbpfError> {
        if *now == next {
            return Ok(());
        }
        let changed = self.change(now, next);
        // Half a change ends decisions as well.
        changed.and(self.advance())
    }

    fn change(&mut self, now: &mut Wanted, next: Wanted) -> Result<(), EbpfError> {
        let Wanted { own, ranges, barred, peers, callers, devices, lans, scopes } = next;
        // Closing: without an own address nothing passes; a moved index can't inherit anything.
        for key in changed(&now.own, &own) {
            self.own.remove(&key).map_err(of("OWN"))?;
            now.own.remove(&key);
        }
        // The flows of a device that moved lead to its old place.
        for key in changed(&now.devices, &devices) {
            self.devices.remove(&key).map_err(of("DEVICES"))?;
            now.devices.remove(&key);
            self.translations.forget(|device| *device == key)?;
        }
        for key in gone(&now.callers, &callers) {
            self.callers.remove(&key).map_err(of("CALLERS"))?;
            now.callers.remove(&key);
        }
        for key in gone(&now.peers, &peers) {
            self.peers.remove(&key).map_err(of("PEERS"))?;
            now.peers.remove(&key);
        }
        self.apply_scopes(&mut now.scopes, scopes)?;
        self.barrier.apply(&mut now.barred, barred)?;
        // The guards follow the ranges: added before an address can be ours, removed after.
        let leaving = gone(&now.ranges, &ranges);
        for (key, range) in new(&now.ranges, ranges) {
            self.ranges.insert(&prefix(key), range, 0).map_err(of("RANGES"))?;
            now.ranges.insert(key, range);
        }
        for key in leaving {
            self.ranges.remove(&prefix(key)).map_err(of("RANGES"))?;
            now.ranges.remove(&key);
        }
        for (key, entry) in new(&now.peers, peers) {
            self.peers.insert(key, entry, 0).map_err(of("PEERS"))?;
            now.peers.insert(key, entry);
        }
        for (key, entry) in new(&now.callers, callers) {
            self.callers.insert(key, entry, 0).map_err(of("CALLERS"))?;
            now.callers.insert(key, entry);
        }
        for (key, entry) in new(&now.devices, devices) {
            self.devices.insert(key, entry, 0).map_err(of("DEVICES"))?;
            now.devices.insert(key, entry);
        }
        now.lans = lans;
        for (key, entry) in new(&now.own, own) {
            self.own.insert(key, entry, 0).map_err(of("OWN"))?;
            now.own.insert(key, entry);
        }
        pack(&mut now.peers);
        pack(&mut now.callers);
        Ok(())
    }

    fn apply_scopes(
        &mut self,
        now: &mut BTreeMap<u32, [Bits; 2]>,
        mut next: BTreeMap<u32, [Bits; 2]>,
    ) -> Result<(), EbpfError> {
        for network in now.keys() {
            next.entry(*network).or_insert_with(|| Retired::default().bits);
        }
        for (network, scope) in next {
            let old = now.entry(network).or_insert_with(|| Retired::default().bits);
            if *old != scope {
                self.flip(network, old, &scope)?;
                *old = scope;
            }
        }
        Ok(())
    }

    /// Writes the scope into the generation that is not in use, then makes it the one in use: one word changes.
    fn flip(&mut self, network: u32, old: &[Bits; 2], scope: &[Bits; 2]) -> Result<(), EbpfError> {
        let uptime = uptime_seconds()?;
        let retired = self.retired.entry(network).or_default();
        if retired.generation.retired_until <= uptime {
            retired.bits = Retired::default().bits;
        }
        let generation =
            Generation { active: retired.generation.active ^ 1, retired_until: uptime + RETIRED_SECONDS };
        for (protocol, ((old, new), retired)) in
            [TCP, UDP].into_iter().zip(old.iter().zip(scope).zip(&mut retired.bits))
        {
            for ((retired, old), new) in retired.iter_mut().zip(old.iter()).zip(new.iter()) {
                *retired = (*retired | old) & !new;
            }
            let bits = PortBits { open: **new, retired: **retired };
            self.ports.set(port_slot(network, protocol, generation.active), bits, 0).map_err(of("PORTS"))?;
        }
        self.generations.set(network, generation, 0).map_err(of("GENERATIONS"))?;
        retired.generation = generation;
        Ok(())
    }
}

/// Keys whose entry ends, with another value or for good.
fn changed<K: Ord + Copy, V: PartialEq>(now: &BTreeMap<K, V>, next: &BTreeMap<K, V>) -> Vec<K> {
    now.iter().filter(|(key, value)| next.get(key) != Some(value)).map(|(key, _)| *key).collect()
}

/// Keys that end for good; the others are overwritten in place, so that their packets never miss them.
fn gone<K: Ord + Copy, V>(now: &BTreeMap<K, V>, next: &BTreeMap<K, V>) -> Vec<K> {
    now.keys().filter(|key| !next.contains_key(key)).copied().collect()
}

/// Entries that are missing or hold another value.
fn new<K: Ord + Copy, V: PartialEq>(now: &BTreeMap<K, V>, next: BTreeMap<K, V>) -> Vec<(K, V)> {
    next.into_iter().filter(|(key, value)| now.get(key) != Some(value)).collect()
}

/// Builds it anew. What comes in order leaves the nodes of a B-tree half empty; what comes at once fills them.
fn pack<K: Ord, V>(table: &mut BTreeMap<K, V>) {
    *table = mem::take(table).into_iter().collect();
}

/// The clock of the kernel programs, in seconds.
fn uptime_seconds() -> Result<u32, EbpfError> {
    let text = fs::read_to_string("/proc/uptime").map_err(EbpfError::Uptime)?;
    let whole = text.split('.').next().and_then(|whole| whole.parse().ok());
    whole.ok_or_else(|| EbpfError::Uptime(io::Error::other(format!("unexpected content {text:?}"))))
}
