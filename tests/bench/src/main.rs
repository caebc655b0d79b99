//! The programs behind `cargo xtask bench`: a bare tunnel that bounds what any tunnel can do here, a load of small
//! datagrams, streams that begin together, and members on paper. Each prints JSON or one line a fact. Only `members`
//! knows MeshHold's protocol.

mod copy;
mod load;
mod members;
mod streams;

use anyhow::{Context, Result, bail};

const USAGE: &str =
    "benchtool copy split|slice aes-128-gcm|chacha20-poly1305 INTERFACE LOCAL:PORT REMOTE:PORT
benchtool receive BIND:PORT                counts datagrams; TCP on the same port asks for the count
benchtool probe ADDRESS:PORT BYTES         the highest rate with at most 1 % loss
benchtool flood ADDRESS:PORT BYTES MILLIS  as fast as the sender can
benchtool sink BIND:PORT                   takes any number of streams
benchtool pour ADDRESS:PORT START MILLIS   a stream to a sink, from START on (Unix milliseconds)
benchtool members COUNT                    a node's state with COUNT members of the networks whose keys come in, a line each";

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
        ["sink", bind] => streams::sink(address(bind)?),
        ["pour", target, start, millis] => streams::pour(address(target)?, start.parse()?, millis.parse()?),
        ["members", count] => members::print(count.parse()?),
        _ => bail!("usage:\n{USAGE}"),
    }
}

fn address(text: &str) -> Result<std::net::SocketAddr> {
    text.parse().with_context(|| format!("not an address and a port: {text}"))
}
