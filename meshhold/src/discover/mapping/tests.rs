//! Gateways that answer well, badly and not at all, on loopback addresses of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::*;

/// What good gateways say that they have.
const EXTERNAL: [u8; 4] = [11, 90, 0, 3];
const INNER: u16 = 7777;
const OUTER: u16 = 40_000;

type Speech = fn(&[u8]) -> Vec<u8>;
type Spoil = fn(&mut Vec<u8>);

/// The gateway 127.53.51.`number`, as seen from 127.0.0.1.
fn place(number: u8) -> Place {
    let gateway = Ipv4Addr::new(127, 53, 51, number);
    Place { gateway, source: Ipv4Addr::LOCALHOST, port: NonZeroU16::new(INNER).unwrap() }
}

fn task(number: u8) -> Task {
    Task {
        told: watch::channel(None).0,
        nonce: [1, 2, 3],
        place: Some(place(number)),
        held: None,
        failures: 0,
        asked: None,
        due: Instant::now(),
    }
}

/// Answers every datagram to `port` of the gateway.
async fn answer(place: Place, port: u16, mut with: impl FnMut(&[u8]) -> Vec<u8> + Send + 'static) {
    let socket = UdpSocket::bind((place.gateway, port)).await.unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            socket.send_to(&with(&buffer[..length]), from).await.unwrap();
        }
    });
}

/// As a gateway answers that knows PCP.
fn granted_by_pcp(question: &[u8]) -> Vec<u8> {
    // A question of NAT-PMP is shorter, and not understood.
    if question.len() < 60 {
        return Vec::new();
    }
    let mut answer = vec![2, 0x81, 0, 0];
    answer.extend(&question[4..8]);
    answer.extend([0; 16]);
    answer.extend(&question[24..42]);
    // A deletion suggests no port.
    answer.extend(if question[42..44] == [0, 0] { [0, 0] } else { OUTER.to_be_bytes() });
    answer.extend(Ipv4Addr::from(EXTERNAL).to_ipv6_mapped().octets());
    answer
}

/// Only PCP is answered, so that is all that there is to spoil.
fn spoilt(spoil: Spoil) -> impl FnMut(&[u8]) -> Vec<u8> + Send + 'static {
    move |question| {
        let mut answer = granted_by_pcp(question);
        if !answer.is_empty() {
            spoil(&mut answer);
        }
        answer
    }
}

/// As a gateway answers that knows NAT-PMP only.
fn granted_by_nat_pmp(question: &[u8]) -> Vec<u8> {
    match question {
        [0, 0] => [&[0, 0x80, 0, 0, 0, 0, 0, 9][..], &EXTERNAL].concat(),
        [0, 1, _, _, a, b, _, _, lifetime @ ..] => {
            let port = if *lifetime == [0; 4] { [0, 0] } else { OUTER.to_be_bytes() };
            [&[0, 0x81, 0, 0, 0, 0, 0, 9, *a, *b][..], &port, lifetime].concat()
        }
        _ => vec![0, 0x80 | question[1], 0, 1, 0, 0, 0, 9],
    }
}

#[tokio::test]
async fn pcp_and_nat_pmp_grant_and_end() {
    let speaks: [(u8, Speech, Protocol); 2] =
        [(1, granted_by_pcp, Protocol::Pcp), (2, granted_by_nat_pmp, Protocol::NatPmp)];
    for (number, speech, expected) in speaks {
        answer(place(number), 5351, speech).await;
        let mut task = task(number);
        let (protocol, grant) = task.ask(place(number)).await.unwrap();
        assert_eq!((protocol, grant.external), (expected, SocketAddrV4::new(EXTERNAL.into(), OUTER)));
        assert_eq!(grant.lifetime, LIFETIME);
        task.granted(protocol, grant);
        assert_eq!(task.told.borrow().unwrap().protocol, expected);
        let ended = match protocol {
            Protocol::Pcp => pxp::end_pcp(place(number), task.nonce).await,
            _ => pxp::end_nat_pmp(place(number)).await,
        };
        ended.unwrap();
    }
}

/// What is changed of a good answer by PCP, and why nothing comes of it.
const SPOILT: [(&str, Spoil); 8] = [
    ("a version that isn't", |answer| answer[0] = 9),
    ("not an answer", |answer| answer[1] = 1),
    ("out of resources", |answer| answer[3] = 8),
    ("another's nonce", |answer| answer[24] = 0xee),
    ("TCP", |answer| answer[36] = 6),
    ("another port", |answer| answer[41] = 1),
    ("no port outside", |answer| answer[42..44].fill(0)),
    ("IPv6", |answer| answer[44] = 1),
];

#[tokio::test]
async fn bad_answers_grant_nothing() {
    for (number, (what, spoil)) in (60..).zip(SPOILT) {
        answer(place(number), 5351, spoilt(spoil)).await;
        let asked = pxp::pcp(place(number), [1, 2, 3], None).await;
        assert!(asked.is_err(), "{what}: {asked:?}");
    }
    for (number, length) in (80..).zip([0, 1, 3, 4, 23, 24, 59]) {
        answer(place(number), 5351, move |question| granted_by_pcp(question)[..length].to_vec()).await;
        assert!(pxp::pcp(place(number), [1, 2, 3], None).await.is_err(), "{length} bytes");
    }
}

#[tokio::test]
async fn rubbish_is_survived_whatever_its_length() {
    answer(place(40), 5351, |question| {
        let mut rubbish = vec![0; OsRng.next_u32() as usize % 1200];
        OsRng.fill_bytes(&mut rubbish);
        // Half of it begins well.
        let keep = OsRng.next_u32() as usize % (2 * 60);
        rubbish
            .iter_mut()
            .zip(granted_by_pcp(&question.repeat(30)))
            .take(keep)
            .for_each(|(to, from)| *to = from);
        rubbish
    })
    .await;
    for _ in 0..500 {
        let _ = pxp::pcp(place(40), [1, 2, 3], None).await;
        let _ = pxp::nat_pmp(place(40), None).await;
    }
}

#[tokio::test]
async fn reserved_addresses_and_foolish_lifetimes_are_not_believed() {
    answer(place(41), 5351, spoilt(|answer| answer[56..60].copy_from_slice(&[127, 0, 0, 1]))).await;
    assert!(task(41).ask(place(41)).await.is_err());
    answer(place(42), 5351, spoilt(|answer| answer[4..8].fill(0))).await;
    let mut task = task(42);
    let (protocol, grant) = task.ask(place(42)).await.unwrap();
    assert_eq!(grant.lifetime, Duration::ZERO);
    task.granted(protocol, grant);
    assert!(task.due >= Instant::now() + SHORTEST / 2 - Duration::from_secs(1), "not asked all the time");
    let (protocol, grant) = task.ask(place(42)).await.unwrap();
    assert_eq!((protocol, grant.external.port()), (Protocol::Pcp, OUTER), "and renewed all the same");
}

#[tokio::test]
async fn a_silent_gateway_gets_seven_datagrams_and_the_lan_one() {
    let mut sockets = Vec::new();
    for port in [5351, 1900] {
        sockets.push(UdpSocket::bind((place(44).gateway, port)).await.unwrap());
    }
    assert!(task(44).ask(place(44)).await.is_err());
    let counts = sockets.iter().map(|socket| {
        let mut buffer = [0; 2048];
        std::iter::from_fn(|| socket.try_recv(&mut buffer).ok()).count()
    });
    assert_eq!(counts.collect::<Vec<_>>(), [6, 1]);
}

#[test]
fn only_another_gateway_is_asked_again_at_once() {
    let mut task = task(45);
    let external = SocketAddrV4::new(EXTERNAL.into(), OUTER);
    task.granted(Protocol::Pcp, Grant { external, lifetime: LIFETIME, device: None });
    (task.asked, task.failures) = (Some(Instant::now()), 3);
    let due = task.due;
    task.be_at(task.place);
    assert_eq!((task.due, task.failures, task.told.borrow().is_some()), (due, 3, true));
    task.be_at(Some(place(46)));
    assert!(task.due <= Instant::now() && task.failures == 0, "asked at once");
    assert!(task.told.borrow().is_none(), "what the other granted leads here no more");
}

#[tokio::test]
async fn a_silent_gateway_is_asked_less_and_less_and_a_mapping_ends_with_its_time() {
    let mut task = task(43);
    let error = anyhow::anyhow!("silence");
    let mut waits = Vec::new();
    for _ in 0..9 {
        task.failed(place(43), &error);
        waits.push((task.due - Instant::now()).as_secs_f64().round());
    }
    assert_eq!(waits, [15.0, 30.0, 60.0, 120.0, 240.0, 480.0, 600.0, 600.0, 600.0]);
    let external = SocketAddrV4::new(EXTERNAL.into(), OUTER);
    task.granted(Protocol::Pcp, Grant { external, lifetime: LIFETIME, device: None });
    task.failed(place(43), &error);
    assert!(task.told.borrow().is_some(), "half of its time is left");
    task.held.iter_mut().for_each(|held| held.until = Instant::now());
    task.failed(place(43), &error);
    assert!(task.told.borrow().is_none());
}

#[test]
fn addresses_of_the_internet_are_told_apart() {
    for (ip, public) in [
        ("11.90.0.3", true),
        ("100.63.0.1", true),
        ("100.64.0.1", false),
        ("100.127.255.254", false),
        ("100.128.0.1", true),
        ("10.0.0.1", false),
        ("172.16.0.1", false),
        ("192.168.1.1", false),
        ("169.254.1.1", false),
        ("127.0.0.1", false),
        ("198.18.0.1", false),
        ("198.19.255.255", false),
        ("198.20.0.1", true),
        ("192.0.0.8", false),
        ("203.0.113.7", false),
        ("0.1.2.3", false),
        ("224.0.0.1", false),
        ("255.255.255.255", false),
    ] {
        assert_eq!(is_public(ip.parse().unwrap()), public, "{ip}");
    }
}

/// What a device serves over HTTP.
#[derive(Clone, Copy)]
enum Serves {
    Mappings,
    Endless,
    Nested,
    Silence,
}

/// Starts a device at `at` whose search answers lead to `described`, and counts its HTTP connections.
async fn device(at: Place, described: Ipv4Addr, serves: Serves) -> Arc<AtomicUsize> {
    let listener = TcpListener::bind((described, 0)).await.unwrap();
    let url = format!("http://{}/root.xml", listener.local_addr().unwrap());
    answer(at, 1900, move |_| format!("HTTP/1.1 200 OK\r\nLOCATION: {url}\r\n\r\n").into_bytes()).await;
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(serve(stream, serves));
        }
    });
    connections
}

async fn serve(mut stream: TcpStream, serves: Serves) -> std::io::Result<()> {
    let mut request = vec![0; 4096];
    let length = stream.read(&mut request).await?;
    let request = String::from_utf8_lossy(&request[..length]).into_owned();
    let body = match serves {
        Serves::Silence => return pending().await,
        Serves::Endless => loop {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n<root>").await?;
            stream.write_all(&[b' '; 65_536]).await?;
        },
        Serves::Nested => "<a>".repeat(200_000),
        Serves::Mappings if request.starts_with("GET /root.xml") => ROOT.to_owned(),
        Serves::Mappings if request.starts_with("GET /scpd.xml") => actions(),
        Serves::Mappings if request.contains("GetExternalIPAddress") => soap(
            "GetExternalIPAddress",
            &format!("<NewExternalIPAddress>{}</NewExternalIPAddress>", Ipv4Addr::from(EXTERNAL)),
        ),
        Serves::Mappings if request.contains("AddPortMapping") => soap("AddPortMapping", ""),
        Serves::Mappings => soap("DeletePortMapping", ""),
    };
    let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all((head + &body).as_bytes()).await
}

const ROOT: &str = "<root><device><serviceList><service>\
    <serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType>\
    <SCPDURL>/scpd.xml</SCPDURL><controlURL>/ctl</controlURL></service></serviceList></device></root>";

fn actions() -> String {
    let action = |name: &str, arguments: &[&str]| {
        let arguments: String = arguments
            .iter()
            .map(|name| format!("<argument><name>{name}</name><direction>in</direction></argument>"))
            .collect();
        format!("<action><name>{name}</name><argumentList>{arguments}</argumentList></action>")
    };
    let add = ["NewExternalPort", "NewProtocol", "NewInternalPort", "NewInternalClient", "NewLeaseDuration"];
    format!(
        "<scpd><actionList>{}{}</actionList></scpd>",
        action("AddPortMapping", &add),
        action("DeletePortMapping", &["NewExternalPort", "NewProtocol"])
    )
}

fn soap(action: &str, inside: &str) -> String {
    format!(
        "<s:Envelope xmlns:s=\"x\"><s:Body><u:{action}Response xmlns:u=\"y\">{inside}</u:{action}Response></s:Body></s:Envelope>"
    )
}

#[tokio::test]
async fn a_device_grants_and_ends() {
    device(place(50), place(50).gateway, Serves::Mappings).await;
    let (protocol, grant) = task(50).ask(place(50)).await.unwrap();
    assert_eq!((protocol, grant.external), (Protocol::Upnp, SocketAddrV4::new(EXTERNAL.into(), INNER)));
    upnp::end(&grant.device.unwrap(), INNER).await.unwrap();
}

#[tokio::test]
async fn a_search_answer_that_leads_elsewhere_is_not_followed() {
    let elsewhere = device(place(51), place(52).gateway, Serves::Mappings).await;
    assert!(upnp::map(place(51), None, None).await.is_err());
    assert_eq!(elsewhere.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn descriptions_are_bounded_in_size_depth_and_time() {
    let refused = async |number, serves| {
        let asked = device(place(number), place(number).gateway, serves).await;
        let begun = Instant::now();
        assert!(upnp::map(place(number), None, None).await.is_err());
        assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
        assert_eq!(asked.load(Ordering::Relaxed), 1, "it was asked once");
    };
    tokio::join!(refused(53, Serves::Endless), refused(54, Serves::Nested), refused(55, Serves::Silence));
}
