//! Who gets an answer from the HTTP API, and who doesn't: hosts, origins, sessions, tokens, and floods.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use meshhold_tests::lab::run_within;
use meshhold_tests::web::{Login, ORIGIN, Reply, curl};
use meshhold_tests::{Host, Lab, Node, Settings, run, scenario, service, wait};

const WEB: &str = "listen_addr: 127.0.0.1:8080";
const NEW_KEY: &str = "{\"name\":\"made by a browser\"}";
const PASSWORD: &str = "correct horse battery";
const SETTLE: Duration = Duration::from_secs(5);
const NO_BPF: &[&str] = &["setpriv", "--bounding-set=-bpf,-sys_admin", "--inh-caps=-bpf,-sys_admin", "--"];

fn node(lab: &Lab, api: &'static str) -> Result<Node> {
    let mut node = Node::new(lab.host("a")?, Settings { api: Some(api), ..Settings::default() })?;
    node.start_and_wait()?;
    Ok(node)
}

/// One request from the node's own host.
fn ask(node: &Node, words: &[&str], path: &str) -> Result<Reply> {
    let url = format!("{ORIGIN}{path}");
    curl(&node.host, &[words, &[&url]].concat())?.context("no answer")
}

/// What raw bytes get, up to the end of the connection.
fn raw(host: &Host, text: &str) -> Result<String> {
    let script = "import socket,sys\ns=socket.create_connection(('127.0.0.1',8080),5)\ns.sendall(sys.argv[1].encode('latin1').decode('unicode_escape').encode('latin1'))\nr=b''\nwhile True:\n  d=s.recv(65536)\n  if not d: break\n  r+=d\nprint(r.decode('latin1'))";
    host.run("python3", &["-c", script, text])
}

#[test]
fn only_known_callers_from_the_right_place_get_an_answer() -> Result<()> {
    run("gate", |lab| {
        let a = node(lab, WEB)?;
        for path in
            ["status", "networks", "keys", "drops", "events", "audit", "sessions", "tokens", "nowhere"]
        {
            let reply = ask(&a, &[], &format!("/api/v1/{path}"))?;
            ensure!(reply.status == 401, "{path} without a session: {reply:?}");
        }
        ensure!(ask(&a, &[], "/api/v1/openapi.json")?.status == 200, "the document is open");
        let login = Login::by_link(&a)?;
        ensure!(login.ask(&a, &[], "/api/v1/status")?.status == 200, "a session is let in");
        let cases: [(&str, &[&str], u16); 19] = [
            ("foreign host", &["--header", "Host: evil.example:8080"], 403),
            ("host without its port", &["--header", "Host: 127.0.0.1"], 403),
            ("no host", &["--header", "Host:", "--http1.0"], 403),
            (
                "a name that resolves here",
                &["--resolve", "rebind.example:8080:127.0.0.1", "--header", "Host: rebind.example:8080"],
                403,
            ),
            ("localhost", &["--header", "Host: localhost:8080"], 200),
            ("foreign target", &["--request-target", "http://evil.example/api/v1/keys"], 403),
            ("foreign origin", &["--header", "Origin: http://evil.example"], 403),
            ("origin of another port", &["--header", "Origin: http://127.0.0.1:8081"], 403),
            ("null origin", &["--header", "Origin: null"], 403),
            (
                "two origins",
                &["--header", "Origin: http://127.0.0.1:8080", "--header", "Origin: http://evil.example"],
                403,
            ),
            ("own origin", &["--header", "Origin: http://127.0.0.1:8080"], 200),
            ("another site's script", &["--header", "Sec-Fetch-Site: cross-site"], 403),
            ("this site's script", &["--header", "Sec-Fetch-Site: same-origin"], 200),
            ("wrong bearer token", &["--header", "Authorization: Bearer meshtoken1x"], 401),
            ("another kind of credentials", &["--header", "Authorization: Basic eDp5"], 401),
            ("a method that nobody takes", &["--request", "TRACE"], 405),
            ("a question before a foreign request", &["--request", "OPTIONS"], 405),
            ("a method of another address", &["--request", "PUT"], 405),
            (
                "a foreign referer on a write",
                &["--request", "POST", "--header", "Referer: http://evil.example/"],
                403,
            ),
        ];
        for (what, words, status) in cases {
            let reply = login.ask(&a, words, "/api/v1/keys")?;
            ensure!(reply.status == status, "{what}: {reply:?}");
        }
        // What a handler would say of a body, nobody hears who isn't let in.
        let broken = ["--header", "Content-Type: application/json", "--data", "{"];
        ensure!(ask(&a, &broken, "/api/v1/keys")?.status == 401, "a handler ran");
        ensure!(login.ask(&a, &broken, "/api/v1/keys")?.status == 400, "the same from one who is");
        let cookie = &login.cookie;
        let token = cookie.split_once('=').context("no token")?.1;
        let reply = ask(&a, &[], &format!("/api/v1/keys?token={token}&{cookie}"))?;
        ensure!(reply.status == 401, "a token in the URL: {reply:?}");
        for (what, head) in [
            ("two hosts", "Host: 127.0.0.1:8080\\r\\nHost: evil.example"),
            ("two lengths", "Host: 127.0.0.1:8080\\r\\nContent-Length: 3\\r\\nContent-Length: 4"),
        ] {
            let said = raw(
                &a.host,
                &format!(
                    "GET /api/v1/keys HTTP/1.1\\r\\n{head}\\r\\nCookie: {cookie}\\r\\nConnection: close\\r\\n\\r\\n"
                ),
            )?;
            ensure!(said.starts_with("HTTP/1.1 40"), "{what}: {said}");
        }
        // Whatever is hidden in a body is a body, or a request that nobody is known for.
        let hidden = "GET /api/v1/keys HTTP/1.1\\r\\nHost: 127.0.0.1:8080\\r\\nConnection: close\\r\\n\\r\\n";
        let said = raw(
            &a.host,
            &format!(
                "POST /api/v1/explain HTTP/1.1\\r\\nHost: 127.0.0.1:8080\\r\\nCookie: {cookie}\\r\\nContent-Length: 5\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n0\\r\\n\\r\\n{hidden}"
            ),
        )?;
        ensure!(!said.contains("200 OK"), "a smuggled request got an answer: {said}");
        Ok(())
    })
}

#[test]
fn writes_need_this_session_s_token_and_programs_what_their_token_permits() -> Result<()> {
    run("writes", |lab| {
        let a = node(lab, WEB)?;
        let (one, other) = (Login::by_link(&a)?, Login::by_link(&a)?);
        let create = ["--data", NEW_KEY];
        let with = |cookie: &str, csrf: &str, more: &[&str]| {
            let (cookie, csrf) = (format!("Cookie: {cookie}"), format!("X-CSRF-Token: {csrf}"));
            let words =
                ["--header", &cookie, "--header", &csrf, "--header", "Content-Type: application/json"];
            Ok::<_, anyhow::Error>(ask(&a, &[&words[..], &create, more].concat(), "/api/v1/keys")?.status)
        };
        ensure!(with(&one.cookie, "", &[])? == 403, "a write without the token");
        ensure!(with(&one.cookie, &other.csrf, &[])? == 403, "a write with another session's token");
        ensure!(with(&one.cookie, &one.csrf, &["--header", "Referer: http://evil.example/x"])? == 403);
        ensure!(with(&one.cookie, &one.csrf, &["--header", "Origin: http://evil.example"])? == 403);
        let program =
            |caps: &str| a.meshhold(&["mgmt-keys", "add", "--name", caps, "--caps", caps, "--never-expires"]);
        let (view, admin) = (program("view")?, program("admin")?);
        let bearer = |token: &str, words: &[&str], path: &str| {
            let token = format!("Authorization: Bearer {}", token.trim());
            ask(
                &a,
                &[&["--header", &token, "--header", "Content-Type: application/json"], words].concat(),
                path,
            )
        };
        ensure!(bearer(&view, &[], "/api/v1/keys")?.status == 200, "'view' sees");
        let question = ["--data", "{\"traffic\":\"icmp\",\"to\":\"198.18.0.1\"}"];
        ensure!(bearer(&view, &question, "/api/v1/explain")?.status == 200, "'view' asks");
        ensure!(bearer(&view, &create, "/api/v1/keys")?.status == 403, "'view' changes nothing");
        let keys = bearer(&view, &[], "/api/v1/keys")?;
        ensure!(keys.body == "[]", "a refused write had an effect: {keys:?}");
        ensure!(bearer(&admin, &create, "/api/v1/keys")?.status == 201, "'admin' changes");
        for (method, local) in [("POST", "links"), ("PUT", "password")] {
            let words = [&create[..], &["--request", method]].concat();
            let reply = bearer(&admin, &words, &format!("/api/v1/{local}"))?;
            ensure!(reply.status == 403, "{local} is for the control socket: {reply:?}");
        }
        let made = one.ask(&a, &create, "/api/v1/keys")?;
        ensure!(made.status == 201 && made.header("etag").is_some(), "{made:?}");
        let ended = other.ask(&a, &["--request", "DELETE"], &format!("/api/v1/sessions/{}", one.id))?;
        ensure!(ended.status == 204, "{ended:?}");
        ensure!(one.ask(&a, &[], "/api/v1/keys")?.status == 401, "a revoked session is out");
        let link = a.meshhold(&["web"])?;
        let token = link.trim().split_once("#link=").context("no link")?.1;
        let body = format!("{{\"link\":\"{token}\"}}");
        ensure!(Login::with(&a, &body)?.is_some() && Login::with(&a, &body)?.is_none(), "a link works once");
        let audit = other.ask(&a, &[], "/api/v1/audit")?.body;
        for entry in ["login", "POST /api/v1/keys", "DELETE /api/v1/sessions/"] {
            ensure!(audit.contains(entry), "the audit lacks {entry}: {audit}");
        }
        ensure!(!audit.contains(token) && !audit.contains(view.trim()), "the audit holds a secret");
        Ok(())
    })
}

#[test]
fn fifteen_failures_lock_a_source_out_before_anything_is_hashed() -> Result<()> {
    run("lockout", |lab| {
        let a = node(lab, WEB)?;
        a.meshhold_with_input(&["web", "set-password"], PASSWORD)?;
        let right = format!("{{\"password\":\"{PASSWORD}\"}}");
        ensure!(Login::with(&a, &right)?.is_some(), "the password is right");
        let login = |body: &str| {
            let words = ["--header", "Content-Type: application/json", "--data", body];
            ask(&a, &words, "/api/v1/login")
        };
        let begin = a.processor_time()?;
        for n in 0..15 {
            ensure!(login("{\"password\":\"guessed it?\"}")?.status == 401, "failure {n}");
        }
        let hashing = a.processor_time()? - begin;
        for body in ["{\"password\":\"guessed it?\"}", right.as_str()].repeat(8) {
            let reply = login(body)?;
            let after: u64 = reply.header("retry-after").context("no Retry-After")?.parse()?;
            ensure!(reply.status == 429 && (1..=901).contains(&after), "{reply:?}");
        }
        let refusing = a.processor_time()? - begin - hashing;
        println!("figure: 15 failures took {hashing:.0?} of processor time, 16 refusals {refusing:.0?}");
        ensure!(refusing * 2 < hashing, "hashed all the same: {hashing:?}, {refusing:?}");
        ensure!(Login::by_link(&a).is_ok(), "the operator gets in all the same");
        Ok(())
    })
}

#[test]
fn members_reach_it_only_where_the_configuration_names_their_network() -> Result<()> {
    run("mesh-access", |lab| {
        let (mut a, b) = scenario::pair(lab, &["tcp:8000-8100"])?;
        let _service = service::echo(&a.host, "tcp", "127.0.0.1".parse()?, 8081)?;
        a.stop()?;
        a.configure(Settings { api: Some(WEB), ..Settings::default() })?;
        a.start_and_wait()?;
        b.wait_peer_up(&a)?;
        let from = |address: IpAddr| {
            let url = match address {
                IpAddr::V4(ip) => format!("http://{ip}:8080/"),
                IpAddr::V6(ip) => format!("http://[{ip}]:8080/"),
            };
            curl(&b.host, &["--max-time", "2", &url])
        };
        for address in a.both_addresses()? {
            b.host.tool(&["ask", "tcp", &address.to_string(), "8081"])?;
            ensure!(from(address)?.is_none(), "reached at {address}, as the scope has 8080 in it");
        }
        // To ::1 there is another way in: the listener is looked up and handed the packet.
        a.stop()?;
        a.configure(Settings { api: Some("listen_addr: '[::1]:8080'"), ..Settings::default() })?;
        a.start_and_wait()?;
        b.wait_peer_up(&a)?;
        let beside = service::echo(&a.host, "tcp", "::1".parse()?, 8082)?;
        for address in a.both_addresses()? {
            ensure!(from(address)?.is_none(), "reached at {address}, listening on ::1");
        }
        b.host.tool(&["ask", "tcp", &a.addresses()?.1.to_string(), "8082"])?;
        drop(beside);
        a.stop()?;
        a.configure(Settings {
            api: Some("listen_addr: 127.0.0.1:8080, mesh_access: Home network"),
            ..Settings::default()
        })?;
        a.start_and_wait()?;
        let warned = a.status()?.warnings.iter().any(|text| text.contains("set-password"));
        ensure!(warned, "reachable by others without a password");
        a.meshhold_with_input(&["web", "set-password"], PASSWORD)?;
        a.stop()?;
        a.start_and_wait()?;
        b.wait_peer_up(&a)?;
        for address in a.both_addresses()? {
            let reply = wait::until(SETTLE, "the network that is named reaches it", || from(address))?;
            ensure!(reply.status == 200, "{reply:?}");
        }
        let secured = ask(&a, &["--header", "Host: evil.example:8080"], "/")?;
        ensure!(secured.status == 403, "{secured:?}");
        stays_out_without_kernel_programs(&mut a, &b)
    })
}

/// Where the workers judge packets, who listens on all addresses listens on those of the mesh too.
fn stays_out_without_kernel_programs(a: &mut Node, b: &Node) -> Result<()> {
    a.stop()?;
    let api = Some("listen_addr: 0.0.0.0:8080");
    a.configure(Settings { api, wrapper: NO_BPF.to_vec(), ..Settings::default() })?;
    let status = a.start_and_wait()?;
    ensure!(status.datapath.mode == "userspace", "{:?}", status.datapath);
    b.wait_peer_up(a)?;
    let _beside = service::echo(&a.host, "tcp", "0.0.0.0".parse()?, 8083)?;
    let address = a.addresses()?.0.to_string();
    b.host.tool(&["ask", "tcp", &address, "8083"])?;
    let visit = |host: &Host, at: &str| {
        curl(host, &["--insecure", "--max-time", "2", &format!("https://{at}:8080/")])
    };
    ensure!(visit(&a.host, &a.host.ipv4.to_string())?.is_some(), "it listens");
    ensure!(visit(&b.host, &address)?.is_none(), "reached at {address} without kernel programs");
    Ok(())
}

/// SHA-256 of the certificate that a server on this host shows.
const PRINT: &str = "\
import ssl,hashlib,sys
der=ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((sys.argv[1],8080)))
print(hashlib.sha256(der).hexdigest())
";

#[test]
fn beyond_loopback_there_is_a_password_and_tls_or_nothing() -> Result<()> {
    run("beyond", |lab| {
        let host = lab.host("a")?;
        let api: &'static str = Box::leak(format!("listen_addr: {}:8080", host.ipv4).into_boxed_str());
        let mut a = Node::new(host, Settings { api: Some(api), ..Settings::default() })?;
        a.start_and_wait()?;
        let lan = lab.host("lan")?;
        let warned = a.status()?.warnings.iter().any(|text| text.contains("set-password"));
        ensure!(warned, "no warning: {:?}", a.status()?.warnings);
        let (address, at) = (a.host.ipv4, format!("{}:8080", a.host.ipv4));
        let visit = |words: &[&str]| curl(&lan, &[&["--max-time", "2"], words].concat());
        ensure!(visit(&[&format!("http://{at}/")])?.is_none(), "it listens without a password");
        a.meshhold_with_input(&["web", "set-password"], PASSWORD)?;
        a.stop()?;
        a.start_and_wait()?;
        let page = format!("https://{at}/");
        ensure!(visit(&[&page])?.context("no answer")?.status == 200, "the page is there");
        ensure!(visit(&[&format!("http://{at}/")])?.is_none(), "without TLS");
        let status = format!("https://{at}/api/v1/status");
        let login = format!("https://{at}/api/v1/login");
        let body = format!("{{\"password\":\"{PASSWORD}\"}}");
        let json = "Content-Type: application/json";
        let rebound = format!("rebind.example:8080:{address}");
        let cases: [(&str, &[&str], u16); 6] = [
            ("nobody", &[&status], 401),
            ("a wrong token", &[&status, "--header", "Authorization: Bearer meshtoken1x"], 401),
            ("a token in the URL", &[&format!("{status}?token=meshtoken1x")], 401),
            ("a name that leads here", &["https://rebind.example:8080/", "--resolve", &rebound], 403),
            (
                "a foreign page",
                &[&login, "--header", json, "--header", "Origin: https://evil.example", "--data", &body],
                403,
            ),
            (
                "the page itself",
                &[&login, "--header", json, "--header", &format!("Origin: https://{at}"), "--data", &body],
                200,
            ),
        ];
        for (what, words, expected) in cases {
            let reply = visit(words)?.context("no answer")?;
            ensure!(reply.status == expected, "{what}: {reply:?}");
            let secure = reply.header("set-cookie").is_none_or(|cookie| cookie.contains("Secure"));
            ensure!(secure, "{what}: the cookie goes without TLS too");
        }
        let printed = a.try_meshhold(&["web"], "")?;
        ensure!(printed.stdout.trim().lines().count() == 1, "the link isn't alone: {}", printed.stdout);
        let shown = a.host.run("python3", &["-c", PRINT, &address.to_string()])?;
        let plain = printed.stderr.replace(':', "").to_lowercase();
        ensure!(plain.contains(shown.trim()), "{shown} isn't the fingerprint of {}", printed.stderr);
        Ok(())
    })
}

/// Opens many connections; some stay silent, some send a header byte by byte. Ends when it is told to.
const FLOOD: &str = "\
import resource,socket,time
resource.setrlimit(resource.RLIMIT_NOFILE,(20000,20000))
idle=[]
for n in range(10000):
    s=socket.socket(); s.setblocking(False)
    try: s.connect(('127.0.0.1',8080))
    except BlockingIOError: pass
    idle.append(s)
    if n%200==0: time.sleep(0.005)
print('open',flush=True)
end=time.time()+30
while time.time()<end:
    for s in idle[::20]:
        try: s.send(b'X')
        except OSError: pass
    time.sleep(0.5)
";

/// Windows of a transfer beside the flood; the same number and one more without it.
fn windows() -> usize {
    std::env::var("MESHHOLD_WINDOWS").ok().and_then(|text| text.parse().ok()).unwrap_or(7)
}

/// The middle one of what each window beside the flood kept of those before and after it: the machine's own moods come and go
/// more slowly than windows.
fn kept(calm: &[f64], beside: &[f64]) -> f64 {
    let around = calm.windows(2).map(|pair| pair.iter().sum::<f64>() / 2.0);
    let mut shares: Vec<f64> = beside.iter().zip(around).map(|(rate, around)| rate / around).collect();
    shares.sort_by(f64::total_cmp);
    shares.get(shares.len() / 2).copied().unwrap_or_default()
}

#[test]
fn ten_thousand_idle_and_slow_connections_leave_the_packet_path_alone() -> Result<()> {
    run_within(Duration::from_secs(200), "flood", |lab| {
        let (mut a, b) = scenario::pair(lab, &["tcp:5201"])?;
        a.stop()?;
        a.configure(Settings { api: Some(WEB), ..Settings::default() })?;
        a.start_and_wait()?;
        b.wait_peer_up(&a)?;
        let _iperf = service::iperf(&a.host, "127.0.0.1", 5201)?;
        let address = IpAddr::V4(a.addresses()?.0);
        let rate = || Ok::<_, anyhow::Error>(service::transfer(&b.host, address, 5201, 1, &[])?.mbits);
        let (mut calm, mut beside) = (vec![rate()?], Vec::new());
        for round in 0..windows() {
            let mut flood = a.host.spawn(&format!("flood-{round}"), "python3", &["-c", FLOOD])?;
            wait::until_true(SETTLE * 2, "10,000 connections are open", || {
                Ok(flood.log()?.contains("open"))
            })?;
            beside.push(rate()?);
            let begin = Instant::now();
            let login = Login::by_link(&a)?;
            ensure!(login.ask(&a, &[], "/api/v1/status")?.status == 200, "the operator gets in");
            println!("figure: login beside the flood took {:.0?}", begin.elapsed());
            flood.kill()?;
            calm.push(rate()?);
        }
        println!("figure: Mbit/s without {calm:.0?}, beside the flood {beside:.0?}");
        let kept = kept(&calm, &beside);
        println!("figure: the packet path kept {kept:.3} of its rate");
        ensure!(kept >= 0.8, "{kept:.3}");
        Ok(())
    })
}
