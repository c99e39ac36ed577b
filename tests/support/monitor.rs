//! A real Prometheus of a test's own: it scrapes the test's workers and evaluates the project's own rules.
//!
//! The minutes of the rules are seconds here: every `for:` and every window of the rules file has its minutes
//! replaced by as many seconds. The rule about the API is left out, as in a chart without an API. The rest stays as it is,
//! except for the name of the events topic.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::port::Port;
use super::process::Process;
use super::wait::{PATIENCE, wait_until};
use super::worker::get;

/// A running Prometheus; dropping it ends it and removes its data.
pub struct Monitor {
    process: Process,
    address: SocketAddr,
    _port: Port,
    _folder: tempfile::TempDir,
}

impl Monitor {
    /// Starts one that scrapes `workers` every second, as the job the rules expect, and waits until it answers.
    pub async fn start(workers: &[SocketAddr], events_topic: &str) -> Self {
        let version = Command::new("prometheus").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        assert!(
            version.is_ok_and(|status| status.success()),
            "there is no `prometheus` to run: install it (Debian's package is called prometheus)"
        );
        let folder = tempfile::Builder::new().prefix("hookstream-prometheus-").tempdir().expect("a temporary folder");
        let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/monitoring/rules.yml");
        let rules = std::fs::read_to_string(&rules).unwrap_or_else(|error| panic!("read {}: {error}", rules.display()));
        let rules = in_seconds(&without(&rules, "HookstreamApiDown")).replace("crm.object-events", events_topic);
        let targets: Vec<_> = workers.iter().map(|worker| format!("'{worker}'")).collect();
        let config = format!(
            "global: {{ scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s }}\n\
             rule_files: [rules.yml]\n\
             scrape_configs:\n\
             - {{ job_name: hookstream-worker, static_configs: [{{ targets: [{}] }}] }}\n",
            targets.join(", ")
        );
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
        };
        write("rules.yml", &rules);
        write("prometheus.yml", &config);
        let port = Port::hold();
        let address = port.address();
        let arguments = [
            format!("--config.file={}", folder.path().join("prometheus.yml").display()),
            format!("--storage.tsdb.path={}", folder.path().join("data").display()),
            format!("--web.listen-address={address}"),
            String::from("--log.level=warn"),
        ];
        let process = Process::start("Prometheus", "prometheus", &arguments, &[]);
        let monitor = Self { process, address, _port: port, _folder: folder };
        wait_until("Prometheus to answer", PATIENCE, async || match get(monitor.address, "/-/ready").await {
            Ok((200, _)) => Ok(()),
            other => {
                let lines = monitor.process.lines();
                assert!(!lines.ended(), "Prometheus has ended:\n{}", lines.tail(20));
                Err((other, lines.tail(20)))
            }
        })
        .await;
        monitor
    }

    /// The result of an instant query, now.
    pub async fn query(&self, expression: &str) -> Vec<Value> {
        self.ask(&format!("/api/v1/query?query={}", escaped(expression)), expression).await
    }

    /// The result of a query over a range of seconds since 1970, one point a second.
    pub async fn range(&self, expression: &str, (from, to): (i64, i64)) -> Vec<Value> {
        let path = format!("/api/v1/query_range?query={}&start={from}&end={to}&step=1", escaped(expression));
        self.ask(&path, expression).await
    }

    /// The names of the alerts that fire now.
    pub async fn firing(&self) -> Vec<String> {
        let alerts = self.query("ALERTS{alertstate=\"firing\"}").await;
        let mut names: Vec<_> = alerts.iter().filter_map(|alert| alert["metric"]["alertname"].as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names.into_iter().map(str::to_owned).collect()
    }

    /// Waits until the alert fires, or until it no longer does.
    pub async fn wait_for(&self, alert: &str, fires: bool) {
        let what = format!("{alert} to {}", if fires { "fire" } else { "stop" });
        wait_until(&what, PATIENCE, async || {
            let firing = self.firing().await;
            if firing.iter().any(|name| name == alert) == fires { Ok(()) } else { Err(firing) }
        })
        .await;
    }

    async fn ask(&self, path: &str, expression: &str) -> Vec<Value> {
        let (status, body) = get(self.address, path).await.unwrap_or_else(|error| panic!("ask Prometheus: {error}"));
        assert_eq!(status, 200, "{expression}: {body}");
        let mut answer: Value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{expression}: {error}"));
        assert_eq!(answer["status"], "success", "{expression}: {body}");
        match answer["data"]["result"].take() {
            Value::Array(series) => series,
            other => panic!("{expression}: {other}"),
        }
    }
}

/// The rules without that alert.
fn without(rules: &str, alert: &str) -> String {
    const BEGIN: &str = "      - alert: ";
    let blocks: Vec<&str> = rules.split(BEGIN).collect();
    let kept: Vec<&str> = blocks.iter().copied().filter(|block| block.lines().next() != Some(alert)).collect();
    assert_eq!(kept.len() + 1, blocks.len(), "the rules have one alert called {alert}");
    kept.join(BEGIN)
}

/// The rules with seconds in place of minutes: `for: 5m` becomes `for: 5s`, `[30m:1m]` becomes `[30s:1s]`.
fn in_seconds(rules: &str) -> String {
    let duration = |line: &str| line.trim_start().starts_with("for: ") || line.contains('[');
    let lines = rules.lines().map(|line| if duration(line) { minutes_replaced(line) } else { line.to_owned() });
    lines.collect::<Vec<_>>().join("\n") + "\n"
}

/// An `m` between a digit and the end of a duration is a minute.
fn minutes_replaced(line: &str) -> String {
    let characters: Vec<char> = line.chars().collect();
    let is_minute = |at: usize| {
        let before = at.checked_sub(1).and_then(|before| characters.get(before));
        let after = characters.get(at + 1);
        before.is_some_and(char::is_ascii_digit) && after.is_none_or(|after| matches!(after, ']' | ':' | ' '))
    };
    let replaced = characters.iter().enumerate();
    replaced.map(|(at, &character)| if character == 'm' && is_minute(at) { 's' } else { character }).collect()
}

/// Everything but letters and digits as `%XX`.
fn escaped(text: &str) -> String {
    let escape = |byte: u8| {
        if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    };
    text.bytes().map(escape).collect()
}
