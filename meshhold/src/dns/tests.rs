//! The server on its sockets: messages in, messages out.

use hickory_server::proto::op::{Message, Query};
use hickory_server::proto::rr::RecordType;
use rand_core::{OsRng, RngCore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn longest() -> String {
    "x".repeat(63)
}

fn question(asked: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.add_query(Query::query(name(asked), kind));
    message
}

async fn server() -> NameServer {
    let server = NameServer::start().await.unwrap();
    let host = |label: &str, last: u8| Host {
        label: label.to_owned(),
        network: 0,
        ipv4: Some([10, 77, 0, last].into()),
        ipv6: Some([0xfd12, 0, 0, 0, 0, 0, 0, last.into()].into()),
        near: None,
    };
    let hosts = vec![host("nas", 1), host(&longest(), 2)];
    let reverse = reverse_zones("10.77.0.0".parse().unwrap(), 16);
    server.publish(Arc::new(Zone::new(name("mesh."), reverse, vec![longest()], hosts)));
    server
}

async fn by_udp(server: &NameServer, message: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(message, server.address()).await.unwrap();
    let mut answer = vec![0; 65_535];
    let receive = tokio::time::timeout(Duration::from_secs(5), socket.recv(&mut answer));
    let length = receive.await.expect("no answer").unwrap();
    answer.truncate(length);
    answer
}

async fn ask(server: &NameServer, message: &Message) -> Message {
    Message::from_vec(&by_udp(server, &message.to_vec().unwrap()).await).unwrap()
}

async fn by_tcp(server: &NameServer, message: &Message) -> Message {
    let bytes = message.to_vec().unwrap();
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_u16(bytes.len() as u16).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let mut answer = vec![0; stream.read_u16().await.unwrap().into()];
    stream.read_exact(&mut answer).await.unwrap();
    Message::from_vec(&answer).unwrap()
}

#[tokio::test]
async fn codes_and_flags_are_right() {
    let server = server().await;
    for (asked, code, authoritative, answers, authority) in [
        ("nas.mesh.", ResponseCode::NoError, true, 1, 0),
        ("mesh.", ResponseCode::NoError, true, 0, 1),
        ("none.mesh.", ResponseCode::NXDomain, true, 0, 1),
        ("example.com.", ResponseCode::Refused, false, 0, 0),
    ] {
        let answer = ask(&server, &question(asked, RecordType::A)).await;
        assert_eq!(answer.metadata.response_code, code, "{asked}");
        assert_eq!(answer.metadata.authoritative, authoritative, "{asked}");
        assert!(!answer.metadata.recursion_available);
        assert_eq!((answer.answers.len(), answer.authorities.len()), (answers, authority), "{asked}");
    }
    let mut update = question("nas.mesh.", RecordType::A);
    update.metadata.op_code = OpCode::Update;
    assert_eq!(ask(&server, &update).await.metadata.response_code, ResponseCode::NotImp);
}

/// No answer is ever cut: the longest that there can be fits into what everybody takes.
#[tokio::test]
async fn the_longest_answers_are_whole_over_udp_and_tcp() {
    let server = server().await;
    let full = format!("{0}.{0}.mesh.", longest());
    for (asked, kind, count) in
        [(full.as_str(), RecordType::ANY, 2), ("2.0.77.10.in-addr.arpa.", RecordType::PTR, 1)]
    {
        let question = question(asked, kind);
        let by_udp = by_udp(&server, &question.to_vec().unwrap()).await;
        assert!(by_udp.len() <= 512, "{asked}: {} bytes", by_udp.len());
        let by_udp = Message::from_vec(&by_udp).unwrap();
        let by_tcp = by_tcp(&server, &question).await;
        assert_eq!((by_udp.answers.len(), by_udp.metadata.truncation), (count, false), "{asked}");
        assert_eq!(by_udp.answers, by_tcp.answers, "{asked}");
    }
    let mut roomy = question("nas.mesh.", RecordType::A);
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    roomy.edns = Some(edns);
    assert_eq!(ask(&server, &roomy).await.edns.map(|edns| edns.max_payload()), Some(PAYLOAD));
}

#[tokio::test]
async fn rubbish_upsets_nothing() {
    let server = server().await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let good = question("nas.mesh.", RecordType::A).to_vec().unwrap();
    for round in 0..20_000_u32 {
        let mut bytes = good.clone();
        if round % 2 == 0 {
            bytes.resize((round % 600) as usize, 0);
            OsRng.fill_bytes(&mut bytes);
        } else {
            let at = OsRng.next_u32() as usize % bytes.len();
            bytes[at] ^= 1 << (OsRng.next_u32() % 8);
            bytes.truncate(bytes.len() - (round % 5) as usize);
        }
        let _ = socket.try_send_to(&bytes, server.address());
        if round % 64 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let answer = ask(&server, &question("nas.mesh.", RecordType::A)).await;
    assert_eq!(answer.answers.len(), 1);
}
