//! `hookstream demo`: the whole system in one process, on a broker of its own, and an account of every event at the end.
//!
//! The worker is the real one. Around it are a broker, three receivers, a producer, a view and the account. Everything is on loopback and
//! in memory: nothing is left behind. [`run`] starts what the worker needs before it starts, `DemoRun::show` starts what runs beside it,
//! and `Scenario::perform` is the sequence of events.

pub(crate) mod registration;
pub(crate) mod receivers;
pub(crate) mod produce;
mod embedded;
pub(crate) mod watch;
mod observer;
pub(crate) mod view;
pub(crate) mod summary;
pub(crate) mod sample;
pub(crate) mod account;

use std::io::{self, IsTerminal as _, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use ipnet::IpNet;
use parking_lot::{Mutex, MutexGuard};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::app::console::serve as serve_console;
use crate::app::worker::{Worker, WorkerError};
use crate::console::BoundConsole;
use crate::deliver::publish::{Outgoing, Publish as _, PublishError, Sink};
use crate::domain::signature::{Signer, SigningKey};
use crate::domain::topic_names::{counts_topic, deltas_topic, now_topic};
use crate::kafka::ClientError;
use crate::registration::http::ApiError;
use crate::settings::{Demo, Settings, terminal};
use crate::telemetry::metrics::{EventOutcome, Metrics};
use crate::telemetry::terminal as screen;
use crate::tools::demo::embedded::{EmbeddedBroker, EmbeddedError};
use crate::tools::demo::observer::ObserverError;
use account::{Account, Balance, Remains};
use receivers::Began;
use registration::{Registration, bind_console, forward};
use sample::SAMPLES;
use view::{Paint, Phase, Places, Snapshot};
use watch::{Watch, tier_topics};

/// Partitions of each topic.
const PARTITIONS: i32 = 4;
/// How long the worker may take to join its groups: the broker lets members gather for 3 s.
const READY_TIMEOUT: Duration = Duration::from_mins(1);
/// How long retries may run out after all are given up: requests and a busy machine take time too.
const RUN_OUT_EXTRA: Duration = Duration::from_secs(5);
/// Between two checks of a condition that is waited for.
const MAINTENANCE_EVERY: Duration = Duration::from_millis(20);
/// Between two frames on a terminal.
const FRAME_EVERY: Duration = Duration::from_millis(200);
/// Between two lines elsewhere.
const LINE_EVERY: Duration = Duration::from_secs(1);
/// The percentiles that the view shows.
const P99: f64 = 0.99;
const HALF: f64 = 0.5;

/// Why a demo could not be shown to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DemoError {
    /// There is no broker.
    #[error(transparent)]
    Broker(#[from] EmbeddedError),
    /// A receiver can't listen.
    #[error("a receiver: {0}")]
    Receiver(io::Error),
    /// There is no producer.
    #[error("a Kafka client cannot be made")]
    Client(#[from] ClientError),
    /// A record could not be produced.
    #[error("sample events cannot be produced")]
    Produce(#[from] PublishError),
    /// The worker ended.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// The registration API ended.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// A part ended without a reason.
    #[error("a part of the demo ended without being asked to")]
    Ended,
    /// The worker did not get ready.
    #[error("the worker was not ready within {READY_TIMEOUT:?}")]
    NotReady,
    /// The topics could not be watched.
    #[error(transparent)]
    Watch(#[from] ObserverError),
    /// A part panicked.
    #[error("a part of the demo ended")]
    Part(#[from] tokio::task::JoinError),
    /// The summary could not be written.
    #[error("stdout: {0}")]
    Output(io::Error),
}

/// The account, shared by all that observe something.
pub(crate) type Ledger = Arc<Mutex<Account>>;

fn lock(ledger: &Ledger) -> MutexGuard<'_, Account> {
    ledger.lock()
}

/// What ends a demo before its time.
#[derive(Clone, Debug)]
pub(crate) struct StopSignals {
    /// No more events; what is under way may end.
    pub(crate) finish: CancellationToken,
    /// Retries are not waited for either.
    pub(crate) hurry: CancellationToken,
}

/// Runs the demo, and returns whether the account balances.
///
/// # Errors
/// [`DemoError`]: it could not be shown to its end.
pub(crate) async fn run(settings: Settings, demo: Demo, stops: StopSignals) -> Result<bool, DemoError> {
    let broker = EmbeddedBroker::start(&topics(&settings), PARTITIONS)?;
    let settings = settings_for_demo(settings, broker.brokers());
    let (ledger, began) = (Ledger::default(), Arc::new(Began::default()));
    let serving = CancellationToken::new();
    let mut servers = JoinSet::new();
    let sink = producer(&settings)?;
    for sample in &SAMPLES {
        let secret = new_secret();
        let signer = Signer::new(SigningKey::parse(&secret, None).into_iter().collect());
        let (ledger, began) = (Arc::clone(&ledger), Arc::clone(&began));
        let served = receivers::serve(sample, signer, ledger, began, &mut servers, serving.clone()).await;
        let base_url = format!("http://{}", served.map_err(DemoError::Receiver)?);
        // As in a rotation: the new secret and the old one, which the receiver has forgotten.
        let record = sample.record(&base_url, &[new_secret(), secret]);
        sink.publish(&Outgoing {
            topic: settings.topics.integrations.as_str().into(),
            key: Some(sample.key().into()),
            payload: Some(Bytes::from(record.to_string())),
            headers: Vec::new(),
        })
        .await?;
    }
    let demo = DemoRun::set(settings, demo, ledger, began, sink).await?;
    let balances = demo.show(&stops).await?;
    serving.cancel();
    while let Some(served) = servers.join_next().await {
        served?.map_err(DemoError::Receiver)?;
    }
    Ok(balances)
}

/// Every topic of the contract.
fn topics(settings: &Settings) -> Vec<String> {
    let names = &settings.topics;
    let mut topics = tier_topics(settings);
    topics.extend(
        [
            &names.events,
            &names.integrations,
            &names.dead_letter,
            &names.attempts,
            &names.health,
            &names.backlog,
            &names.audit,
        ]
        .map(Clone::clone),
    );
    topics.extend([deltas_topic(&names.health), counts_topic(&names.health), now_topic(&names.retry_prefix)]);
    topics
}

/// The settings with what the demo needs: its broker, and receivers on loopback.
fn settings_for_demo(mut settings: Settings, brokers: &str) -> Settings {
    brokers.clone_into(&mut settings.kafka.brokers);
    // This broker waits out every empty fetch, even when records come meanwhile.
    settings.kafka.properties.push(("fetch.wait.max.ms".to_owned(), "10".to_owned()));
    let loopback = IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8);
    settings.delivery.allow_private_networks.push(loopback);
    settings
}

/// A producer of the demo's own; its metrics are not exported.
fn producer(settings: &Settings) -> Result<Sink, ClientError> {
    let metrics = Arc::new(Metrics::new(&settings.delivery.schedule));
    Sink::new(&settings.kafka, metrics, CancellationToken::new(), CancellationToken::new())
}

/// A fresh signing secret.
fn new_secret() -> String {
    format!("whsec_{}", base64::engine::general_purpose::STANDARD.encode(rand::random::<[u8; 24]>()))
}

/// Binds the worker to the address of the settings, or to another port if that one is taken.
async fn bind(settings: &Settings) -> Result<Worker, WorkerError> {
    let taken = |error: &WorkerError| matches!(error, WorkerError::Listen { source, .. } if source.kind() == io::ErrorKind::AddrInUse);
    match Worker::bind(settings.clone()).await {
        Err(error) if taken(&error) => {
            let mut elsewhere = settings.clone();
            elsewhere.admin_listen.set_port(0);
            let worker = Worker::bind(elsewhere).await?;
            tracing::warn!(taken = %settings.admin_listen, address = %worker.admin_address(), "admin listening elsewhere");
            Ok(worker)
        }
        bound => bound,
    }
}

/// The parts of the demo, and its phase.
struct DemoRun {
    settings: Settings,
    demo: Demo,
    ledger: Ledger,
    began: Arc<Began>,
    sink: Sink,
    worker: Worker,
    registration: Registration,
    console: BoundConsole,
    phase: Arc<Mutex<Phase>>,
}

impl DemoRun {
    /// The address of the page, for a browser.
    fn console_url(&self) -> String {
        let scheme = if self.settings.api.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}/", view::reachable(self.console.address()))
    }

    async fn set(
        settings: Settings,
        demo: Demo,
        ledger: Ledger,
        began: Arc<Began>,
        sink: Sink,
    ) -> Result<Self, DemoError> {
        // This broker answers no question about topics.
        let worker = bind(&settings).await?.without_topic_check();
        let registration = Registration::bind(&settings).await?;
        let console = bind_console(&settings).await?;
        let phase = Arc::new(Mutex::new(Phase::Starting));
        Ok(Self { settings, demo, ledger, began, sink, worker, registration, console, phase })
    }

    /// Runs worker, watch and view beside the scenario, then draws the balance and writes it. Returns whether it balances.
    async fn show(self, stops: &StopSignals) -> Result<bool, DemoError> {
        let (stop_worker, worker_ended, stop_view) =
            (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
        // Every part ends with this function, however it returns.
        let _guards = [&stop_worker, &worker_ended, &stop_view].map(|token| token.clone().drop_guard());
        let view = StatusView::of(&self);
        let metrics = self.worker.metrics();
        let readiness = Readiness { condition: self.worker.condition(), metrics: Arc::clone(&metrics) };
        let Self { settings, demo, ledger, began, sink, worker, registration, console, phase } = self;
        let scenario = Scenario { settings: &settings, demo, ledger: &ledger, began: &began, sink: &sink, phase };

        let mut watching = JoinSet::new();
        let (watch, ended) = (Watch::new(&settings, &ledger), worker_ended.clone());
        watching.spawn_blocking(move || watch.run(&ended));
        let mut viewing = JoinSet::new();
        viewing.spawn(view.run(stop_view.clone()));
        let mut working = JoinSet::new();
        let (stop, api_stop) = (stop_worker.clone(), stop_worker.clone());
        let (tokens, forward) = (registration.tokens(), forward(&settings, view::reachable(registration.address())));
        let serving = registration.run(settings.clone(), Arc::clone(&metrics), api_stop);
        working.spawn(async move { worker.run(stop).await.map_err(DemoError::from) });
        working.spawn(async move { serving.await.map_err(DemoError::from) });
        let (shown, page_stop) = (Arc::new(settings.clone()), stop_worker.clone());
        working.spawn(async move {
            let ready = crate::telemetry::readiness::Readiness::default();
            serve_console(shown, tokens, console, forward, &ready, page_stop).await;
            Ok(())
        });

        let performed = tokio::select! {
            biased;
            ended = working.join_next() => Err(ended_early(ended)),
            performed = scenario.perform(&readiness, stops) => performed,
        };
        scenario.set(Phase::Stopping);
        stop_worker.cancel();
        while let Some(ended) = working.join_next().await {
            ended??;
        }
        worker_ended.cancel();
        let remains = watching.join_next().await.ok_or(DemoError::Ended)???;
        scenario.set(Phase::Ended);
        stop_view.cancel();
        while let Some(viewed) = viewing.join_next().await {
            viewed?;
        }
        performed?;
        let dropped = metrics.dropped().map(|(_, count)| count).sum();
        conclude(&settings, &ledger, &Remains { dropped, ..remains })
    }
}

fn ended_early(ended: Option<Result<Result<(), DemoError>, tokio::task::JoinError>>) -> DemoError {
    match ended {
        Some(Ok(Err(error))) => error,
        Some(Err(error)) => error.into(),
        Some(Ok(Ok(()))) | None => DemoError::Ended,
    }
}

/// Writes the summary; returns whether the account balances.
fn conclude(settings: &Settings, ledger: &Ledger, remains: &Remains) -> Result<bool, DemoError> {
    let account = lock(ledger);
    let balance: Balance = account.balance(remains);
    let tiers: Vec<String> = settings.delivery.schedule.tiers().iter().map(ToString::to_string).collect();
    let dead: Vec<_> = account.dead_by_reason().collect();
    drop(account);
    let faults = balance.faults();
    let mut lines = summary::lines(&balance, &tiers, &dead);
    lines.extend(summary::verdict(&faults));
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "\n{}", lines.join("\n")).and_then(|()| stdout.flush()).map_err(DemoError::Output)?;
    Ok(faults.is_empty())
}

/// Whether the worker is ready to take events at once.
struct Readiness {
    condition: Arc<crate::telemetry::readiness::Readiness>,
    metrics: Arc<Metrics>,
}

impl Readiness {
    /// Whether both of the worker's consumers, of events and of retries, have their partitions.
    fn is_given(&self) -> bool {
        self.condition.is_ready() && self.metrics.intake.rebalances_assigned.get() >= 2
    }
}

/// The sequence of the demo.
struct Scenario<'a> {
    settings: &'a Settings,
    demo: Demo,
    ledger: &'a Ledger,
    began: &'a Began,
    sink: &'a Sink,
    phase: Arc<Mutex<Phase>>,
}

impl Scenario<'_> {
    fn set(&self, phase: Phase) {
        *self.phase.lock() = phase;
    }

    /// Waits for the worker, produces the events, and waits until all deliveries have ended.
    async fn perform(&self, readiness: &Readiness, stops: &StopSignals) -> Result<(), DemoError> {
        let ready = until(READY_TIMEOUT, &stops.finish, || readiness.is_given()).await;
        if stops.finish.is_cancelled() {
            return Ok(());
        }
        if !ready {
            return Err(DemoError::NotReady);
        }
        self.began.now();
        self.set(Phase::Producing);
        let topic = &self.settings.topics.events;
        produce::produce(self.demo, topic, self.sink, self.ledger, &stops.finish).await?;
        self.set(Phase::RunningOut);
        let delivery = &self.settings.delivery;
        // A retry that finds the circuit open goes through its tier again, until it is given up.
        let again = delivery.schedule.delays().iter().map(|delay| delay.duration()).max().unwrap_or_default();
        let run_out = delivery.give_up_after + again + RUN_OUT_EXTRA;
        until(run_out, &stops.hurry, || lock(self.ledger).open() == 0).await;
        Ok(())
    }
}

/// Waits until `is_so`, for at most `patience`, and not after `stop`. Returns whether it is so.
async fn until(patience: Duration, stop: &CancellationToken, is_so: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    while !is_so() {
        if Instant::now() >= deadline {
            return false;
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return is_so(),
            () = tokio::time::sleep(MAINTENANCE_EVERY) => {}
        }
    }
    true
}

/// Shows the metrics and the account while the demo runs.
struct StatusView {
    demo: Demo,
    ledger: Ledger,
    began: Arc<Began>,
    metrics: Arc<Metrics>,
    phase: Arc<Mutex<Phase>>,
    tiers: Vec<String>,
    places: Places,
}

impl StatusView {
    fn of(run: &DemoRun) -> Self {
        Self {
            demo: run.demo,
            ledger: Ledger::clone(&run.ledger),
            began: Arc::clone(&run.began),
            metrics: run.worker.metrics(),
            phase: Arc::clone(&run.phase),
            tiers: run.settings.delivery.schedule.tiers().iter().map(ToString::to_string).collect(),
            places: Places {
                metrics: run.worker.admin_address(),
                api: run.registration.address(),
                console: run.console_url(),
                token: run.registration.token().map(str::to_owned),
                broker: run.settings.kafka.brokers.clone(),
            },
        }
    }

    /// Shows until `stop`, and then one last time.
    async fn run(self, stop: CancellationToken) {
        let terminal = terminal();
        let paint = Paint { colour: terminal.colour };
        let draws = terminal.draws && io::stdout().is_terminal();
        let mut ticks = tokio::time::interval(if draws { FRAME_EVERY } else { LINE_EVERY });
        let (mut stopped, mut lines) = (false, Lines::default());
        if !draws {
            let places = self.places.named().map(|(name, value)| format!("{name} {value}"));
            if let Err(error) = print(&places.join("\n")) {
                tracing::warn!(%error, "stdout cannot be written");
            }
        }
        while !stopped {
            tokio::select! {
                biased;
                () = stop.cancelled() => stopped = true,
                _ = ticks.tick() => {}
            }
            let reading = self.reading();
            let shown = if draws { screen::draw(reading.frame(paint)) } else { lines.print(reading.line(), print) };
            if let Err(error) = shown {
                tracing::warn!(%error, "the view ends: stdout cannot be written");
                break;
            }
        }
        screen::leave();
    }

    fn reading(&self) -> Snapshot {
        let metrics = &self.metrics;
        let account = lock(&self.ledger);
        let elapsed = self.began.elapsed();
        Snapshot {
            phase: *self.phase.lock(),
            elapsed,
            duration: self.demo.duration,
            rate: self.demo.rate,
            places: self.places.clone(),
            events: EventOutcome::ALL.map(|outcome| metrics.intake.events(outcome)),
            acknowledged: metrics.deliver.deliveries_acknowledged.get(),
            tiers: (self.tiers.iter().zip(&metrics.deliver.retries).enumerate())
                .map(|(tier, (name, put))| (name.clone(), put.get(), account.waiting(tier)))
                .collect(),
            dead: metrics.dead_letters().collect(),
            in_flight: metrics.deliver.in_flight_requests.get(),
            queued: metrics.deliver.queued_deliveries.get(),
            circuits_open: metrics.deliver.circuits_open.get() + metrics.deliver.webhook_circuits_open.get(),
            behind: metrics.backlog.all_webhooks_behind(),
            lateness: metrics.lateness_within(P99),
            latency: metrics.latency_within(HALF),
            receivers: (0..4).map(|webhook| account.requests(webhook)).collect(),
            is_down: receivers::is_down(elapsed),
        }
    }
}

/// The lines of a demo whose stdout is not a terminal. A line that repeats the one before is left out.
#[derive(Default)]
struct Lines {
    last: String,
}

impl Lines {
    fn print(&mut self, line: String, print: impl FnOnce(&str) -> io::Result<()>) -> io::Result<()> {
        if line == self.last {
            return Ok(());
        }
        print(&line)?;
        self.last = line;
        Ok(())
    }
}

fn print(line: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_says_nothing_new_is_not_printed_again() {
        let (mut lines, mut printed) = (Lines::default(), Vec::new());
        for line in ["0s starting", "0s starting", "0s producing", "1s producing", "0s starting"] {
            let print = |line: &str| {
                printed.push(line.to_owned());
                Ok(())
            };
            lines.print(line.to_owned(), print).unwrap();
        }
        assert_eq!(printed, ["0s starting", "0s producing", "1s producing", "0s starting"]);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_with_its_condition_with_a_stop_and_with_its_patience() {
        let (stop, second) = (CancellationToken::new(), Duration::from_secs(1));
        let began = Instant::now();
        assert!(until(second, &stop, || began.elapsed() >= second / 2).await);
        assert!(!until(second, &stop, || false).await);
        stop.cancel();
        assert!(!until(second, &stop, || false).await);
        assert!(began.elapsed() < second * 2);
    }
}
