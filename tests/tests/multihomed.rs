//! Hosts with several addresses of one family: answers leave from the address that was asked, in links and in circuits. Who
//! asked may have a firewall that lets in no others, and the way from another address may end at a provider's filter.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use meshhold_tests::path::{self, Pings};
use meshhold_tests::{Host, Lab, Node, Settings, run};

const PATIENCE: Duration = Duration::from_secs(20);
/// Until a circuit is back whose address was taken away.
const RECOVERY: Duration = Duration::from_secs(5);

/// nebula #546: the server is known by its second address, and its system answers from the first. In both directions: who
/// has something to say first may be the server.
#[test]
fn a_server_answers_from_the_address_that_a_firewalled_client_knows() -> Result<()> {
    run("second-address", |lab| {
        let host = lab.host("server")?;
        let second = add_second(&host)?;
        let mut server = Node::new(host, Settings::default())?;
        let key = server.mint(&[])?;
        server.start_and_wait()?;
        for address in second {
            let mut client = client(lab, &server, &key, address)?;
            avoid(&client, &server, "add")?;
            client.start_and_wait()?;
            server.wait_peer_up(&client)?;
            client.wait_peer_up(&server)?;
            leads_to(&client, &server, address)?;
        }
        Ok(())
    })
}

/// ntpd-rs #1880: the address belongs to another interface than the datagrams come by (anycast, a router's loopback address), and
/// the node tells nobody of it: only the link leads there.
#[test]
fn a_server_answers_from_an_address_of_another_interface() -> Result<()> {
    run("other-interface", |lab| {
        let host = lab.host("server")?;
        let anycast: [IpAddr; 2] = ["10.99.0.1".parse()?, "fd00:99::1".parse()?];
        for address in anycast {
            host.namespace().ip(&format!("address add {address} dev lo"))?;
        }
        let mut server = Node::new(host, Settings::default())?;
        let key = server.mint(&[])?;
        server.start_and_wait()?;
        for address in anycast {
            let mut client = client(lab, &server, &key, address)?;
            avoid(&client, &server, "add")?;
            let gateway = first(&server, address);
            client.host.namespace().ip(&format!("route add {address} via {gateway} dev eth0 onlink"))?;
            client.start_and_wait()?;
            server.wait_peer_up(&client)?;
            client.wait_peer_up(&server)?;
            leads_to(&client, &server, address)?;
        }
        Ok(())
    })
}

/// openwrt #9538: two providers, a routing table for each by source address, and only the second can be called. What leaves by
/// the first with the second's address, or the other way round, is dropped there.
#[test]
fn a_host_with_two_providers_answers_by_the_one_that_was_asked() -> Result<()> {
    run("dual-wan", |lab| {
        let (router, host) = (lab.host("providers")?, lab.host("server")?);
        let second = connect_twice(&router, &host)?;
        let mut server = Node::new(host, Settings::default())?;
        let key = server.mint(&[])?;
        server.start_and_wait()?;
        for address in second {
            let mut client = client(lab, &server, &key, address)?;
            let (network, gateway): (_, IpAddr) = match address {
                IpAddr::V4(_) => ("10.91.0.0/16", router.ipv4.into()),
                IpAddr::V6(_) => ("fd00:91::/32", router.ipv6.into()),
            };
            client.host.namespace().ip(&format!("route add {network} via {gateway}"))?;
            client.start_and_wait()?;
            server.wait_peer_up(&client)?;
            client.wait_peer_up(&server)?;
            leads_to(&client, &server, address)?;
        }
        Ok(())
    })
}

/// keepalived and clouds: the address that a circuit came to is taken away under it.
#[test]
fn a_floating_address_that_moves_away_ends_no_circuit() -> Result<()> {
    run("floating", |lab| {
        let host = lab.host("server")?;
        let second = add_second(&host)?;
        let mut server = Node::new(host, Settings::default())?;
        let key = server.mint(&[])?;
        server.start_and_wait()?;
        for address in second {
            let mut client = client(lab, &server, &key, address)?;
            avoid(&client, &server, "add")?;
            client.start_and_wait()?;
            client.wait_peer_up(&server)?;
            leads_to(&client, &server, address)?;
            let first = first(&server, address);
            let pings = Pings::start(&client.host, server.addresses()?.1.into())?;
            pings.next(PATIENCE)?;
            avoid(&client, &server, "delete")?;
            let width = if address.is_ipv4() { 24 } else { 64 };
            server.host.namespace().ip(&format!("address delete {address}/{width} dev eth0"))?;
            leads_to(&client, &server, first)?;
            let pause = pings.next(RECOVERY)?;
            println!("{address} is gone: a ping was answered {pause:?} after the path led to {first}");
        }
        Ok(())
    })
}

/// The address of the server's cable, of the family of `like`.
fn first(server: &Node, like: IpAddr) -> IpAddr {
    if like.is_ipv4() { server.host.ipv4.into() } else { server.host.ipv6.into() }
}

/// Gives `eth0` a second address of each family that the system doesn't choose by itself.
fn add_second(host: &Host) -> Result<[IpAddr; 2]> {
    let (mut ipv4, mut ipv6) = (host.ipv4.octets(), host.ipv6.segments());
    ipv4[3] += 100;
    ipv6[7] += 0x100;
    let second = [IpAddr::from(ipv4), IpAddr::from(ipv6)];
    host.namespace().ip(&format!("address add {}/24 dev eth0", second[0]))?;
    host.namespace().ip(&format!("address add {}/64 dev eth0 nodad preferred_lft 0", second[1]))?;
    Ok(second)
}

/// A member that knows the server by this address and has no other family, behind a firewall that lets in what was asked for.
fn client(lab: &Lab, server: &Node, key: &str, known: IpAddr) -> Result<Node> {
    let family = if known.is_ipv4() { "ip4" } else { "ip6" };
    let host = lab.host(&format!("client-{family}"))?;
    let other = if known.is_ipv4() { "-6" } else { "-4" };
    host.namespace().ip(&format!("{other} address flush dev eth0 scope global"))?;
    let rules = "table inet personal { chain input { type filter hook input priority 0; policy drop
        iifname { lo, mesh0 } accept
        ct state established,related accept
        meta l4proto { icmp, ipv6-icmp } accept
    }
    }";
    host.run("nft", &[rules])?;
    let bootstrap = vec![format!("/{family}/{known}/udp/7777/quic-v1/p2p/{}", server.id()?)];
    let client = Node::new(host, Settings { bootstrap, ..Settings::default() })?;
    client.join(key, &[])?;
    Ok(client)
}

/// From then on, or not any more, nothing leads from the client to the server's first addresses.
fn avoid(client: &Node, server: &Node, verb: &str) -> Result<()> {
    let namespace = client.host.namespace();
    namespace.ip(&format!("route {verb} prohibit {}/32", server.host.ipv4))?;
    namespace.ip(&format!("-6 route {verb} prohibit {}/128", server.host.ipv6)).map(drop)
}

fn leads_to(client: &Node, server: &Node, address: IpAddr) -> Result<()> {
    let is_there = |path: &meshhold_tests::status::Path| {
        path.kind == "direct" && path.remote.is_some_and(|remote| remote.ip() == address)
    };
    path::wait_shown(PATIENCE, client, &server.id()?, is_there).map(drop)
}

/// Two cables between the server and its providers, instead of the one that it had. Yields its addresses at the second.
fn connect_twice(router: &Host, server: &Host) -> Result<[IpAddr; 2]> {
    let pid = server.namespace().pid();
    for wan in 1..=2 {
        router.namespace().ip(&format!("link add wan{wan} type veth peer name wan{wan} netns {pid}"))?;
        for (host, end) in [(router, 1), (server, 2)] {
            host.namespace().ip(&format!("address add 10.91.{wan}.{end}/24 dev wan{wan}"))?;
            host.namespace().ip(&format!("address add fd00:91:{wan}::{end}/64 dev wan{wan} nodad"))?;
            host.namespace().ip(&format!("link set wan{wan} up"))?;
        }
    }
    server.namespace().ip("link set eth0 down")?;
    for (family, network, end) in [("-4", "10.91", ".2"), ("-6", "fd00:91", "::2")] {
        let separator = if family == "-4" { "." } else { ":" };
        let at = |wan: u8, end: &str| format!("{network}{separator}{wan}{end}");
        let gateway = |wan| at(wan, &end.replace('2', "1"));
        server.namespace().ip(&format!("{family} route add default via {}", gateway(1)))?;
        server.namespace().ip(&format!("{family} route add default via {} table 102", gateway(2)))?;
        server.namespace().ip(&format!("{family} rule add from {} lookup 102", at(2, end)))?;
    }
    let forward = "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding";
    router.run("sh", &["-c", forward])?;
    let rules = "table inet providers { chain forward { type filter hook forward priority 0
        iifname wan1 ip saddr != 10.91.1.0/24 drop
        iifname wan1 ip6 saddr != fd00:91:1::/64 drop
        iifname wan2 ip saddr != 10.91.2.0/24 drop
        iifname wan2 ip6 saddr != fd00:91:2::/64 drop
        oifname wan1 ct state new drop
    }
    }";
    router.run("nft", &[rules])?;
    Ok(["10.91.2.2".parse()?, "fd00:91:2::2".parse()?])
}
