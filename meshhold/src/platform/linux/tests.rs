//! The mesh interface, its leftovers and the watch against the real kernel, in namespaces of their own.

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use super::{
    bpffs,
    error::NetError,
    net::{InterfaceSetup, Net, NetworkAddresses},
    routes::table_of,
    sysctl,
    test_ns::{ip, isolated, snapshot, wait_for},
    watch::{Link, LinkKind, NetEvent, watch},
};

const PATIENCE: Duration = Duration::from_secs(10);

fn create_tun(name: &str) -> tun::Device {
    let mut configuration = tun::Configuration::default();
    configuration.tun_name(name);
    tun::create(&configuration).unwrap()
}

fn network(number: u8) -> NetworkAddresses {
    let base = Ipv4Addr::new(198, 18, number * 64, 0);
    NetworkAddresses {
        own4: Some(Ipv4Addr::new(198, 18, number * 64, 17)),
        range: (base, 18),
        own6: Ipv6Addr::new(0xfd12, number.into(), 0, 5, 0, 0, 0, 1),
        prefix6: (Ipv6Addr::new(0xfd12, number.into(), 0, 0, 0, 0, 0, 0), 32),
    }
}

fn setup(networks: Vec<NetworkAddresses>) -> InterfaceSetup {
    InterfaceSetup {
        interface: String::from("mesh0"),
        mtu: 1420,
        gso_max: 60_000,
        callers: (Ipv4Addr::new(127, 64, 0, 0), 12),
        networks,
    }
}

/// A UDP datagram in an IPv4 packet, without checksums that the kernel would miss (UDP 0 = none).
fn ipv4_udp(source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let (SocketAddr::V4(source), SocketAddr::V4(destination)) = (source, destination) else { panic!() };
    let total = u16::try_from(28 + payload.len()).unwrap();
    let mut packet = vec![0x45, 0];
    packet.extend(total.to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend(source.ip().octets());
    packet.extend(destination.ip().octets());
    let sum: u32 = packet.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    packet[10..12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    packet.extend(source.port().to_be_bytes());
    packet.extend(destination.port().to_be_bytes());
    packet.extend((total - 20).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}

/// Reads packets from the interface until one of IPv4 goes to `to`; returns its source.
fn source_of_packet_to(device: &mut tun::Device, to: Ipv4Addr) -> Ipv4Addr {
    let mut buffer = [0; 2048];
    loop {
        let length = device.read(&mut buffer).unwrap();
        let packet = &buffer[..length];
        if packet[0] >> 4 == 4 && packet[16..20] == to.octets() {
            return Ipv4Addr::from(<[u8; 4]>::try_from(&packet[12..16]).unwrap());
        }
    }
}

#[test]
fn the_interface_carries_its_networks_and_leaves_nothing() {
    isolated(module_path!(), "the_interface_carries_its_networks_and_leaves_nothing", async || {
        let before = snapshot();
        let mut device = create_tun("mesh0");
        let net = Net::new().unwrap();
        let outcome = net.set_up(&setup(vec![network(0), network(1)])).await.unwrap();
        assert_eq!(outcome.notices, [""; 0]);
        let once = snapshot();
        let outcome = net.set_up(&setup(vec![network(0), network(1)])).await.unwrap();
        assert_eq!(outcome.changed, [""; 0], "a second call changes nothing");
        assert_eq!(snapshot(), once);

        let ways = [
            ("route get 198.18.9.9", "dev mesh0 table", "src 198.18.0.17"),
            ("route get 198.18.77.9", "dev mesh0 table", "src 198.18.64.17"),
            ("route get 127.64.0.9", "dev mesh0", "src 127.0.0.1"),
            ("route get 127.64.0.9 from 127.0.0.1", "dev mesh0", ""),
            ("route get 198.18.0.17", "local", "dev lo"),
            ("-6 route get fd12:0:0:9::1", "dev mesh0 table", "src fd12:0:0:5::1"),
            ("-6 route get fd12:1:0:9::1", "dev mesh0 table", "src fd12:1:0:5::1"),
        ];
        for (question, first, second) in ways {
            let answer = ip(question);
            assert!(answer.contains(first) && answer.contains(second), "{question}: {answer}");
        }
        let link = ip("-d link show mesh0");
        for expected in ["mtu 1420", "qlen 1000", ",UP", "addrgenmode none"] {
            assert!(link.contains(expected), "{expected}: {link}");
        }
        assert!(!ip("addr show dev mesh0").contains("fe80"), "no link-local address");

        // A service on 127.0.0.1 hears a caller address and answers it through the mesh interface.
        let service = UdpSocket::bind("127.0.0.1:0").unwrap();
        service.set_read_timeout(Some(PATIENCE)).unwrap();
        let caller = "127.64.0.9:4000".parse().unwrap();
        device.write_all(&ipv4_udp(caller, service.local_addr().unwrap(), b"hello")).unwrap();
        let mut buffer = [0; 16];
        assert_eq!(service.recv_from(&mut buffer).unwrap(), (5, caller));
        service.send_to(b"hi", caller).unwrap();
        assert_eq!(source_of_packet_to(&mut device, Ipv4Addr::new(127, 64, 0, 9)), Ipv4Addr::LOCALHOST);
        // One on the wildcard address answers from 127.0.0.1 as well: the route says so.
        UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"hi", "127.64.0.10:4000").unwrap();
        assert_eq!(source_of_packet_to(&mut device, Ipv4Addr::new(127, 64, 0, 10)), Ipv4Addr::LOCALHOST);

        // The node's own address works for itself.
        let own = UdpSocket::bind("198.18.0.17:0").unwrap();
        own.set_read_timeout(Some(PATIENCE)).unwrap();
        own.send_to(b"self", own.local_addr().unwrap()).unwrap();
        assert_eq!(own.recv_from(&mut buffer).unwrap().0, 4);

        drop(device);
        assert_ne!(net.clean_up("mesh0").await.unwrap(), [""; 0]);
        assert_eq!(snapshot(), before, "nothing is left");
        assert_eq!(net.clean_up("mesh0").await.unwrap(), [""; 0], "and nothing was");
    });
}

#[test]
fn a_changed_set_is_applied_as_a_difference() {
    isolated(module_path!(), "a_changed_set_is_applied_as_a_difference", async || {
        let _device = create_tun("mesh0");
        let net = Net::new().unwrap();
        net.set_up(&setup(vec![network(0), network(1)])).await.unwrap();

        let mut moved = network(0);
        moved.own4 = Some(Ipv4Addr::new(198, 18, 0, 33));
        moved.own6 = Ipv6Addr::new(0xfd12, 0, 0, 6, 0, 0, 0, 1);
        let mut without4 = network(2);
        without4.own4 = None;
        net.set_up(&setup(vec![moved, without4])).await.unwrap();
        let addresses = ip("-br addr show dev mesh0");
        let mut words: Vec<&str> = addresses.split_whitespace().skip(2).collect();
        words.sort_unstable();
        assert_eq!(words, ["198.18.0.33/32", "fd12:0:0:6::1/128", "fd12:2:0:5::1/128"]);
        assert!(ip("route get 198.18.9.9").contains("src 198.18.0.33"));
        let table = table_of("mesh0");
        assert_eq!(ip(&format!("route show table {table}")).lines().count(), 2, "one range and its refusal");
        assert_eq!(ip(&format!("-6 route show table {table}")).lines().count(), 4);
        for priority in ["5100", "5101"] {
            assert_eq!(ip(&format!("rule show priority {priority}")).lines().count(), 1, "{priority}");
        }
        net.set_up(&setup(Vec::new())).await.unwrap();
        let left: Vec<String> =
            snapshot().lines().filter(|line| line.contains("proto 77")).map(str::to_owned).collect();
        assert!(left.len() == 1 && left[0].contains("unreachable 127.64.0.0/10"), "{left:?}");
    });
}

#[test]
fn a_route_from_dhcp_pulls_nothing_out_of_the_mesh() {
    isolated(module_path!(), "a_route_from_dhcp_pulls_nothing_out_of_the_mesh", async || {
        ip("link add lan0 type veth peer name lan1");
        ip("addr add 192.0.2.2/24 dev lan0");
        ip("link set lan0 up");
        ip("link set lan1 up");
        ip("route add 198.18.9.9/32 via 192.0.2.1");
        assert!(ip("route get 198.18.9.9").contains("dev lan0"), "without the mesh it leaves by the LAN");
        let _device = create_tun("mesh0");
        let net = Net::new().unwrap();
        net.set_up(&setup(vec![network(0)])).await.unwrap();
        assert!(ip("route get 198.18.9.9").contains("dev mesh0"));
    });
}

/// Both families refuse to send to a mesh address.
fn assert_closed(why: &str) {
    for (from, to) in [("0.0.0.0:0", "198.18.9.9:9"), ("[::]:0", "[fd12:0:0:9::1]:9")] {
        let refused = UdpSocket::bind(from).unwrap().send_to(b"x", to).unwrap_err();
        // A route refuses by the one, a rule by the other.
        let kinds = [std::io::ErrorKind::HostUnreachable, std::io::ErrorKind::NetworkUnreachable];
        assert!(kinds.contains(&refused.kind()), "{why}, {to}: {refused}");
    }
}

fn plug_in_a_default_route() {
    ip("link add lan0 type veth peer name lan1");
    ip("addr add 192.0.2.2/24 dev lan0");
    ip("-6 addr add 2001:db8::2/64 dev lan0 nodad");
    ip("link set lan0 up");
    ip("link set lan1 up");
    ip("route add default via 192.0.2.1");
    ip("-6 route add default via 2001:db8::1");
}

#[test]
fn without_a_daemon_mesh_packets_are_refused_until_somebody_cleans_up() {
    isolated(
        module_path!(),
        "without_a_daemon_mesh_packets_are_refused_until_somebody_cleans_up",
        async || {
            plug_in_a_default_route();
            let before = snapshot();
            let net = Net::new().unwrap();
            let device = create_tun("mesh0");
            net.set_up(&setup(vec![network(0)])).await.unwrap();
            drop(device);
            assert_closed("the interface is gone");
            let error = net.set_up(&setup(vec![network(0)])).await.unwrap_err();
            assert!(matches!(error, NetError::NoInterface(_)));

            // Each layer is enough, whatever is taken from the others.
            for family in ["-4", "-6"] {
                ip(&format!("{family} route flush table {}", table_of("mesh0")));
            }
            assert_closed("its table is empty");
            for family in ["-4", "-6"] {
                ip(&format!("{family} rule del priority 5100"));
                ip(&format!("{family} route flush table main proto 77"));
            }
            assert_closed("the rule that the kernel's own protocol has is left");
            net.set_up(&setup(vec![network(0)])).await.unwrap_err();
            for (family, priority) in [("-4", "5100"), ("-4", "5101"), ("-6", "5100"), ("-6", "5101")] {
                ip(&format!("{family} rule del priority {priority}"));
            }
            assert_closed("main refuses");
            net.set_up(&setup(vec![network(0)])).await.unwrap_err();

            // A live interface of another daemon loses nothing.
            let _device = create_tun("mesh1");
            let other = InterfaceSetup {
                interface: String::from("mesh1"),
                callers: (Ipv4Addr::new(127, 80, 0, 0), 12),
                ..setup(vec![network(1)])
            };
            net.set_up(&other).await.unwrap();
            assert_eq!(net.other_callers("mesh0").await.unwrap(), [other.callers]);
            assert_ne!(net.clean_up_dead().await.unwrap(), [""; 0], "mesh0 is dead");
            net.clean_up("mesh0").await.unwrap();
            assert_eq!(net.set_up(&other).await.unwrap().changed, [""; 0]);
            assert!(ip("route get 127.80.0.9").contains("dev mesh1"));
            net.clean_up("mesh1").await.unwrap();
            assert_eq!(snapshot(), before);
        },
    );
}

#[test]
fn what_others_change_is_put_back_and_named() {
    isolated(module_path!(), "what_others_change_is_put_back_and_named", async || {
        plug_in_a_default_route();
        let _device = create_tun("mesh0");
        let net = Net::new().unwrap();
        let wanted = setup(vec![network(0)]);
        net.set_up(&wanted).await.unwrap();
        wait_for(|| snapshot().contains("local fd12:0:0:5::1 dev mesh0"));
        let good = snapshot();
        let table = table_of("mesh0");
        let acts = [
            ("rule del priority 5100", "rule to 198.18.0.0/18"),
            ("-6 rule del priority 5101", "barrier rule to fd12::/32"),
            (&format!("route flush table {table}"), "route 198.18.0.0/18"),
            (&format!("-6 route flush table {table}"), "route fd12::/32"),
            (&format!("route add 198.18.7.0/24 dev lan0 table {table}"), "route 198.18.7.0/24"),
            (
                "route del unreachable 198.18.0.0/18 proto 77 metric 4294967295",
                "barrier route 198.18.0.0/18 in table 0xfe",
            ),
            ("route del 127.64.0.0/12 dev mesh0 table local", "route 127.64.0.0/12"),
            ("addr flush dev mesh0", "address 198.18.0.17"),
            ("addr add 10.9.9.9/24 dev mesh0", "foreign address 10.9.9.9/24"),
            ("link set mesh0 down", "state"),
            ("link set mesh0 mtu 1300", "MTU"),
            ("link set mesh0 txqueuelen 5", "queue length"),
        ];
        for (act, named) in acts {
            ip(act);
            let changed = net.set_up(&wanted).await.unwrap().changed;
            assert!(changed.iter().any(|one| one.contains(named)), "{act}: {changed:?}");
            wait_for(|| snapshot() == good);
            assert_eq!(net.set_up(&wanted).await.unwrap().changed, [""; 0], "{act}");
        }
        for (path, value) in [("ipv4/conf/mesh0/route_localnet", "0"), ("ipv6/conf/mesh0/disable_ipv6", "1")]
        {
            assert!(!sysctl::differs("mesh0"));
            std::fs::write(format!("/proc/sys/net/{path}"), value).unwrap();
            assert!(sysctl::differs("mesh0"), "{path}");
            let changed = net.set_up(&wanted).await.unwrap().changed;
            assert!(
                changed.iter().any(|one| path.contains(one.split(' ').nth(1).unwrap_or("-"))),
                "{changed:?}"
            );
            wait_for(|| snapshot() == good);
        }
    });
}

#[test]
fn without_ipv6_the_rest_works() {
    isolated(module_path!(), "without_ipv6_the_rest_works", async || {
        let _device = create_tun("mesh0");
        let mut small = setup(vec![network(0)]);
        small.mtu = 1200;
        let notices = Net::new().unwrap().set_up(&small).await.unwrap().notices;
        assert!(notices.iter().any(|notice| notice.contains("IPv6")), "{notices:?}");
        assert!(ip("route get 198.18.9.9").contains("dev mesh0"));
    });
}

#[test]
fn sysctls_of_the_host_are_followed_where_they_must_be() {
    isolated(module_path!(), "sysctls_of_the_host_are_followed_where_they_must_be", async || {
        let net = Net::new().unwrap();
        std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
        std::fs::write("/proc/sys/net/ipv4/conf/default/forwarding", "1").unwrap();
        {
            let _device = create_tun("mesh0");
            assert_eq!(net.set_up(&setup(vec![network(0)])).await.unwrap().notices, [""; 0]);
            assert!(ip("-6 route get fd12:0:0:9::1").contains("dev mesh0"));
        }
        net.clean_up("mesh0").await.unwrap();

        // As in a container: what can't be written is asked for by netlink, or done without.
        for arguments in ["--bind /proc/sys /proc/sys", "-o remount,ro,bind /proc/sys"] {
            let mut mount = std::process::Command::new("mount");
            assert!(mount.args(arguments.split(' ')).status().unwrap().success());
        }
        let _device = create_tun("mesh0");
        let notices = net.set_up(&setup(vec![network(0)])).await.unwrap().notices;
        assert!(notices.len() == 1 && notices[0].contains("IPv6"), "{notices:?}");
        for (name, value) in [("route_localnet", "1"), ("rp_filter", "1"), ("forwarding", "0")] {
            let path = format!("/proc/sys/net/ipv4/conf/mesh0/{name}");
            assert_eq!(std::fs::read_to_string(path).unwrap().trim(), value, "{name}");
        }
    });
}

#[test]
fn conflicts_name_route_and_interface() {
    isolated(module_path!(), "conflicts_name_route_and_interface", async || {
        let net = Net::new().unwrap();
        let range = network(0).range;
        ip("link add lan0 type veth peer name lan1");
        ip("link set lan0 up");
        ip("link set lan1 up");
        ip("route add default dev lan0");
        ip("route add 128.0.0.0/1 dev lan0");
        assert_eq!(net.conflicts("mesh0", range).await.unwrap(), [""; 0], "default routes are no conflict");

        ip("route add 198.18.0.0/15 dev lan0");
        ip("addr add 198.18.3.4/32 dev lan0");
        ip("route add blackhole 198.18.1.0/24");
        let found = net.conflicts("mesh0", range).await.unwrap();
        for expected in [
            "address 198.18.3.4/32 of interface lan0",
            "route 198.18.0.0/15 through interface lan0",
            "route 198.18.1.0/24 of type blackhole",
        ] {
            assert!(found.iter().any(|line| line == expected), "{expected}: {found:?}");
        }
        assert_eq!(found.len(), 3, "{found:?}");
        assert_eq!(net.conflicts("mesh0", (Ipv4Addr::new(10, 77, 0, 0), 16)).await.unwrap(), [""; 0]);

        // What the mesh interface itself has is no conflict.
        let _device = create_tun("mesh0");
        net.set_up(&setup(vec![network(1)])).await.unwrap();
        assert_eq!(net.conflicts("mesh0", network(1).prefix6).await.unwrap(), [""; 0]);
        assert_eq!(net.conflicts("mesh0", network(1).range).await.unwrap().len(), 1, "the /15 of lan0 only");
    });
}

#[test]
fn a_taken_name_is_refused_with_its_owner() {
    isolated(module_path!(), "a_taken_name_is_refused_with_its_owner", async || {
        let net = Net::new().unwrap();
        net.require_free("mesh0").await.unwrap();
        ip("link add mesh0 type veth peer name mesh1");
        let error = net.require_free("mesh0").await.unwrap_err();
        assert!(error.to_string().contains("a device of kind veth"), "{error}");
        let _device = create_tun("mesh2");
        let error = net.require_free("mesh2").await.unwrap_err();
        assert!(error.to_string().contains(&format!("process {} (", std::process::id())), "{error}");
        // One that a daemon left is free for the next; the mark alone says so.
        ip("tuntap add dev mesh3 mode tun multi_queue");
        let error = net.require_free("mesh3").await.unwrap_err();
        assert!(error.to_string().contains("ip link del mesh3"), "{error}");
        net.mark("mesh3", "node").await.unwrap();
        net.require_free("mesh3").await.unwrap();
        assert_eq!(net.forget_renamed("mesh0", "another").await.unwrap(), [""; 0]);
        assert_eq!(net.forget_renamed("mesh3", "node").await.unwrap(), [""; 0]);
        assert_eq!(net.forget_renamed("mesh0", "node").await.unwrap(), ["mesh3"]);
        assert_eq!(net.index_of("mesh3").await.unwrap(), None);
        let missing = InterfaceSetup { interface: String::from("none0"), ..setup(Vec::new()) };
        assert!(matches!(net.set_up(&missing).await, Err(NetError::NoInterface(_))));
    });
}

#[test]
fn candidates_of_a_real_host() {
    isolated(module_path!(), "candidates_of_a_real_host", async || {
        ip("link add eth0 type veth peer name far0");
        ip("addr add 192.168.7.2/24 dev eth0");
        ip("-6 addr add 2001:db8::2/64 dev eth0 nodad");
        ip("link add docker0 type bridge");
        ip("addr add 172.17.0.1/16 dev docker0");
        for name in ["eth0", "far0", "docker0"] {
            ip(&format!("link set {name} up"));
        }
        let _device = create_tun("mesh0");
        let net = Net::new().unwrap();
        net.set_up(&setup(vec![network(0)])).await.unwrap();
        let chosen = net.candidates(&setup(vec![network(0)])).await.unwrap();
        let chosen: Vec<String> = chosen.iter().map(ToString::to_string).collect();
        assert_eq!(chosen, ["2001:db8::2", "192.168.7.2"]);
    });
}

/// Waits until the events so far leave exactly the interfaces named.
async fn until_links(
    events: &mut tokio::sync::mpsc::Receiver<NetEvent>,
    links: &mut BTreeSet<String>,
    expected: &[&str],
) -> Vec<Link> {
    let mut appeared = Vec::new();
    while !links.iter().eq(expected) {
        match tokio::time::timeout(PATIENCE, events.recv()).await.unwrap().unwrap() {
            NetEvent::LinkUp(link) => {
                assert!(links.insert(link.name.clone()), "{} twice", link.name);
                appeared.push(link);
            }
            NetEvent::LinkGone(link) => assert!(links.remove(&link.name), "{} was not there", link.name),
            NetEvent::AddressesChanged | NetEvent::RoutesChanged | NetEvent::OwnChanged => {}
        }
    }
    appeared
}

#[test]
fn the_watch_sees_interfaces_come_and_go() {
    isolated(module_path!(), "the_watch_sees_interfaces_come_and_go", async || {
        ip("link add eth0 type veth peer name far0");
        let _device = create_tun("mesh0");
        let mut events = watch("mesh0").unwrap();
        let mut links = BTreeSet::new();
        until_links(&mut events, &mut links, &["eth0", "far0"]).await;
        let _other = create_tun("vpn0");
        let appeared = until_links(&mut events, &mut links, &["eth0", "far0", "vpn0"]).await;
        assert_eq!(appeared.iter().map(|link| link.kind).collect::<Vec<_>>(), [LinkKind::L3]);
        ip("link set eth0 name eth7");
        let appeared = until_links(&mut events, &mut links, &["eth7", "far0", "vpn0"]).await;
        assert_eq!(appeared.iter().map(|link| link.kind).collect::<Vec<_>>(), [LinkKind::Ethernet]);
        ip("link add lan type bridge");
        ip("link set far0 master lan");
        ip("link set far0 nomaster");
        ip("link del lan");
        ip("link add last type veth peer name last1");
        until_links(&mut events, &mut links, &["eth7", "far0", "last", "last1", "vpn0"]).await;
        ip("link del last");
        until_links(&mut events, &mut links, &["eth7", "far0", "vpn0"]).await;

        while let Ok(event) = events.try_recv() {
            assert!(matches!(event, NetEvent::AddressesChanged | NetEvent::OwnChanged), "links have settled");
        }
        ip("addr add 192.0.2.9/24 dev eth7");
        let event = tokio::time::timeout(PATIENCE, events.recv()).await.unwrap().unwrap();
        assert_eq!(event, NetEvent::AddressesChanged);
    });
}

#[test]
fn the_watch_recovers_from_lost_notifications() {
    isolated(module_path!(), "the_watch_recovers_from_lost_notifications", async || {
        ip("link add eth0 type veth peer name far0");
        let mut events = watch("mesh0").unwrap();
        let mut links = BTreeSet::new();
        until_links(&mut events, &mut links, &["eth0", "far0"]).await;
        // Nothing reads the socket meanwhile (one thread): its buffer overflows.
        for number in 0..100 {
            ip(&format!("link add a{number} type veth peer name b{number}"));
            ip(&format!("link set a{number} up"));
            ip(&format!("link del a{number}"));
        }
        ip("link del eth0");
        ip("link add fin0 type veth peer name fin1");
        until_links(&mut events, &mut links, &["fin0", "fin1"]).await;
    });
}

#[test]
fn pins_get_a_private_directory_a_namespace() {
    isolated(module_path!(), "pins_get_a_private_directory_a_namespace", async || {
        use std::os::unix::fs::PermissionsExt as _;
        let path = bpffs::prepare("mesh0").unwrap();
        let text = path.display().to_string();
        assert!(text.starts_with("/sys/fs/bpf/meshhold/mesh0@") && text.ends_with("/v1"), "{text}");
        let parent = path.parent().unwrap();
        std::fs::set_permissions(parent, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(bpffs::prepare("mesh0").unwrap(), path);
        assert_eq!(std::fs::metadata(parent).unwrap().permissions().mode() & 0o777, 0o700);

        std::os::unix::fs::chown(parent, Some(1234), None).unwrap();
        assert!(matches!(bpffs::prepare("mesh0"), Err(bpffs::BpffsError::Foreign { owner: 1234, .. })));
        std::os::unix::fs::chown(parent, Some(0), None).unwrap();
        bpffs::remove("mesh0");
        assert!(!std::path::Path::new("/sys/fs/bpf/meshhold").exists(), "nothing is left");
    });
}
