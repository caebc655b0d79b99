//! A BitTorrent DHT of its own: nodes that know each other and nobody else.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use mainline::Testnet;

pub(crate) fn serve(bind: Ipv4Addr, count: usize) -> Result<()> {
    let built = Testnet::builder(count).bind_address(bind).build();
    let testnet = built.with_context(|| format!("cannot start a DHT on {bind}"))?;
    for node in &testnet.bootstrap {
        println!("node {node}");
    }
    println!("serving dht {bind}");
    loop {
        std::thread::park();
    }
}
