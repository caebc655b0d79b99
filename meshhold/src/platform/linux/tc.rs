//! Programs as filters of an interface's clsact qdisc: set in one step, found by their handles, removed.
//!
//! Owns the netlink messages. Never touches a filter with another handle, and removes a qdisc only when it is empty. Must
//! not know what a program does, nor when a filter is the right place for it.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use rtnetlink::{
    packet_core::{
        DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage,
    },
    packet_route::{
        RouteNetlinkMessage,
        tc::{TcAttribute, TcHandle, TcHeader, TcMessage, TcOption},
    },
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};

use super::links::{split_attribute, split_message};

/// Where filters begin to stand: the first that passes a packet on keeps it from those behind.
const FIRST: u16 = 1;
/// A priority belongs to one kind of filter; this many that are taken are gone past.
const LAST: u16 = 64;
/// `ETH_P_ALL`, as it goes over the wire.
const ALL_PROTOCOLS: u16 = 3_u16.to_be();
/// `clsact` and `ingress` have the same handle.
const QDISC: TcHandle = TcHandle { major: u16::MAX, minor: 0 };

// Attributes of linux/rtnetlink.h and linux/pkt_cls.h.
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;
const TCA_BPF_ID: u16 = 11;

/// Which packets of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Those that come in.
    Ingress,
    /// Those that leave.
    Egress,
}

/// The place of one program; nobody else's has the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Index of the interface.
    pub interface: u32,
    /// Which of its packets.
    pub side: Side,
    /// Number among the filters.
    pub handle: u32,
}

/// A filter that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Filters run in this order, the lowest first; of one priority the newest.
    pub priority: u16,
    /// Number among the filters.
    pub handle: u32,
    /// Id of the program, where the kernel says it.
    pub program: u32,
}

/// Puts `program` on its seat, before all filters that are there; in one step where another one sits there. True where
/// the qdisc had to be made for it.
///
/// # Errors
/// What the kernel answers; `NotFound` where it has no clsact or no filters of programs (`sch_ingress`, `cls_bpf`).
pub fn set(seat: &Seat, name: &str, program: BorrowedFd<'_>) -> io::Result<bool> {
    let made = make_qdisc(seat)?;
    let set_at = |priority: u16| ask(new_filter(seat, priority, name, program), NLM_F_CREATE | NLM_F_ACK);
    let done = match find(seat)? {
        Some(old) => set_at(old.priority),
        // EINVAL: the priority belongs to filters of another kind or protocol.
        None => (FIRST..=LAST)
            .map(set_at)
            .find(|done| !matches!(done, Err(error) if error.raw_os_error() == Some(libc::EINVAL)))
            .unwrap_or_else(|| Err(io::Error::from_raw_os_error(libc::EINVAL))),
    };
    if done.is_err() && made {
        remove_empty_qdisc(seat.interface)?;
    }
    done.map(|_| made)
}

/// Removes the filter on the seat; false where there is none.
///
/// # Errors
/// What the kernel answers.
pub fn remove(seat: &Seat) -> io::Result<bool> {
    let Some(filter) = find(seat)? else { return Ok(false) };
    let mut header = header(seat, filter.priority);
    header.handle = seat.handle.into();
    let message = TcMessage::from_parts(header, vec![TcAttribute::Kind("bpf".into())]);
    ask(RouteNetlinkMessage::DelTrafficFilter(message), NLM_F_ACK)?;
    Ok(true)
}

/// The filter on the seat.
///
/// # Errors
/// What the kernel answers.
pub fn find(seat: &Seat) -> io::Result<Option<Filter>> {
    let filters = filters(seat.interface, seat.side)?;
    Ok(filters.into_iter().find(|filter| filter.handle == seat.handle))
}

/// All filters that are programs, on one side of an interface; none where the interface is gone.
///
/// # Errors
/// What the kernel answers.
pub fn filters(interface: u32, side: Side) -> io::Result<Vec<Filter>> {
    let seat = Seat { interface, side, handle: 0 };
    let message = TcMessage::from_parts(header(&seat, 0), Vec::new());
    let found = match ask(RouteNetlinkMessage::GetTrafficFilter(message), NLM_F_DUMP) {
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        found => found?,
    };
    Ok(found.iter().filter_map(|payload| filter(payload)).filter(|filter| filter.handle != 0).collect())
}

/// Removes the clsact qdisc of an interface if nobody has a filter there; false where it stays or isn't.
///
/// # Errors
/// What the kernel answers.
pub fn remove_empty_qdisc(interface: u32) -> io::Result<bool> {
    if qdisc(interface)?.as_deref() != Some("clsact") {
        return Ok(false);
    }
    for side in [Side::Ingress, Side::Egress] {
        let header = header(&Seat { interface, side, handle: 0 }, 0);
        let message = TcMessage::from_parts(header, Vec::new());
        if !ask(RouteNetlinkMessage::GetTrafficFilter(message), NLM_F_DUMP)?.is_empty() {
            return Ok(false);
        }
    }
    ask(RouteNetlinkMessage::DelQueueDiscipline(clsact(interface)), NLM_F_ACK)?;
    Ok(true)
}

/// True where there was none. An older `ingress` qdisc does for ingress alone: it would take filters for egress, and run
/// them on what comes in.
fn make_qdisc(seat: &Seat) -> io::Result<bool> {
    let message = RouteNetlinkMessage::NewQueueDiscipline(clsact(seat.interface));
    match ask(message, NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
            let is_old = seat.side == Side::Egress && qdisc(seat.interface)?.as_deref() == Some("ingress");
            if is_old { Err(io::Error::other(OLD_QDISC)) } else { Ok(false) }
        }
        Err(error) => Err(error),
    }
}

const OLD_QDISC: &str = "it has an `ingress` qdisc, which knows no egress; who made it can use `clsact` instead \
                         (tc qdisc replace dev … clsact)";

/// Kind of the qdisc that filters at ingress hang on.
fn qdisc(interface: u32) -> io::Result<Option<String>> {
    let message =
        TcMessage::from_parts(TcHeader { index: interface as i32, ..TcHeader::default() }, Vec::new());
    let found = ask(RouteNetlinkMessage::GetQueueDiscipline(message), NLM_F_DUMP)?;
    let it = found.iter().find(|payload| {
        word(payload, INDEX) == Some(interface) && word(payload, PARENT) == Some(TcHandle::CLSACT.into())
    });
    Ok(it.and_then(|payload| kind(payload)))
}

fn clsact(interface: u32) -> TcMessage {
    let header =
        TcHeader { index: interface as i32, handle: QDISC, parent: TcHandle::CLSACT, ..TcHeader::default() };
    TcMessage::from_parts(header, vec![TcAttribute::Kind("clsact".into())])
}

fn new_filter(seat: &Seat, priority: u16, name: &str, program: BorrowedFd<'_>) -> RouteNetlinkMessage {
    let word = |kind, value: u32| TcOption::Other(DefaultNla::new(kind, value.to_ne_bytes().to_vec()));
    let options = vec![
        word(TCA_BPF_FD, program.as_raw_fd() as u32),
        TcOption::Other(DefaultNla::new(TCA_BPF_NAME, [name.as_bytes(), &[0]].concat())),
        word(TCA_BPF_FLAGS, TCA_BPF_FLAG_ACT_DIRECT),
    ];
    let mut header = header(seat, priority);
    header.handle = seat.handle.into();
    let attributes = vec![TcAttribute::Kind("bpf".into()), TcAttribute::Options(options)];
    RouteNetlinkMessage::NewTrafficFilter(TcMessage::from_parts(header, attributes))
}

fn header(seat: &Seat, priority: u16) -> TcHeader {
    let minor = match seat.side {
        Side::Ingress => TcHandle::MIN_INGRESS,
        Side::Egress => TcHandle::MIN_EGRESS,
    };
    let info = if priority == 0 { 0 } else { u32::from(priority) << 16 | u32::from(ALL_PROTOCOLS) };
    let parent = TcHandle { major: u16::MAX, minor };
    TcHeader { index: seat.interface as i32, parent, info, ..TcHeader::default() }
}

/// Neither interface nor qdisc.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENOENT | libc::EINVAL))
}

// Places in `struct tcmsg`.
const INDEX: usize = 4;
const HANDLE: usize = 8;
const PARENT: usize = 12;
const INFO: usize = 16;
const ATTRIBUTES: usize = 20;

/// Taken apart by hand: other people's filters may have attributes that nobody here understands.
fn filter(payload: &[u8]) -> Option<Filter> {
    if kind(payload)? != "bpf" {
        return None;
    }
    let options = attribute(payload.get(ATTRIBUTES..)?, TCA_OPTIONS).unwrap_or_default();
    Some(Filter {
        priority: (word(payload, INFO)? >> 16) as u16,
        handle: word(payload, HANDLE)?,
        program: attribute(options, TCA_BPF_ID).and_then(|id| word(id, 0)).unwrap_or_default(),
    })
}

fn kind(payload: &[u8]) -> Option<String> {
    let value = attribute(payload.get(ATTRIBUTES..)?, TCA_KIND)?;
    let name = value.split(|byte| *byte == 0).next()?;
    String::from_utf8(name.to_vec()).ok()
}

fn attribute(mut rest: &[u8], wanted: u16) -> Option<&[u8]> {
    while let Some((kind, value, after)) = split_attribute(rest) {
        // The upper bits say that it is nested.
        if kind & 0x3fff == wanted {
            return Some(value);
        }
        rest = after;
    }
    None
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Sends one request and yields the payloads of what is listed in answer. The kernel answers before the call returns.
fn ask(message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<Vec<u8>>> {
    let socket = Socket::new(NETLINK_ROUTE)?;
    let mut message = NetlinkMessage::from(message);
    message.header.flags = NLM_F_REQUEST | flags;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
    let mut listed = Vec::new();
    loop {
        let (datagram, from) = socket.recv_from_full()?;
        if from.port_number() != 0 {
            continue;
        }
        let mut rest = datagram.as_slice();
        while let Some((kind, payload, after)) = split_message(rest) {
            rest = after;
            match i32::from(kind) {
                libc::NLMSG_DONE => return Ok(listed),
                libc::NLMSG_ERROR => {
                    let code = word(payload, 0).map_or(0, |code| code.cast_signed());
                    return if code == 0 { Ok(listed) } else { Err(io::Error::from_raw_os_error(-code)) };
                }
                _ => listed.push(payload.to_vec()),
            }
        }
    }
}
