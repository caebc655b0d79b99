//! The name service: answers for the mesh suffix and the mesh addresses, to programs of this host only.
//!
//! Owns the sockets and the messages; `zone` owns what is said. Foreign names are refused, never passed on. Must not know
//! networks or records.

mod zone;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwap;
use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::proto::op::{Edns, Header, HeaderCounts, MessageType, Metadata, OpCode, ResponseCode};
use hickory_server::proto::rr::{DNSClass, Record};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::net::{TcpListener, UdpSocket};

pub use hickory_server::proto::rr::Name;
pub use zone::{Host, Zone, reverse_zones};

/// Loopback addresses (127.53.77.N, below those of callers) that are tried in turn: another daemon may have the first.
const ADDRESSES: std::ops::RangeInclusive<u8> = 53..=60;
/// Not 53: a name server of the host that listens on all addresses could not start beside us.
const PORT: u16 = 5399;
/// Answers over UDP are no longer than this without being asked for more, and with (RFC 9715).
const PAYLOAD: u16 = 1232;
const TCP_IDLE: Duration = Duration::from_secs(5);
const TCP_QUEUE: usize = 16;

/// Answers by their code, as [`NameServer::answers`] names them.
#[derive(Debug, Default)]
struct Counts([AtomicU64; CODES.len()]);

/// Names of the codes, in the order of the counters.
const CODES: [&str; 4] = ["noerror", "nxdomain", "refused", "other"];

impl Counts {
    fn add(&self, code: ResponseCode) {
        let at = match code {
            ResponseCode::NoError => 0,
            ResponseCode::NXDomain => 1,
            ResponseCode::Refused => 2,
            _ => 3,
        };
        if let Some(count) = self.0.get(at) {
            count.fetch_add(1, Relaxed);
        }
    }
}

/// A running name server.
pub struct NameServer {
    zone: Arc<ArcSwap<Zone>>,
    counts: Arc<Counts>,
    address: SocketAddr,
    _server: Server<Answers>,
}

impl NameServer {
    /// Listens on the first free of a few loopback addresses, over UDP and TCP.
    ///
    /// # Errors
    /// None of them is free, or the process may not use them.
    pub async fn start() -> std::io::Result<Self> {
        let places = ADDRESSES.map(|last| (Ipv4Addr::new(127, 53, 77, last), PORT));
        let mut refused = None;
        for place in places {
            match sockets(place.into()).await {
                Ok((udp, tcp)) => return Ok(Self::on(place.into(), udp, tcp)),
                Err(error) => refused = Some(error),
            }
        }
        Err(refused.unwrap_or_else(|| std::io::Error::other("no address to listen on")))
    }

    fn on(address: SocketAddr, udp: UdpSocket, tcp: TcpListener) -> Self {
        let (zone, counts) = (Arc::<ArcSwap<Zone>>::default(), Arc::<Counts>::default());
        let mut server = Server::new(Answers(Arc::clone(&zone), Arc::clone(&counts)));
        server.register_socket(udp);
        server.register_listener(tcp, TCP_IDLE, TCP_QUEUE);
        Self { zone, counts, address, _server: server }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many questions got which answer.
    pub fn answers(&self) -> impl Iterator<Item = (&'static str, u64)> {
        CODES.into_iter().zip(self.counts.0.iter().map(|count| count.load(Relaxed)))
    }

    /// Replaces everything that is said.
    pub fn publish(&self, zone: Arc<Zone>) {
        self.zone.store(zone);
    }
}

async fn sockets(address: SocketAddr) -> std::io::Result<(UdpSocket, TcpListener)> {
    Ok((UdpSocket::bind(address).await?, TcpListener::bind(address).await?))
}

/// The handler of each request.
struct Answers(Arc<ArcSwap<Zone>>, Arc<Counts>);

/// What goes back: a code, what was found, and the SOA where nothing was.
type Reply = (ResponseCode, Vec<Record>, Option<Record>);

impl Answers {
    fn reply(&self, request: &Request) -> Reply {
        let refuse = |code| (code, Vec::new(), None);
        if request.metadata.message_type != MessageType::Query || request.metadata.op_code != OpCode::Query {
            return refuse(ResponseCode::NotImp);
        }
        let [query] = request.queries.queries() else { return refuse(ResponseCode::FormErr) };
        if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            return refuse(ResponseCode::BADVERS);
        }
        if query.query_class() != DNSClass::IN {
            return refuse(ResponseCode::Refused);
        }
        match self.0.load().look(query.name(), query.query_type()) {
            zone::Found::Records(records) => (ResponseCode::NoError, records, None),
            zone::Found::NoData(soa) => (ResponseCode::NoError, Vec::new(), Some(*soa)),
            zone::Found::NoName(soa) => (ResponseCode::NXDomain, Vec::new(), Some(*soa)),
            zone::Found::Foreign => refuse(ResponseCode::Refused),
        }
    }
}

#[async_trait::async_trait]
impl RequestHandler for Answers {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut to: R,
    ) -> ResponseInfo {
        let (code, records, soa) = self.reply(request);
        self.1.add(code);
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = code;
        metadata.authoritative = matches!(code, ResponseCode::NoError | ResponseCode::NXDomain);
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            edns.set_max_payload(asked.max_payload().clamp(512, PAYLOAD)).set_rcode_high(code.high());
            edns
        });
        let builder = MessageResponseBuilder::new(&request.queries, edns.as_ref());
        let response =
            builder.build(metadata, &records, std::iter::empty(), soa.as_ref(), std::iter::empty());
        match to.send_response(response).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%error, "an answer couldn't be sent");
                Header { metadata, counts: HeaderCounts::default() }.into()
            }
        }
    }
}

#[cfg(test)]
mod tests;
