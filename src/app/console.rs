//! The composition root of `console`. It starts the listeners, then reads what it keeps in memory, and then it is ready. It stops them in
//! the reverse order. It has no producer: nothing is written to Kafka.

use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::api::{ServeError, bind_admin, both};
use crate::console::{BoundConsole, Console, Forward};
use crate::net::descriptors::raise_limit;
use crate::registration::http::readers::Readers;
use crate::registration::http::{ApiError, CONNECTIONS_MAX, Tokens};
use crate::registration::lookup::{Directory, Followers, Lookup};
use crate::settings::Settings;
use crate::telemetry::admin::Admin;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::readiness::Readiness;

/// The operators' page with its admin listener.
pub(crate) struct ConsoleProcess {
    settings: Arc<Settings>,
    admin: Admin,
    bound: BoundConsole,
    tokens: Arc<Tokens>,
}

impl ConsoleProcess {
    /// Reads tokens and certificates and listens. Kafka is not touched.
    ///
    /// # Errors
    /// A [`ServeError`] for each option at fault.
    pub(crate) async fn bind(settings: Settings) -> Result<Self, Vec<ServeError>> {
        let tokens =
            Tokens::open(settings.api.tokens_file.as_deref()).map_err(|bad| vec![ApiError::from(bad).into()])?;
        let tokens = Arc::new(tokens);
        let bound = BoundConsole::bind(&settings).await.map_err(ServeError::from);
        let (bound, admin) = both(bound, bind_admin(&settings).await)?;
        Ok(Self { settings: Arc::new(settings), admin, bound, tokens })
    }

    /// Serves until `stop`.
    ///
    /// # Errors
    /// [`ServeError`]: a listener ended, or the way to the API can't be made.
    pub(crate) async fn run(self, stop: CancellationToken) -> Result<(), ServeError> {
        let Self { settings, admin, bound, tokens } = self;
        raise_limit(CONNECTIONS_MAX);
        let forward = settings.console_api_url.as_ref().map(Forward::to).transpose().map_err(ServeError::Forward)?;
        if forward.is_none() {
            tracing::info!("no --console-api-url: the page offers no actions");
        }
        let (metrics, condition) =
            (Arc::new(Metrics::new(&settings.delivery.schedule)), Arc::new(Readiness::default()));
        let address = admin.address();
        let ending = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(admin.run(metrics, Arc::clone(&condition), ending.clone()));
        let serving = serve(settings, tokens, bound, forward, &condition, stop);
        let mut serving = std::pin::pin!(serving);
        let ended = tokio::select! {
            biased;
            () = serving.as_mut() => Ok(()),
            failed = tasks.join_next() => Err(ServeError::Admin { address, source: super::api::ended_early(failed) }),
        };
        ending.cancel();
        while let Some(admin_ended) = tasks.join_next().await {
            if let Err(error) = admin_ended {
                tracing::error!(%error, "the admin listener failed");
            }
        }
        ended
    }
}

/// Follows the topics and serves the page until `stop`. The demo uses it too, within its own process.
pub(crate) async fn serve(
    settings: Arc<Settings>,
    tokens: Arc<Tokens>,
    bound: BoundConsole,
    forward: Option<Forward>,
    condition: &Readiness,
    stop: CancellationToken,
) {
    let directory = Arc::new(Directory::new(Arc::default()));
    let following = CancellationToken::new();
    let _stops_when_dropped = following.clone().drop_guard();
    let mut followers = Followers::start(&settings, &directory, &following);
    followers.follow_integrations(&settings, &directory, &following);
    let lookup = Arc::new(Lookup::new(Arc::clone(&settings), directory));
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = followers.ready() => {
            condition.set_ready(true);
            let readers = Readers::new(Arc::clone(&tokens), lookup);
            bound.run(Console { tokens, readers, forward }, &settings, stop.clone()).await;
            condition.set_ready(false);
        }
    }
    following.cancel();
    followers.ended().await;
}
