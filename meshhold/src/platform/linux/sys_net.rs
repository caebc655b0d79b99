//! System calls of the packet path that std and socket2 don't offer: TUN set-up, segmented UDP, epoll and
//! the reuseport filter.
//!
//! Owns the `unsafe` of the packet path, each call behind a safe function. Must not know packets or peers.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use libc::c_int;

/// Most datagram runs that one [`send_many`] call takes.
pub const MAX_RUNS: usize = 32;

/// Most events that one [`Epoll::wait`] takes: more than a worker watches.
const MAX_EVENTS: usize = 8;

/// What a TUN queue is asked to be.
#[derive(Clone, Copy, Debug)]
pub struct TunFlags {
    /// Several queues share the interface (`IFF_MULTI_QUEUE`).
    pub multi_queue: bool,
    /// Each packet is preceded by a 10-byte virtio header (`IFF_VNET_HDR`).
    pub virtio_header: bool,
}

/// One `sendmsg`: bytes for one destination, cut by the kernel into datagrams.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// Payload of all datagrams, back to back.
    pub bytes: &'a [u8],
    /// Bytes of each datagram but the last; 0 sends `bytes` as one datagram.
    pub segment: u16,
    /// Destination, in the socket's own family.
    pub to: SocketAddr,
    /// Time to live, or hop limit; 0 leaves it to the system.
    pub hops: u8,
    /// Source address, of the destination's family; `None` leaves it to the system.
    pub from: Option<IpAddr>,
}

/// What one `recvmsg` brought.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    /// Bytes in the buffer.
    pub len: usize,
    /// Bytes of each merged datagram but the last (UDP_GRO); equals `len` for a single one.
    pub segment: usize,
    /// Where they came from, v4-mapped addresses shown as IPv4.
    pub from: SocketAddr,
    /// To which address of this host, where the socket was made to tell by [`tell_destination`].
    pub to: Option<IpAddr>,
    /// Time to live or hop limit that they all came with, where the socket has IP_RECVTTL and IPV6_RECVHOPLIMIT.
    pub hops: Option<u8>,
}

/// Opens one queue of the TUN interface `name`, creating the interface if it isn't there.
/// Returns the queue, non-blocking, and the name that the kernel gave (`name` may hold `%d`).
///
/// # Errors
/// `/dev/net/tun` can't be opened, CAP_NET_ADMIN is missing, or the name is taken or too long.
pub fn open_tun(name: &str, flags: TunFlags) -> io::Result<(File, String)> {
    let file = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    // SAFETY: ifreq is plain old data; all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { MaybeUninit::zeroed().assume_init() };
    if name.len() >= request.ifr_name.len() || name.as_bytes().contains(&0) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "interface name is too long"));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.as_bytes()) {
        *to = *from as libc::c_char;
    }
    let mut wanted = libc::IFF_TUN | libc::IFF_NO_PI;
    if flags.multi_queue {
        wanted |= libc::IFF_MULTI_QUEUE;
    }
    if flags.virtio_header {
        wanted |= libc::IFF_VNET_HDR;
    }
    request.ifr_ifru.ifru_flags = wanted as libc::c_short;
    // SAFETY: the descriptor is open and TUNSETIFF reads and writes one ifreq.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    // SAFETY: the kernel returns the name with a terminating zero inside the array, which lives on.
    let given = unsafe { CStr::from_ptr(request.ifr_name.as_ptr()) };
    Ok((file, given.to_string_lossy().into_owned()))
}

/// Tells the kernel which offloads the reader of a TUN queue understands (`TUN_F_*` bits).
///
/// # Errors
/// The kernel doesn't know one of them.
pub fn set_tun_offload(queue: BorrowedFd<'_>, bits: u32) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    check(unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(bits)) })
}

/// Lets a TUN interface outlive its last queue. Root alone may attach queues to it then: without an owner anybody could.
///
/// # Errors
/// The kernel refuses it.
pub fn keep_tun(queue: BorrowedFd<'_>) -> io::Result<()> {
    const ROOT: libc::c_ulong = 0;
    let own = libc::c_ulong::from(super::sys::effective_uid());
    // In a user namespace root may be nobody that the kernel knows.
    for owner in [ROOT, own] {
        // SAFETY: TUNSETOWNER takes its argument by value.
        if check(unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETOWNER, owner) }).is_ok() {
            // SAFETY: TUNSETPERSIST takes its argument by value.
            return check(unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETPERSIST, 1 as libc::c_ulong) });
        }
    }
    Err(io::Error::last_os_error())
}

/// Lets `program` choose the queue of each packet that leaves through a TUN interface; `None`: the kernel spreads flows.
///
/// # Errors
/// It is no loaded socket filter.
pub fn set_tun_steering(queue: BorrowedFd<'_>, program: Option<BorrowedFd<'_>>) -> io::Result<()> {
    /// `TUNSETSTEERINGEBPF` of linux/if_tun.h.
    const SET_STEERING: libc::c_ulong = 0x8004_54e0;
    let program = program.map_or(-1, |program| program.as_raw_fd());
    // SAFETY: the kernel reads one int from a live local.
    check(unsafe { libc::ioctl(queue.as_raw_fd(), SET_STEERING, &raw const program) })
}

/// Sets an integer socket option.
///
/// # Errors
/// As `setsockopt(2)`.
pub fn set_option(socket: BorrowedFd<'_>, level: c_int, option: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: the kernel reads one int from a live local.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<c_int>() as libc::socklen_t,
        )
    })
}

/// Most bytes of a UDP datagram that the way to `to` takes, by the MTU of its route or interface.
///
/// # Errors
/// There is no way.
pub fn udp_payload(to: SocketAddr) -> io::Result<u16> {
    let (unspecified, level, option, headers) = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED.into(), libc::IPPROTO_IP, libc::IP_MTU, 28),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED.into(), libc::IPPROTO_IPV6, libc::IPV6_MTU, 48),
    };
    let socket = UdpSocket::bind(SocketAddr::new(unspecified, 0))?;
    socket.connect(to)?;
    let (mut mtu, mut len): (c_int, _) = (0, size_of::<c_int>() as libc::socklen_t);
    // SAFETY: the kernel writes at most `len` bytes, an int, into a live local.
    check(unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, option, (&raw mut mtu).cast(), &raw mut len)
    })?;
    Ok((mtu - headers).clamp(0, u16::MAX.into()) as u16)
}

/// One classic BPF instruction: code, jump if true, jump if false, operand.
pub type Instruction = (u16, u8, u8, u32);

/// Lets `program` choose the socket of a reuseport group by its return value (`SO_ATTACH_REUSEPORT_CBPF`).
///
/// # Errors
/// The kernel refuses the program.
pub fn attach_reuseport_filter(socket: BorrowedFd<'_>, program: &[Instruction]) -> io::Result<()> {
    let mut code: Vec<libc::sock_filter> =
        program.iter().map(|&(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k }).collect();
    let filter = libc::sock_fprog { len: code.len() as u16, filter: code.as_mut_ptr() };
    // SAFETY: the kernel copies the program out of `code`, which outlives the call.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const filter).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    })
}

/// Lets [`receive`] say to which address datagrams came; a dual-stack socket says it of IPv4 too.
///
/// # Errors
/// As `setsockopt(2)`.
pub fn tell_destination(socket: BorrowedFd<'_>, ipv6: bool) -> io::Result<()> {
    match ipv6 {
        true => set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1),
        false => set_option(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1),
    }
}

/// Room for control messages, aligned as the kernel wants it: two of an int each (24 bytes with their headers), and an address
/// of either family (32 and 40 bytes).
type Control = [u64; 15];

/// Sends up to [`MAX_RUNS`] runs with one `sendmmsg` and returns how many went.
///
/// # Errors
/// As `sendmsg(2)` for the first run; an error at a later one ends the call early instead.
pub fn send_many<'a>(
    socket: BorrowedFd<'_>,
    runs: impl IntoIterator<Item = Outgoing<'a>>,
) -> io::Result<usize> {
    let mut names = [const { MaybeUninit::<libc::sockaddr_in6>::uninit() }; MAX_RUNS];
    let mut vectors = [const { MaybeUninit::<libc::iovec>::uninit() }; MAX_RUNS];
    let mut controls = [const { MaybeUninit::<Control>::uninit() }; MAX_RUNS];
    let mut messages = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; MAX_RUNS];
    let slots = names.iter_mut().zip(&mut vectors).zip(&mut controls).zip(&mut messages);
    let mut count = 0;
    for ((((name, vector), control), message), run) in slots.zip(runs) {
        let name_len = write_address(name, run.to);
        let vector = vector
            .write(libc::iovec { iov_base: run.bytes.as_ptr().cast_mut().cast(), iov_len: run.bytes.len() });
        // SAFETY: msghdr is plain old data; all zeroes is a valid value (it has private padding).
        let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
        header.msg_name = name.as_mut_ptr().cast();
        header.msg_namelen = name_len;
        header.msg_iov = vector;
        header.msg_iovlen = 1;
        if run.segment != 0 || run.hops != 0 || run.from.is_some() {
            write_control(&mut header, control.write([0; 15]), &run);
        }
        message.write(libc::mmsghdr { msg_hdr: header, msg_len: 0 });
        count += 1;
    }
    // SAFETY: the first `count` messages are initialised and point into arrays and slices that live on;
    // the kernel only reads through `iov_base`.
    let sent = unsafe {
        libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr().cast(), count, libc::MSG_NOSIGNAL)
    };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(sent as usize)
}

fn write_control(header: &mut libc::msghdr, control: &mut Control, run: &Outgoing<'_>) {
    header.msg_control = control.as_mut_ptr().cast();
    if run.segment != 0 {
        put_control(header, (libc::SOL_UDP, libc::UDP_SEGMENT), run.segment);
    }
    let ipv4 = run.to.ip().to_canonical().is_ipv4();
    if run.hops != 0 {
        let kind =
            if ipv4 { (libc::IPPROTO_IP, libc::IP_TTL) } else { (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) };
        put_control(header, kind, c_int::from(run.hops));
    }
    match run.from {
        Some(IpAddr::V4(from)) if ipv4 => {
            let ipi_spec_dst = libc::in_addr { s_addr: u32::from_ne_bytes(from.octets()) };
            let ipi_addr = libc::in_addr { s_addr: 0 };
            let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst, ipi_addr };
            put_control(header, (libc::IPPROTO_IP, libc::IP_PKTINFO), info);
        }
        Some(IpAddr::V6(from)) if !ipv4 => {
            let ipi6_addr = libc::in6_addr { s6_addr: from.octets() };
            let info = libc::in6_pktinfo { ipi6_addr, ipi6_ifindex: 0 };
            put_control(header, (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO), info);
        }
        _ => {}
    }
}

/// Adds a message to the control buffer of `header`, a [`Control`], after those that it has.
fn put_control<T>(header: &mut libc::msghdr, (level, kind): (c_int, c_int), value: T) {
    // SAFETY: arithmetic only.
    let (len, space) = unsafe {
        (libc::CMSG_LEN(size_of::<T>() as u32) as usize, libc::CMSG_SPACE(size_of::<T>() as u32) as usize)
    };
    let at = header.msg_controllen;
    if at + space > size_of::<Control>() {
        return;
    }
    header.msg_controllen = at + space;
    // SAFETY: `at` and `space` are multiples of 8 and end inside the aligned buffer, as was just checked.
    unsafe {
        let message = header.msg_control.cast::<u8>().add(at).cast::<libc::cmsghdr>();
        (*message).cmsg_level = level;
        (*message).cmsg_type = kind;
        (*message).cmsg_len = len as _;
        libc::CMSG_DATA(message).cast::<T>().write_unaligned(value);
    }
}

/// Receives one datagram, or several merged ones where the socket has UDP_GRO.
///
/// # Errors
/// As `recvmsg(2)`; `WouldBlock` when nothing waits.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    let mut name = MaybeUninit::<libc::sockaddr_in6>::zeroed();
    let mut control: Control = [0; 15];
    let mut vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: msghdr is plain old data; all zeroes is a valid value.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_name = name.as_mut_ptr().cast();
    header.msg_namelen = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of::<Control>() as _;
    // SAFETY: every pointer in the header names a live, writable local or the caller's buffer, with its length.
    let len = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, 0) };
    if len < 0 {
        return Err(io::Error::last_os_error());
    }
    let len = len as usize;
    // SAFETY: the name was zeroed, so it is initialised whatever the kernel wrote.
    let from = read_address(unsafe { name.assume_init_ref() });
    let Told { segment, hops, to } = read_control(&header);
    let segment = segment.unwrap_or(len).clamp(1, len.max(1));
    Ok(Received { len, segment, from, to, hops })
}

/// What the kernel told beside the datagrams.
#[derive(Default)]
struct Told {
    /// Size of merged datagrams.
    segment: Option<usize>,
    /// Their time to live or hop limit.
    hops: Option<u8>,
    to: Option<IpAddr>,
}

fn read_control(header: &libc::msghdr) -> Told {
    let mut told = Told::default();
    // SAFETY: the kernel filled the control buffer and set its length; the macros stay inside it.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
    // SAFETY: null, or a header inside the buffer.
    while let Some(message) = unsafe { next.as_ref() } {
        // SAFETY: of those kinds that an int is read of, each carries one.
        let value = || unsafe { libc::CMSG_DATA(message).cast::<c_int>().read_unaligned() };
        match (message.cmsg_level, message.cmsg_type) {
            (libc::SOL_UDP, libc::UDP_GRO) => told.segment = usize::try_from(value()).ok(),
            (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
                told.hops = u8::try_from(value()).ok();
            }
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                // SAFETY: that is what a message of this kind carries.
                let info = unsafe { libc::CMSG_DATA(message).cast::<libc::in_pktinfo>().read_unaligned() };
                told.to = own_address(Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes()).into());
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                // SAFETY: that is what a message of this kind carries.
                let info = unsafe { libc::CMSG_DATA(message).cast::<libc::in6_pktinfo>().read_unaligned() };
                told.to = own_address(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
            }
            _ => {}
        }
        // SAFETY: `message` is a header inside the buffer.
        next = unsafe { libc::CMSG_NXTHDR(header, message) };
    }
    told
}

/// The destination of a datagram as an address that answers can leave from; `None` where it was for many, or means nothing
/// without its interface.
pub fn own_address(destination: IpAddr) -> Option<IpAddr> {
    let ip = destination.to_canonical();
    let is_own = match ip {
        IpAddr::V4(ip) => !ip.is_broadcast(),
        IpAddr::V6(ip) => !ip.is_unicast_link_local(),
    };
    (is_own && !ip.is_multicast() && !ip.is_unspecified()).then_some(ip)
}

fn write_address(slot: &mut MaybeUninit<libc::sockaddr_in6>, address: SocketAddr) -> libc::socklen_t {
    match address {
        SocketAddr::V6(to) => {
            slot.write(libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: to.port().to_be(),
                sin6_flowinfo: to.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: to.ip().octets() },
                sin6_scope_id: to.scope_id(),
            });
            size_of::<libc::sockaddr_in6>() as libc::socklen_t
        }
        SocketAddr::V4(to) => {
            let raw = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: to.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(to.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: sockaddr_in is smaller than sockaddr_in6 and needs no stricter alignment.
            unsafe { slot.as_mut_ptr().cast::<libc::sockaddr_in>().write(raw) };
            size_of::<libc::sockaddr_in>() as libc::socklen_t
        }
    }
}

fn read_address(raw: &libc::sockaddr_in6) -> SocketAddr {
    if c_int::from(raw.sin6_family) == libc::AF_INET {
        // SAFETY: the family says that the kernel wrote a sockaddr_in, which is a prefix of this memory.
        let raw = unsafe { &*(&raw const *raw).cast::<libc::sockaddr_in>() };
        let ip = raw.sin_addr.s_addr.to_ne_bytes();
        return SocketAddrV4::new(ip.into(), u16::from_be(raw.sin_port)).into();
    }
    let ip = Ipv6Addr::from(raw.sin6_addr.s6_addr);
    let port = u16::from_be(raw.sin6_port);
    match ip.to_ipv4_mapped() {
        Some(ip) => SocketAddrV4::new(ip, port).into(),
        None => SocketAddrV6::new(ip, port, raw.sin6_flowinfo, raw.sin6_scope_id).into(),
    }
}

/// An epoll instance; each descriptor is known by a small number.
#[derive(Debug)]
pub struct Epoll(OwnedFd);

impl Epoll {
    /// # Errors
    /// As `epoll_create1(2)`.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers.
        own(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }).map(Self)
    }

    /// Watches `descriptor` for reading, level-triggered, as number `token` (0 to 31).
    ///
    /// # Errors
    /// As `epoll_ctl(2)`.
    pub fn watch(&self, descriptor: BorrowedFd<'_>, token: u32) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: u64::from(token) };
        self.control(libc::EPOLL_CTL_ADD, descriptor, &raw mut event)
    }

    /// Stops watching `descriptor`.
    ///
    /// # Errors
    /// As `epoll_ctl(2)`.
    pub fn forget(&self, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, descriptor, std::ptr::null_mut())
    }

    fn control(
        &self,
        op: c_int,
        descriptor: BorrowedFd<'_>,
        event: *mut libc::epoll_event,
    ) -> io::Result<()> {
        // SAFETY: `event` is null only for EPOLL_CTL_DEL, which doesn't read it, else a live local.
        check(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), op, descriptor.as_raw_fd(), event) })
    }

    /// Waits and returns the ready tokens as a bit set; 0 after `timeout` or an interruption.
    ///
    /// # Errors
    /// As `epoll_wait(2)`.
    pub fn wait(&self, timeout: Option<Duration>) -> io::Result<u32> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; MAX_EVENTS];
        let millis = timeout.map_or(-1, millis);
        // SAFETY: the kernel writes at most that many events into the array.
        let count =
            unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), MAX_EVENTS as c_int, millis) };
        match check(count) {
            Err(e) if e.kind() != io::ErrorKind::Interrupted => Err(e),
            Err(_) => Ok(0),
            Ok(()) => Ok(events.iter().take(count as usize).fold(0, |set, e| set | 1 << (e.u64 & 31))),
        }
    }
}

/// A non-blocking eventfd as a file: write 8 bytes to signal, read 8 bytes to clear.
///
/// # Errors
/// As `eventfd(2)`.
pub fn event_fd() -> io::Result<File> {
    // SAFETY: no pointers.
    own(unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) }).map(File::from)
}

/// Waits until `socket` takes data again; false after `timeout`.
pub fn wait_writable(socket: BorrowedFd<'_>, timeout: Duration) -> bool {
    let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    // SAFETY: one pollfd, a live local.
    unsafe { libc::poll(&raw mut poll, 1, millis(timeout)) > 0 }
}

fn millis(timeout: Duration) -> c_int {
    c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX)
}

fn own(descriptor: RawFd) -> io::Result<OwnedFd> {
    check(descriptor)?;
    // SAFETY: a call that just succeeded made this descriptor, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
