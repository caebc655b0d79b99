//! The results as Markdown.

use serde_json::Value;

use super::figures::{Line, Results};

/// A column: heading, the figures in it, decimals, and whether the range is shown.
struct Column {
    heading: &'static str,
    figures: &'static [&'static str],
    decimals: usize,
    range: bool,
}

const fn column(
    heading: &'static str,
    figures: &'static [&'static str],
    decimals: usize,
    range: bool,
) -> Column {
    Column { heading, figures, decimals, range }
}

const TCP: &[Column] = &[
    column("TCP 1 Gbit/s", &["tcp1_gbps"], 2, true),
    column("reversed", &["reverse_gbps"], 2, true),
    column("TCP 4", &["tcp4_gbps"], 2, true),
    column("CPU s/GB", &["tcp1_cpu"], 2, true),
    column("of it tunnel", &["tcp1_own"], 2, false),
    column("CPU s/GB TCP 4", &["tcp4_cpu"], 2, false),
    column("retrans/GB 1, 4", &["tcp1_retrans", "tcp4_retrans"], 0, false),
];
const PACKETS: &[Column] = &[
    column("UDP 200 B kpps, ≤ 1 % lost", &["udp_kpps"], 0, true),
    column("flood offered, arrived kpps", &["flood_offered_kpps", "flood_kpps"], 0, false),
    column("flood goodput Gbit/s", &["flood_gbps"], 2, true),
    column("ping beside flood p50, p99 µs", &["flood_ping_p50_us", "flood_ping_p99_us"], 0, false),
    column("its loss %", &["flood_ping_lost_pct"], 0, false),
    column("ping idle p50, p99 µs", &["ping_p50_us", "ping_p99_us"], 0, false),
    column("ping beside TCP 4 p50, p99 µs", &["load_ping_p50_us", "load_ping_p99_us"], 0, false),
    column("RSS MiB, both ends", &["rss_mib"], 0, false),
];

/// Both tables with what a reader must know about them.
pub(super) fn markdown(results: &Results) -> String {
    let mut text = introduction(results);
    let mut lines: Vec<&Line> = results.lines.iter().filter(|line| !line.samples.is_empty()).collect();
    let speed = |line: &Line| line.spread("tcp1_gbps").map_or(0.0, |spread| spread.median);
    lines.sort_by(|one, other| speed(other).total_cmp(&speed(one)));
    let best = results.best_peer("tcp1_gbps");
    let beside = best.map_or("× best peer".to_owned(), |(name, _)| format!("× {name}"));
    let ratios = |line: &Line| {
        let bound = results.bound(line.cipher, "tcp1_gbps");
        [results.raw("tcp1_gbps"), best.map(|(_, figure)| figure), bound].map(|to| ratio(speed(line), to))
    };
    table(&mut text, TCP, &["× raw", &beside, "× bound"], &lines, |line| ratios(line).into());
    table(&mut text, PACKETS, &[], &lines, |_| Vec::new());
    for line in &results.lines {
        for failure in &line.failures {
            text.push_str(&format!("- {} failed: {}\n", line.name, failure.replace('\n', " ")));
        }
    }
    text
}

fn introduction(results: &Results) -> String {
    let share = |name: &str| {
        let spread = results.overall(name);
        spread.map_or("unknown".to_owned(), |spread| {
            format!("median {:.0} %, at most {:.0} %", spread.median, spread.most)
        })
    };
    let (rounds, seconds) = (results.rounds(), results.seconds);
    format!(
        "Topology {}, underlay {}; medians (min..max) of {rounds} interleaved rounds, {seconds} s a TCP run. \
         Machine: {}; busy before a measurement: {}; taken by the hypervisor during one, after as many as two \
         repetitions: {}. Client, server and both ends share the cores. Bound: the row copy-… of the same cipher family \
         (128-bit keys for AES).\n\n",
        results.topology,
        results.underlay,
        machine(&results.facts),
        share("busy_pct"),
        share("stolen_pct"),
    )
}

/// What [`super::machine::facts`] gave, in one line.
pub(super) fn machine(facts: &Value) -> String {
    let fact = |name: &str| match facts.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(list)) => {
            list.iter().filter_map(|item| item.as_str()).collect::<Vec<_>>().join(" ")
        }
        Some(other) => other.to_string(),
        None => "unknown".to_owned(),
    };
    let [cpu, cores, flags] = ["cpu", "cores", "flags"].map(fact);
    let [memory, kernel, iperf3, load] = ["memory_gib", "kernel", "iperf3", "load"].map(fact);
    format!(
        "{cpu}, {cores} cores, {flags}, {memory} GiB, kernel {kernel}, {iperf3}, load at the start {load}"
    )
}

fn table(
    text: &mut String,
    columns: &[Column],
    more: &[&str],
    lines: &[&Line],
    ratios: impl Fn(&Line) -> Vec<String>,
) {
    // A column that nothing was measured for says nothing.
    let measured = |column: &&Column| {
        lines.iter().any(|line| column.figures.iter().any(|figure| line.spread(figure).is_some()))
    };
    let columns: Vec<&Column> = columns.iter().filter(measured).collect();
    let headings = columns.iter().map(|column| column.heading).chain(more.iter().copied());
    let headings: Vec<&str> = ["row", "version, cipher"].into_iter().chain(headings).collect();
    push(text, &headings);
    push(text, &vec!["---"; headings.len()]);
    for line in lines {
        let cells = columns.iter().map(|column| cell(line, column));
        let cells: Vec<String> = [line.name.to_owned(), line.version.clone()]
            .into_iter()
            .chain(cells)
            .chain(ratios(line))
            .collect();
        push(text, &cells.iter().map(String::as_str).collect::<Vec<_>>());
    }
    text.push('\n');
}

fn push(text: &mut String, cells: &[&str]) {
    text.push_str(&format!("| {} |\n", cells.join(" | ")));
}

fn cell(line: &Line, column: &Column) -> String {
    let places = column.decimals;
    let figures = column.figures.iter().map(|figure| match line.spread(figure) {
        None => "–".to_owned(),
        Some(spread) if column.range && spread.count > 1 => {
            format!("{:.places$} ({:.places$}..{:.places$})", spread.median, spread.least, spread.most)
        }
        Some(spread) => format!("{:.places$}", spread.median),
    });
    figures.collect::<Vec<_>>().join(", ")
}

fn ratio(figure: f64, to: Option<f64>) -> String {
    to.filter(|to| *to > 0.0).map_or("–".to_owned(), |to| format!("{:.2}", figure / to))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::rows::{Cipher, Kind};
    use super::super::site::Underlay;
    use super::*;

    fn line(name: &'static str, kind: Kind, cipher: Cipher, figures: &[f64]) -> Line {
        let samples = figures.iter().map(|figure| BTreeMap::from([("tcp1_gbps", *figure)])).collect();
        Line { name, kind, cipher, version: "1".to_owned(), samples, failures: Vec::new() }
    }

    #[test]
    fn lines_are_sorted_and_compared() {
        let mut lines = vec![
            line("other", Kind::Peer, Cipher::ChaCha, &[1.0, 3.0, 2.0]),
            line("raw", Kind::Raw, Cipher::None, &[20.0]),
            line("copy", Kind::Bound, Cipher::AesGcm, &[10.0]),
            line("meshhold", Kind::Own, Cipher::AesGcm, &[8.0]),
        ];
        lines.push(line("broken", Kind::Peer, Cipher::Other, &[]));
        lines[4].failures.push("cannot\nstart".to_owned());
        let facts = serde_json::json!({"cores": 2});
        let results = Results { topology: "direct", underlay: Underlay::Veth, seconds: 2, facts, lines };
        let text = markdown(&results);
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
        assert_eq!(rows[0], "| row | version, cipher | TCP 1 Gbit/s | × raw | × other | × bound |");
        assert_eq!(rows[2], "| raw | 1 | 20.00 | 1.00 | 10.00 | – |");
        assert_eq!(rows[3], "| copy | 1 | 10.00 | 0.50 | 5.00 | 1.00 |");
        assert_eq!(rows[4], "| meshhold | 1 | 8.00 | 0.40 | 4.00 | 0.80 |");
        assert_eq!(rows[5], "| other | 1 | 2.00 (1.00..3.00) | 0.10 | 1.00 | – |");
        assert!(text.contains("- broken failed: cannot start\n"), "{text}");
        assert_eq!(results.json()["rows"]["meshhold"]["tcp1_to_bound"], 0.8);
    }
}
