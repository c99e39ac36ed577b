//! The view of the running demo: a frame on a terminal, a line a second elsewhere. It makes text only; the caller reads the numbers and
//! draws.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::account::Requests;
use super::sample::{Behaviour, PLAYGROUND, SAMPLES};
use crate::domain::outcome::DeadReason;
use crate::telemetry::metrics::Within;

/// The phases of the demo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The worker is joining its groups.
    Starting,
    /// Events are produced.
    Producing,
    /// No more events: retries run out.
    RunningOut,
    /// The worker drains.
    Stopping,
    /// Nothing runs any more.
    Ended,
}

impl Phase {
    fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Producing => "producing",
            Self::RunningOut => "running-out",
            Self::Stopping => "stopping",
            Self::Ended => "ended",
        }
    }
}

/// The addresses of the demo's parts.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// The worker's metrics.
    pub(crate) metrics: SocketAddr,
    /// The registration API.
    pub(crate) api: SocketAddr,
    /// The operators' page, with its scheme.
    pub(crate) console: String,
    /// The API's token of this run. `None` when a file holds the tokens.
    pub(crate) token: Option<String>,
    pub(crate) broker: String,
}

impl Places {
    /// Names and values, in the order to show them.
    pub(crate) fn named(&self) -> [(&'static str, String); 5] {
        [
            ("metrics", format!("http://{}/metrics", reachable(self.metrics))),
            ("broker", self.broker.clone()),
            ("api", format!("http://{}/api/v1/{PLAYGROUND}/integrations/instances", reachable(self.api))),
            ("console", self.console.clone()),
            ("token", self.token.clone().unwrap_or_else(|| "one of --api-tokens-file".to_owned())),
        ]
    }
}

/// The address to connect to. A listener on all addresses is reached on loopback.
pub(super) fn reachable(listening: SocketAddr) -> SocketAddr {
    let loopback = match listening.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(loopback, listening.port())
}

/// What the view shows at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) phase: Phase,
    /// The time since the events began.
    pub(crate) elapsed: Duration,
    /// How long events are produced, if that is bounded.
    pub(crate) duration: Option<Duration>,
    /// Events a second.
    pub(crate) rate: u32,
    pub(crate) places: Places,
    /// Events read: those that match a webhook, those that match none, and invalid ones.
    pub(crate) events: [u64; 3],
    /// Deliveries that were acknowledged.
    pub(crate) acknowledged: u64,
    /// By tier: its name, retries put into it so far, retries that wait in it now.
    pub(crate) tiers: Vec<(String, u64, u64)>,
    /// Dead letters by reason.
    pub(crate) dead: Vec<(DeadReason, u64)>,
    /// Requests under way.
    pub(crate) in_flight: i64,
    /// Deliveries waiting for their turn.
    pub(crate) queued: i64,
    /// Hosts and webhooks whose circuit is open.
    pub(crate) circuits_open: i64,
    /// Webhooks that are behind, in each partition.
    pub(crate) behind: i64,
    /// 99 of 100 retries were attempted within this after they fell due.
    pub(crate) lateness: Option<Within>,
    /// Half of the deliveries were acknowledged within this after their event was written.
    pub(crate) latency: Option<Within>,
    /// By webhook: what its receiver has seen.
    pub(crate) receivers: Vec<Requests>,
    /// Whether the receiver that recovers is down.
    pub(crate) is_down: bool,
}

/// Marks up text, or leaves it as it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint {
    /// Whether to use colours.
    pub(crate) colour: bool,
}

impl Paint {
    fn wrap(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }

    fn green(self, text: &str) -> String {
        self.wrap("32", text)
    }

    fn yellow(self, text: &str) -> String {
        self.wrap("33", text)
    }

    fn red(self, text: &str) -> String {
        self.wrap("31", text)
    }
}

/// Columns of the bar.
const BAR_WIDTH: u64 = 64;

impl Snapshot {
    fn dead_letters(&self) -> u64 {
        self.dead.iter().filter(|(reason, _)| *reason != DeadReason::InvalidEvent).map(|(_, count)| count).sum()
    }

    fn waiting(&self) -> u64 {
        self.tiers.iter().map(|(_, _, waiting)| waiting).sum()
    }

    /// Deliveries that the worker holds: those that wait for their turn, and the requests under way.
    fn in_worker(&self) -> u64 {
        u64::try_from(self.queued.saturating_add(self.in_flight)).unwrap_or_default()
    }

    /// One line for logs and pipes.
    pub(crate) fn line(&self) -> String {
        let tiers: Vec<String> = self.tiers.iter().map(|(name, put, _)| format!("{name}:{put}")).collect();
        let dead: Vec<String> = self.dead.iter().map(|(reason, count)| format!("{}:{count}", reason.word())).collect();
        format!(
            "{:>4}s {} events={} acknowledged={} retried={} waiting={} dead={} in_flight={} circuits_open={} behind={} lateness_p99={}",
            self.elapsed.as_secs(),
            self.phase.word(),
            self.events.iter().sum::<u64>(),
            self.acknowledged,
            tiers.join(","),
            self.waiting(),
            dead.join(","),
            self.in_flight,
            self.circuits_open,
            self.behind,
            within(self.lateness),
        )
    }

    /// The lines of a frame.
    pub(crate) fn frame(&self, paint: Paint) -> Vec<String> {
        let mut lines = self.head(paint);
        lines.push(String::new());
        lines.extend(self.deliveries(paint));
        lines.push(String::new());
        lines.extend(self.receivers(paint));
        lines.push(String::new());
        lines.extend(self.retries(paint));
        lines
    }

    fn head(&self, paint: Paint) -> Vec<String> {
        let clock = match self.duration {
            Some(duration) if self.elapsed < duration => format!("{} of {}", minutes(self.elapsed), minutes(duration)),
            Some(_) | None => minutes(self.elapsed),
        };
        let phase = match self.phase {
            Phase::Starting => paint.yellow("starting: the worker joins its groups, which takes 3 s"),
            Phase::Producing => paint.green(&format!("producing up to {} events/s (Ctrl-C: no more)", self.rate)),
            Phase::RunningOut => paint.yellow("no more events, retries run out (Ctrl-C: stop)"),
            Phase::Stopping => paint.yellow("stopping: the worker drains"),
            Phase::Ended => paint.dim("ended"),
        };
        let mut lines = vec![format!("{}  {clock}  {phase}", paint.bold("hookstream demo"))];
        lines.extend(self.places.named().map(|(name, value)| paint.dim(&format!("{name:<9}{value}"))));
        lines
    }

    fn deliveries(&self, paint: Paint) -> Vec<String> {
        let [matched, unmatched, invalid] = self.events;
        let (acknowledged, waiting, dead) = (self.acknowledged, self.waiting(), self.dead_letters());
        let in_worker = self.in_worker();
        let all = (acknowledged + waiting + dead + in_worker).max(1);
        let part = |count: u64| (count * BAR_WIDTH).div_ceil(all);
        let (red, yellow) = (part(dead), part(waiting));
        let dim = part(in_worker).min(BAR_WIDTH.saturating_sub(red + yellow));
        let green = if acknowledged == 0 { 0 } else { BAR_WIDTH.saturating_sub(red + yellow + dim) };
        let bar = |columns: u64| "█".repeat(usize::try_from(columns).unwrap_or_default());
        vec![
            format!(
                "{} {:>7}   for webhooks {matched}   for none {unmatched}   not events {invalid}",
                paint.bold("events      "),
                matched + unmatched + invalid
            ),
            format!(
                "{} {:>7}   {}   {}   {}   in worker {in_worker}",
                paint.bold("deliveries  "),
                all - u64::from(acknowledged + waiting + dead + in_worker == 0),
                paint.green(&format!("acknowledged {acknowledged}")),
                paint.yellow(&format!("in a tier {waiting}")),
                paint.red(&format!("dead {dead}")),
            ),
            format!(
                "             {}{}{}{}",
                paint.green(&bar(green)),
                paint.dim(&bar(dim)),
                paint.yellow(&bar(yellow)),
                paint.red(&bar(red))
            ),
        ]
    }

    fn receivers(&self, paint: Paint) -> Vec<String> {
        let head = format!("{:<14}{:<26}{:>9}{:>14}   answers", "receiver", "webhook", "requests", "acknowledged");
        let mut lines = vec![paint.bold(&head)];
        for sample in &SAMPLES {
            for (place, webhook) in sample.webhooks.iter().enumerate() {
                let seen = self.receivers.get(usize::from(webhook.number)).copied().unwrap_or_default();
                let name = if place == 0 { sample.name } else { "" };
                let answers = match sample.behaviour {
                    Behaviour::Good => paint.green("well"),
                    Behaviour::Recovers if self.is_down => paint.red("503"),
                    Behaviour::Recovers => paint.green("well again"),
                    Behaviour::NeverEchoes => paint.red("without echo"),
                };
                let counts = format!("{:>9}{:>14}", seen.received, seen.acknowledged);
                lines.push(format!("{name:<14}{:<26}{counts}   {answers}", webhook.name));
            }
        }
        lines
    }

    fn retries(&self, paint: Paint) -> Vec<String> {
        let mut names = String::new();
        let mut put = String::new();
        let mut wait = String::new();
        for (name, retried, waiting) in &self.tiers {
            let cells = [(&mut names, name), (&mut put, &retried.to_string()), (&mut wait, &waiting.to_string())];
            for (line, cell) in cells {
                // Writing into a string can't fail.
                let _written = write!(line, "{cell:>9}");
            }
        }
        let mut dead = String::new();
        for (reason, count) in self.dead.iter().filter(|(_, count)| *count > 0) {
            let _written = write!(dead, "   {} {count}", reason.word());
        }
        let dead = if dead.is_empty() { "   none".to_owned() } else { paint.red(&dead) };
        vec![
            format!("{}{names}", paint.bold("tier         ")),
            format!("retried      {put}"),
            format!("wait now     {wait}"),
            format!("{}{dead}", paint.bold("dead letters")),
            format!(
                "requests under way {}   circuits open {}   webhooks behind {}",
                self.in_flight, self.circuits_open, self.behind,
            ),
            format!("retry lateness p99 {}   delivery p50 {}", within(self.lateness), within(self.latency)),
        ]
    }
}

fn minutes(duration: Duration) -> String {
    let seconds = duration.as_secs();
    format!("{:02}:{:02}", seconds / 60, seconds % 60)
}

fn within(bound: Option<Within>) -> String {
    let text = |seconds: f64| {
        let duration = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        if seconds < 1.0 { format!("{}ms", duration.as_millis()) } else { format!("{}s", duration.as_secs()) }
    };
    match bound {
        None => "-".to_owned(),
        Some(Within::Seconds(seconds)) => format!("<={}", text(seconds)),
        Some(Within::Beyond(seconds)) => format!(">{}", text(seconds)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading() -> Snapshot {
        Snapshot {
            phase: Phase::RunningOut,
            elapsed: Duration::from_secs(77),
            duration: Some(Duration::from_secs(30)),
            rate: 50,
            places: Places {
                metrics: "0.0.0.0:9464".parse().unwrap(),
                console: "http://127.0.0.1:8090/".to_owned(),
                api: "[::]:18080".parse().unwrap(),
                token: Some("0123456789abcdef0123456789abcdef".to_owned()),
                broker: "127.0.0.1:40123".to_owned(),
            },
            events: [748, 85, 17],
            acknowledged: 1_001,
            tiers: ["1s", "2s", "5s", "10s"].map(|name| (name.to_owned(), 120, 7)).into(),
            dead: DeadReason::ALL.map(|reason| (reason, 3)).into(),
            in_flight: 2,
            queued: 5,
            circuits_open: 1,
            behind: 2,
            lateness: Some(Within::Seconds(0.025)),
            latency: Some(Within::Beyond(14_400.0)),
            receivers: vec![Requests { received: 100_000, acknowledged: 100_000, duplicates: 0 }; 4],
            is_down: true,
        }
    }

    #[test]
    fn a_frame_fits_80_columns_and_24_lines() {
        let frame = reading().frame(Paint { colour: false });
        assert!(frame.len() <= 24, "{} lines", frame.len());
        for line in &frame {
            assert!(line.chars().count() <= 80, "{} columns: {line}", line.chars().count());
        }
        let text = frame.join("\n");
        for part in [
            "01:17  no more events",
            "acknowledged 1001",
            "in a tier 28",
            "dead 9",
            "in worker 7",
            "requests under way 2",
            "circuits open 1",
            "behind 2",
            "<=25ms",
            "503",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }

    #[test]
    fn the_bar_has_the_same_width_with_all_shares() {
        for (acknowledged, waiting) in [(0, 1), (1, 0), (1_000_000, 1), (3, 3)] {
            let mut reading = Snapshot { acknowledged, queued: 0, in_flight: 0, ..reading() };
            reading.dead.clear();
            reading.tiers = vec![("1s".to_owned(), 0, waiting)];
            let bar = reading.deliveries(Paint { colour: false }).pop().unwrap();
            assert_eq!(
                bar.chars().filter(|column| *column == '█').count() as u64,
                BAR_WIDTH,
                "{acknowledged}/{waiting}"
            );
        }
    }

    #[test]
    fn a_line_names_every_number() {
        let line = reading().line();
        for part in [
            "77s running-out",
            "events=850",
            "acknowledged=1001",
            "retried=1s:120,2s:120",
            "exhausted:3",
            "behind=2",
            "<=25ms",
        ] {
            assert!(line.contains(part), "{part} is missing in {line}");
        }
    }
}
