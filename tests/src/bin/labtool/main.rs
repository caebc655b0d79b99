//! The lab's helper: small network programs that tests start inside a host's namespaces.
//!
//! Each prints one line a fact, for the test to read. It knows nothing of MeshHold.

mod ask;
mod bytes;
mod capture;
mod crowd;
mod dht;
mod dns;
mod flood;
mod flow;
mod forget;
mod pour;
mod scan;
mod serve;
mod storm;
mod without_ipv6;

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, bail};

const USAGE: &str = "labtool serve tcp|udp BIND PORT
labtool ask tcp|udp ADDRESS PORT [BYTES]     the address that the server saw, after an echo of BYTES
labtool refused ADDRESS PORT                 a datagram to a port without a service, which must be refused
labtool serve bytes BIND PORT                the other end of `exchange`
labtool exchange ADDRESS PORT SEED TCP_BYTES UDP_BYTES LARGEST SEGMENT   checked content both ways; LARGEST datagram,
                                             and of those that UDP_SEGMENT cuts
labtool await ADDRESS PORT LIMIT_MS          tries until a TCP connection stands
labtool flow ADDRESS PORT                    one long TCP connection, a line for each echo
labtool serve pour BIND PORT                 a download of 20 Mbit/s to each caller, without an end
labtool drink ADDRESS PORT                   takes it, a line for each 10 ms in which bytes came
labtool probe ADDRESS PORT                   a new TCP connection every millisecond
labtool dns BIND PORT ANSWER                  every name has this IPv4 address
labtool dns-times SERVER PORT NAME COUNT      99th percentile of so many answers, in microseconds
labtool dht BIND COUNT                        so many nodes of a BitTorrent DHT that only they are in
labtool crowd ADDRESS PORT COUNT              so many TCP connections at once
labtool visits ADDRESS PORT COUNT             so many short TCP connections
labtool scan tcp|udp ADDRESS STEP            every STEPth port: open, refused, silent
labtool spoof SOURCE SOURCE_PORT ADDRESS PORT   a TCP connection attempt from that source
labtool flood ADDRESS PORT                   junk datagrams of 0 to 65,507 bytes
labtool storm ADDRESS PORT RATE SECONDS own|SOURCE FILE...   RATE datagrams a second: the files in turn, or junk;
                                             from here, or forged from 64 addresses from SOURCE on
labtool hurl ADDRESS PORT FILE...            each file as one datagram
labtool unix-junk SOCKET                     oversized and malformed messages
labtool forget-flows                         empties this namespace's connection tracking
labtool capture FILE                         every packet of this namespace
labtool without-ipv6 PROGRAM ARGUMENT...      a program that gets no socket of that family, as with ipv6.disable=1";

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["serve", "tcp", bind, port] => serve::tcp(target(bind, port)?),
        ["serve", "udp", bind, port] => serve::udp(target(bind, port)?),
        ["serve", "pour", bind, port] => pour::serve(target(bind, port)?),
        ["drink", address, port] => pour::drink(target(address, port)?),
        ["serve", "bytes", bind, port] => bytes::serve(target(bind, port)?),
        ["exchange", address, port, seed, tcp, udp, largest, segment] => {
            let server = target(address, port)?;
            bytes::call(server, seed.parse()?, tcp.parse()?, udp.parse()?, [largest, segment])
        }
        ["ask", "tcp", address, port, size @ ..] => ask::tcp(target(address, port)?, bytes(size)?),
        ["ask", "udp", address, port, size @ ..] => ask::udp(target(address, port)?, bytes(size)?),
        ["refused", address, port] => ask::refused(target(address, port)?),
        ["await", address, port, limit] => ask::until_connected(target(address, port)?, limit.parse()?),
        ["flow", address, port] => flow::run(target(address, port)?),
        ["probe", address, port] => scan::probe(target(address, port)?),
        ["dns-times", server, port, name, count] => dns::ask(target(server, port)?, name, count.parse()?),
        ["dns", bind, port, answer] => dns::serve(target(bind, port)?, answer.parse()?),
        ["dht", bind, count] => dht::serve(bind.parse()?, count.parse()?),
        ["crowd", address, port, count] => crowd::at_once(target(address, port)?, count.parse()?),
        ["visits", address, port, count] => crowd::in_turn(target(address, port)?, count.parse()?),
        ["scan", "tcp", address, step] => scan::tcp(address.parse()?, step.parse()?),
        ["scan", "udp", address, step] => scan::udp(address.parse()?, step.parse()?),
        ["spoof", source, source_port, address, port] => {
            scan::spoof(target(source, source_port)?, target(address, port)?)
        }
        ["flood", address, port] => flood::run(target(address, port)?),
        ["storm", address, port, rate, seconds, source, files @ ..] => {
            storm::run(target(address, port)?, rate.parse()?, seconds.parse()?, source, files)
        }
        ["hurl", address, port, files @ ..] => flood::files(target(address, port)?, files),
        ["unix-junk", socket] => flood::unix(socket),
        ["forget-flows"] => forget::run(),
        ["capture", file] => capture::run(file),
        ["without-ipv6", program, arguments @ ..] => without_ipv6::run(program, arguments),
        _ => bail!("usage:\n{USAGE}"),
    }
}

fn target(address: &str, port: &str) -> Result<SocketAddr> {
    let address: IpAddr = address.parse().with_context(|| format!("not an address: {address}"))?;
    Ok(SocketAddr::new(address, port.parse().with_context(|| format!("not a port: {port}"))?))
}

fn bytes(size: &[&str]) -> Result<usize> {
    size.first().map_or(Ok(64), |size| Ok(size.parse()?))
}
