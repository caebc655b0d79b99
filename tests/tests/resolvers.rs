//! The host's resolver as others treat it: absent, late, restarted, emptied, passed by, or somebody else's.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use meshhold_tests::lab::labtool;
use meshhold_tests::resolver::{FOREIGN, Resolver, UPSTREAM};
use meshhold_tests::status::Dns;
use meshhold_tests::{Host, Node, Settings, run, wait};

const PATIENCE: Duration = Duration::from_secs(15);
/// The promise is one second, on a quiet machine.
const AGAIN: Duration = Duration::from_secs(5);

/// A node that is alone in its network, not started.
fn node(host: Host, wrapper: Vec<&'static str>) -> Result<Node> {
    let node = Node::new(host, Settings { wrapper, ..Settings::default() })?;
    node.mint(&[])?;
    Ok(node)
}

fn await_dns(node: &Node, what: &str, is: impl Fn(&Dns) -> bool) -> Result<Dns> {
    wait::until(PATIENCE, what, || Ok(Some(node.status()?.dns).filter(|dns| is(dns))))
}

fn is_hindered(by: &str) -> impl Fn(&Dns) -> bool {
    move |dns| !dns.handed_over && dns.hindrance.as_ref().is_some_and(|text| text.contains(by))
}

/// Waits until programs of the host get the node's own address by its name, and prints how long that took.
fn await_name(resolver: &Resolver, node: &Node, after: &str) -> Result<()> {
    let (address, begun) = (node.addresses()?.0.to_string(), Instant::now());
    wait::until_true(AGAIN, &format!("names work after {after}"), || {
        let found = resolver.run("getent", &["ahosts", "a.mesh"]);
        Ok(found.is_ok_and(|found| found.contains(&address)))
    })?;
    println!("figure: names work {:?} after {after}", begun.elapsed());
    await_dns(node, &format!("status says so after {after}"), |dns| dns.handed_over).map(drop)
}

#[test]
fn a_daemon_in_a_namespace_leaves_the_host_s_resolver_alone() -> Result<()> {
    run("resolver-namespace", |lab| {
        let host = lab.host("a")?;
        let resolver = Resolver::start(&host)?;
        // The number that the mesh interface has in a new namespace is this uplink's here.
        for setting in [["dns", "eth0", UPSTREAM], ["domain", "eth0", "corp.example"]] {
            resolver.run("resolvectl", &setting)?;
        }
        let before = resolver.state()?;
        let tool = labtool()?;
        // The last has something on the stub's address: the bus alone leads out.
        let stub = format!("setpriv --pdeathsig KILL {tool} dns 127.0.0.53 53 192.0.2.1 & exec \"$@\"");
        let both: &[fn(&mut Node) -> Result<()>] = &[Node::stop, Node::kill];
        let cages = [
            (vec!["unshare", "--net", "--"], both),
            (vec!["unshare", "--user", "--map-root-user", "--net", "--"], &[Node::kill]),
            (vec!["unshare", "--net", "--", "sh", "-c", stub.leak(), "sh"], &[Node::kill]),
        ];
        let mut node = node(host, Vec::new())?;
        for (cage, ends) in cages {
            let lo = ["sh", "-c", "ip link set lo up; exec \"$@\"", "sh"];
            let (namespace, inner) =
                cage.split_at(cage.iter().position(|word| *word == "--").context("--")? + 1);
            let wrapper = [&resolver.wrapper(), namespace, &lo, inner].concat();
            node.configure(Settings { wrapper, ..Settings::default() })?;
            for end in ends {
                node.start_and_wait()?;
                let dns = await_dns(&node, "nobody asks", is_hindered("another network namespace"))?;
                ensure!(dns.remedy.is_some_and(|text| text.contains("server=/mesh/")), "no remedy");
                let printed = node.meshhold(&["meshlan", "status"])?;
                ensure!(printed.contains("nobody asks") && printed.contains("another network"), "{printed}");
                ensure!(resolver.state()? == before, "while it runs in {cage:?}: {}", resolver.state()?);
                end(&mut node)?;
                ensure!(resolver.state()? == before, "after its end in {cage:?}: {}", resolver.state()?);
            }
        }
        Ok(())
    })
}

#[test]
fn a_resolver_that_comes_later_restarts_or_forgets_is_told_again() -> Result<()> {
    run("resolver-again", |lab| {
        let host = lab.host("a")?;
        let mut resolver = Resolver::stopped(&host)?;
        let mut node = node(host, resolver.wrapper())?;
        node.start_and_wait()?;
        let dns = await_dns(&node, "nobody asks", is_hindered("no systemd-resolved runs here"))?;
        ensure!(dns.remedy.is_some_and(|text| text.contains("install systemd-resolved")), "no remedy");
        resolver.launch()?;
        await_name(&resolver, &node, "resolved came up late")?;

        resolver.run("resolvectl", &["revert", "mesh0"])?;
        await_name(&resolver, &node, "resolvectl revert")?;
        // What NetworkManager does to links that aren't its own when a network comes or goes.
        resolver.run("resolvectl", &["dns", "mesh0", ""])?;
        await_name(&resolver, &node, "somebody emptied the link's servers")?;

        resolver.end()?;
        resolver.launch()?;
        await_name(&resolver, &node, "resolved restarted without what it had written down")?;
        // Another VPN that wants all names doesn't get ours.
        let leaked = || Ok::<_, anyhow::Error>(resolver.foreign_questions()?.matches("a.mesh").count());
        let before = leaked()?;
        for setting in
            [["dns", "eth0", UPSTREAM], ["domain", "eth0", "~."], ["default-route", "eth0", "true"]]
        {
            resolver.run("resolvectl", &setting)?;
        }
        await_name(&resolver, &node, "another interface took all names")?;
        let found = resolver.run("getent", &["ahostsv4", "elsewhere.example"])?;
        ensure!(found.contains(FOREIGN), "{found}");
        ensure!(leaked()? == before, "{}", resolver.foreign_questions()?);
        Ok(())
    })
}

#[test]
fn what_passes_the_resolver_by_is_said_with_what_mends_it() -> Result<()> {
    run("resolver-passed-by", |lab| {
        let host = lab.host("a")?;
        let resolver = Resolver::start(&host)?;
        resolver.bypass(UPSTREAM)?;
        let mut node = node(host.clone(), resolver.wrapper())?;
        node.start_and_wait()?;
        let dns = await_dns(&node, "it is said", is_hindered("/etc/resolv.conf doesn't lead"))?;
        ensure!(!node.log()?.contains("are resolved on this host"), "{}", node.log()?);
        let found = node.meshhold(&["doctor"])?;
        ensure!(found.contains("doesn't lead to systemd-resolved"), "{found}");
        let remedy = dns.remedy.context("no remedy")?;
        let command = remedy.split(';').next().unwrap_or_default();
        resolver.run("sh", &["-c", command])?;
        await_name(&resolver, &node, command)?;
        ensure!(node.status()?.dns.hindrance.is_none(), "the warning stays");

        // Another VPN's client writes the file anew, whatever it led to.
        resolver.bypass("192.0.2.53")?;
        await_dns(&node, "that is seen", is_hindered("programs ask 192.0.2.53"))?;
        ensure!(node.log()?.contains("don't see names"), "{}", node.log()?);
        Ok(())
    })
}
