//! `doctor`: what keeps this node from doing its work.

use super::output::{Outcome, printable};
use super::status;
use crate::config::Config;
use crate::doctor::{Finding, Severity, examine};

/// Prints what was found; exit code 1 where something doesn't work.
pub(super) fn run(config: &Config, json: bool) -> anyhow::Result<Outcome> {
    let findings = examine(&status::known(config)?, config.node.listen.port());
    let code = u8::from(findings.iter().any(|finding| finding.severity == Severity::Error));
    let outcome = if json {
        Outcome::json(&findings)
    } else {
        Outcome::text(findings.iter().map(line).collect::<String>())
    };
    Ok(outcome.code(code))
}

fn line(finding: &Finding) -> String {
    let mark = match finding.severity {
        Severity::Ok => "ok     ",
        Severity::Warning => "warning",
        Severity::Error => "error  ",
    };
    let remedy = finding.remedy.as_ref().map(|text| format!("\n         -> {}", printable(text)));
    format!("{mark}  {}: {}{}\n", finding.check, printable(&finding.summary), remedy.unwrap_or_default())
}
