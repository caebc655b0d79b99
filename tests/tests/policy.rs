//! Default deny, seen from outside, and live changes of the scope.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use meshhold_tests::lab::labtool;
use meshhold_tests::process::Process;
use meshhold_tests::service::{self, Scan};
use meshhold_tests::{Node, run, scenario, wait};

/// An edit of the scope takes effect within this.
const EFFECT: Duration = Duration::from_secs(1);
/// Longest pause of an undisturbed flow on a busy machine.
const UNDISTURBED_MS: u128 = 500;
const BEATS_LIMIT: Duration = Duration::from_secs(5);

#[test]
fn nothing_answers_by_default() -> Result<()> {
    run("default-deny", |lab| {
        let (a, b) = scenario::pair(lab, &[])?;
        let any: IpAddr = "::".parse()?;
        let _services = [
            service::echo(&a.host, "tcp", any, 22)?,
            service::echo(&a.host, "udp", any, 22)?,
            service::echo(&a.host, "tcp", Ipv4Addr::LOCALHOST.into(), 8080)?,
        ];
        for address in a.both_addresses()? {
            let tcp = service::scan(&b.host, "tcp", address, 1)?;
            ensure!(tcp.silent == 65_536, "tcp {address}: open {:?}, refused {:?}", tcp.open, tcp.refused);
            let udp = service::scan(&b.host, "udp", address, 7)?;
            ensure!(udp.open.is_empty() && udp.refused.is_empty(), "udp {address}: {udp:?}");
        }
        a.set_scope(&["tcp:22", "udp:22"])?;
        for address in a.both_addresses()? {
            wait_only_open(&b, "tcp", address, 22)?;
            wait_only_open(&b, "udp", address, 22)?;
        }
        Ok(())
    })
}

/// The same scan as before finds the port that was opened, and it alone.
fn wait_only_open(from: &Node, protocol: &str, address: IpAddr, port: u16) -> Result<()> {
    // Port 22 is among the udp ports 1, 8, 15, 22…
    let step = if protocol == "tcp" { 1 } else { 7 };
    let Scan { open, refused, .. } = service::scan(&from.host, protocol, address, step)?;
    ensure!(open == [port] && refused.is_empty(), "{protocol} {address}: open {open:?}, refused {refused:?}");
    Ok(())
}

#[test]
fn edits_apply_within_a_second() -> Result<()> {
    run("edit", |lab| {
        let (a, b) = scenario::pair(lab, &[])?;
        let _server = service::echo(&a.host, "tcp", Ipv4Addr::LOCALHOST.into(), 80)?;
        for address in a.both_addresses()? {
            let asks = || b.host.succeeds(&labtool()?, &["await", &address.to_string(), "80", "100"]);
            ensure!(!asks()?, "open before it was allowed");
            a.set_scope(&["tcp:80"])?;
            let begin = Instant::now();
            wait::until_true(EFFECT, "the opened port accepts", asks)?;
            println!("figure: open by edit, {address}: {:.0?}", begin.elapsed());
            a.set_scope(&[])?;
            let begin = Instant::now();
            wait::until_true(EFFECT, "the closed port is silent", || Ok(!asks()?))?;
            println!("figure: closed by edit, {address}: {:.0?}", begin.elapsed());
        }
        Ok(())
    })
}

#[test]
fn closing_a_port_cuts_its_flows_and_no_other() -> Result<()> {
    run("cut", |lab| {
        let (a, b) = scenario::pair(lab, &["tcp:80", "tcp:81"])?;
        let _servers = [
            service::echo(&a.host, "tcp", Ipv4Addr::LOCALHOST.into(), 80)?,
            service::echo(&a.host, "tcp", Ipv4Addr::LOCALHOST.into(), 81)?,
        ];
        for (round, address) in a.both_addresses()?.into_iter().enumerate() {
            a.set_scope(&["tcp:80", "tcp:81"])?;
            let address = address.to_string();
            b.host.tool(&["await", &address, "80", "2000"])?;
            let closing = b.host.spawn_tool(&format!("closing-{round}"), &["flow", &address, "80"])?;
            let staying = b.host.spawn_tool(&format!("staying-{round}"), &["flow", &address, "81"])?;
            for flow in [&closing, &staying] {
                wait::until_true(BEATS_LIMIT, "the flow beats", || Ok(beats(flow)?.len() > 20))?;
            }
            a.set_scope(&["tcp:81"])?;
            let closed_at = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
            wait::until_true(BEATS_LIMIT, "the other flow goes on", || {
                Ok(beats(&staying)?.last().is_some_and(|beat| *beat > closed_at + 2_000))
            })?;
            let last = *beats(&closing)?.last().context("the closing flow has beaten")?;
            ensure!(last <= closed_at + EFFECT.as_millis(), "beats {} ms after", last - closed_at);
            let pause = longest_pause(&beats(&staying)?);
            println!("figure: longest pause of the other flow, {address}: {pause} ms");
            ensure!(pause <= UNDISTURBED_MS, "the other flow paused {pause} ms");
        }
        Ok(())
    })
}

fn beats(flow: &Process) -> Result<Vec<u128>> {
    flow.log()?.lines().filter_map(|line| line.strip_prefix("beat ")).map(|beat| Ok(beat.parse()?)).collect()
}

fn longest_pause(beats: &[u128]) -> u128 {
    beats.iter().zip(beats.iter().skip(1)).map(|(one, next)| next - one).max().unwrap_or_default()
}
