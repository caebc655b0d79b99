//! One iperf3 run, and what it cost the machine and the tunnel.

use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use meshhold_tests::process::Process;
use meshhold_tests::wait;
use serde_json::Value;

use super::machine;
use super::site::{Site, run};

const PORT: &str = "5301";
const LISTEN_LIMIT: Duration = Duration::from_secs(5);
/// Beyond the run's own length.
const PATIENCE: Duration = Duration::from_secs(20);

/// What iperf3 does.
#[derive(Clone, Copy)]
pub(super) struct Load<'a> {
    pub(super) seconds: u32,
    pub(super) options: &'a [&'a str],
    /// A command that the client runs under; empty for none.
    pub(super) wrapper: &'a [&'a str],
}

/// What came of it.
pub(super) struct Transfer {
    pub(super) gigabytes: f64,
    pub(super) gbps: f64,
    pub(super) retransmitted: f64,
    /// Processor seconds of the machine.
    pub(super) busy: f64,
    /// Processor seconds of the tunnel's processes.
    pub(super) own: f64,
    /// What the hypervisor took of the processors, in percent.
    pub(super) stolen: f64,
}

/// The server on b that [`transfer`] needs.
pub(super) fn server(site: &Site) -> Result<Process> {
    listen(site, "iperf3", &["-s", "-p", PORT], PORT)
}

/// Starts a server on b and waits for its TCP port.
pub(super) fn listen(site: &Site, program: &str, arguments: &[&str], port: &str) -> Result<Process> {
    let mut process = site.b.spawn(&format!("server-{port}"), program, arguments)?;
    wait::until_true(LISTEN_LIMIT, &format!("{program} listens"), || {
        ensure!(process.is_running()?, "{program} ended: {}", process.log()?);
        Ok(!site.b.run("ss", &["-Hltn", &format!("sport = :{port}")])?.trim().is_empty())
    })?;
    Ok(process)
}

/// TCP from a to b, or as the options say.
pub(super) fn transfer(site: &Site, address: IpAddr, pids: &[u32], load: Load<'_>) -> Result<Transfer> {
    let (address, seconds) = (address.to_string(), load.seconds.to_string());
    let mut client = site.a.namespace().command("iperf3");
    client.args(["-J", "-c", &address, "-p", PORT, "-t", &seconds, "--connect-timeout", "5000"]);
    client.args(load.options);
    let before = (machine::time()?, machine::own_time(pids)?);
    let output = run(wrap(client, load.wrapper), Duration::from_secs(load.seconds.into()) + PATIENCE)?;
    let after = (machine::time()?, machine::own_time(pids)?);
    let report: Value = serde_json::from_slice(&output.stdout).with_context(|| {
        format!("iperf3 gave no report: {}", String::from_utf8_lossy(&output.stderr).trim())
    })?;
    let (gigabytes, gbps, retransmitted) = read(&report)?;
    let (passed, own) = (after.0.since(before.0), after.1 - before.1);
    let (busy, stolen) = (passed.busy, passed.percent(passed.stolen));
    Ok(Transfer { gigabytes, gbps, retransmitted, busy, own, stolen })
}

fn wrap(inner: Command, wrapper: &[&str]) -> Command {
    let Some((program, arguments)) = wrapper.split_first() else { return inner };
    let mut outer = Command::new(program);
    outer.args(arguments).arg(inner.get_program()).args(inner.get_args());
    outer
}

/// Gigabytes that arrived, Gbit/s, and retransmissions.
fn read(report: &Value) -> Result<(f64, f64, f64)> {
    if let Some(error) = report.get("error") {
        bail!("iperf3: {error}");
    }
    let number = |path: &str| report.pointer(path).and_then(Value::as_f64);
    let bytes = number("/end/sum_received/bytes").context("iperf3 gave no sum")?;
    ensure!(bytes > 0.0, "nothing arrived");
    let bits = number("/end/sum_received/bits_per_second").context("iperf3 gave no rate")?;
    Ok((bytes / 1e9, bits / 1e9, number("/end/sum_sent/retransmits").unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reports_are_read() {
        let end =
            json!({"sum_received": {"bytes": 2e9, "bits_per_second": 8e9}, "sum_sent": {"retransmits": 7}});
        assert_eq!(read(&json!({ "end": end })).unwrap(), (2.0, 8.0, 7.0));
        assert!(read(&json!({"error": "unable to connect"})).unwrap_err().to_string().contains("unable"));
        assert!(read(&json!({"end": {"sum_received": {"bytes": 0, "bits_per_second": 0}}})).is_err());
    }
}
