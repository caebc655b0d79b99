//! The programs behind `cargo xtask bench`: a bare tunnel that bounds what any tunnel can do here, and a load of
//! small datagrams. Each prints JSON or one line a fact. Knows nothing of MeshHold.

mod copy;
mod load;

use anyhow::{Context, Result, bail};

const USAGE: &str =
    "benchtool copy split|slice aes-128-gcm|chacha20-poly1305 INTERFACE LOCAL:PORT REMOTE:PORT
benchtool receive BIND:PORT                counts datagrams; TCP on the same port asks for the count
benchtool probe ADDRESS:PORT BYTES         the highest rate with at most 1 % loss
benchtool flood ADDRESS:PORT BYTES MILLIS  as fast as the sender can";

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["copy", mode, cipher, interface, local, remote] => {
            copy::run(mode.parse()?, cipher, interface, address(local)?, address(remote)?)
        }
        ["receive", bind] => load::receiver::run(address(bind)?),
        ["probe", target, size] => load::probe(address(target)?, size.parse()?),
        ["flood", target, size, millis] => load::flood(address(target)?, size.parse()?, millis.parse()?),
        _ => bail!("usage:\n{USAGE}"),
    }
}

fn address(text: &str) -> Result<std::net::SocketAddr> {
    text.parse().with_context(|| format!("not an address and a port: {text}"))
}
