//! Which IPv4 range a new network gets: a random one of the space that nothing on this host uses.

use meshhold_core::key::Ipv4Range;
use rand_core::CryptoRngCore;
use std::net::Ipv4Addr;

/// Addresses in use on this host: base and prefix length.
pub type Used = (Ipv4Addr, u8);

/// A random range of `space` that overlaps nothing in `used`; `None` when all are taken.
pub fn pick(space: Ipv4Range, used: &[Used], rng: &mut impl CryptoRngCore) -> Option<Ipv4Range> {
    let free: Vec<Ipv4Range> =
        Ipv4Range::networks(space).filter(|range| conflict(*range, used).is_none()).collect();
    let count = u32::try_from(free.len()).ok().filter(|count| *count > 0)?;
    // At most 1024 candidates: the bias of the remainder is below 2^-21.
    free.get((rng.next_u32() % count) as usize).copied()
}

/// The first of `used` that overlaps `range`.
pub fn conflict(range: Ipv4Range, used: &[Used]) -> Option<Used> {
    used.iter().copied().find(|(base, prefix)| {
        let common = mask(range.prefix.min(*prefix));
        range.base.to_bits() & common == base.to_bits() & common
    })
}

/// The host's IPv4 routes, without default routes. Empty where the system doesn't tell.
pub fn host_routes() -> Vec<Used> {
    parse_routes(&std::fs::read_to_string("/proc/net/route").unwrap_or_default())
}

/// Columns of `/proc/net/route`: interface, destination, gateway, flags, …, mask (8th), addresses in hex
/// as the kernel holds them in memory.
fn parse_routes(table: &str) -> Vec<Used> {
    let address =
        |text: &str| u32::from_str_radix(text, 16).ok().map(|raw| Ipv4Addr::from(raw.to_ne_bytes()));
    let route = |line: &str| {
        let mut columns = line.split_whitespace();
        let base = address(columns.nth(1)?)?;
        let prefix = address(columns.nth(5)?)?.to_bits().leading_ones() as u8;
        Some((base, prefix)).filter(|_| prefix > 0)
    };
    table.lines().skip(1).filter_map(route).collect()
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::OsRng;

    fn range(text: &str) -> Ipv4Range {
        text.parse().unwrap()
    }

    #[test]
    fn default_space_has_eight_ranges_and_picks_the_free_one() {
        let space = range("198.18.0.0/15");
        let all: Vec<Used> = Ipv4Range::networks(space).map(|range| (range.base, range.prefix)).collect();
        assert_eq!(all.len(), 8);
        for free in 0..8 {
            let used: Vec<Used> =
                all.iter().copied().enumerate().filter(|(i, _)| *i != free).map(|(_, u)| u).collect();
            let picked = pick(space, &used, &mut OsRng).unwrap();
            assert_eq!((picked.base, picked.prefix), all[free]);
        }
        assert!(pick(space, &all, &mut OsRng).is_none());
    }

    #[test]
    fn a_small_space_is_one_range() {
        let picked = pick(range("10.77.4.0/24"), &[], &mut OsRng).unwrap();
        assert_eq!(picked.to_string(), "10.77.4.0/24");
    }

    #[test]
    fn wider_and_narrower_routes_conflict() {
        let wanted = range("198.18.64.0/18");
        for (used, conflicts) in [
            ("198.18.0.0", 15, true),
            ("198.18.65.9", 32, true),
            ("198.18.128.0", 18, false),
            ("10.0.0.0", 8, false),
        ]
        .map(|(base, prefix, conflicts)| ((base.parse().unwrap(), prefix), conflicts))
        {
            assert_eq!(conflict(wanted, &[used]).is_some(), conflicts, "{used:?}");
        }
    }

    #[test]
    fn reads_the_kernels_route_table() {
        let hex = |address: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(address));
        let line =
            |base, mask| format!("eth0\t{}\t00000000\t0001\t0\t0\t0\t{}\t0\t0\t0\n", hex(base), hex(mask));
        let table = format!(
            "Iface\tDestination\n{}{}garbage\n",
            line([0; 4], [0; 4]),
            line([198, 18, 0, 0], [255, 254, 0, 0])
        );
        assert_eq!(parse_routes(&table), [(Ipv4Addr::new(198, 18, 0, 0), 15)]);
    }
}
