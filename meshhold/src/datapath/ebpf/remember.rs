//! What the programs remember of packets, given to programs of their own: a question is judged as a packet would be.
//!
//! Owns the maps that only the programs write. The ones that are asked change; the ones in force never do.

use std::borrow::BorrowMut;

use aya::{
    Pod,
    maps::{Array, HashMap, MapData, MapError},
};
use meshhold_common::{
    maps::{Flow, FlowKey, Fragment, FragmentKey, MAX_NETWORKS, OPENED_SLOTS, Opened},
    nat::Inward,
};

use super::{EbpfDatapath, EbpfError, maps::of};

/// Flows and fragments under way.
pub(super) struct State {
    pub(super) flows: HashMap<MapData, FlowKey, Flow>,
    pub(super) opened: Array<MapData, Opened>,
    pub(super) fragments: HashMap<MapData, FragmentKey, Fragment>,
    pub(super) pieces: HashMap<MapData, FragmentKey, Inward>,
}

impl EbpfDatapath {
    /// Takes over what the programs of `live` remember, and its ports with those closed a while ago. Meant for programs that
    /// are attached to nothing and hold the policy of `live`.
    ///
    /// # Errors
    /// [`EbpfError::Map`]
    pub fn remember(&mut self, live: &Self) -> Result<(), EbpfError> {
        let (own, other) = (&mut self.maps, &live.maps);
        slots(&mut own.ports, &other.ports, 4 * MAX_NETWORKS).map_err(of("PORTS"))?;
        slots(&mut own.generations, &other.generations, MAX_NETWORKS).map_err(of("GENERATIONS"))?;
        slots(&mut own.state.opened, &other.state.opened, OPENED_SLOTS).map_err(of("OPENED"))?;
        entries(&mut own.state.flows, &other.state.flows).map_err(of("FLOWS"))?;
        entries(&mut own.state.fragments, &other.state.fragments).map_err(of("FRAGMENTS"))?;
        entries(&mut own.state.pieces, &other.state.pieces).map_err(of("NAT_PIECES"))?;
        own.translations.remember(&other.translations)
    }
}

fn slots<T: BorrowMut<MapData>, V: Pod>(
    to: &mut Array<T, V>,
    from: &Array<T, V>,
    count: u32,
) -> Result<(), MapError> {
    (0..count).try_for_each(|slot| to.set(slot, from.get(&slot, 0)?, 0))
}

/// What goes while it is read is left out.
pub(super) fn entries<K: Pod, V: Pod>(
    to: &mut HashMap<MapData, K, V>,
    from: &HashMap<MapData, K, V>,
) -> Result<(), MapError> {
    for key in from.keys() {
        let key = key?;
        match from.get(&key, 0) {
            Ok(value) => to.insert(key, value, 0)?,
            Err(MapError::KeyNotFound) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
