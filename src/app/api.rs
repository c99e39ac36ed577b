//! The composition root of `api`. It starts the listeners, then the registry, and then it is ready. It stops them in the reverse order.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::deliver::http_courier::HttpCourier;
use crate::net::address::AddressPolicy;
use crate::net::connector::Connector;
use crate::net::descriptors::raise_limit;
use crate::registration::http::{ApiContext, ApiError, BoundApi, CONNECTIONS_MAX};
use crate::registration::test_delivery;
use crate::settings::Settings;
use crate::telemetry::admin::Admin;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::readiness::Readiness;

/// Why the API ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    /// The admin listener failed.
    #[error("admin listener {address} (--admin-listen)")]
    Admin { address: SocketAddr, source: io::Error },
    /// The API itself.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The console's way to the API.
    #[error("no way to the API (--console-api-url)")]
    Forward(#[source] io::Error),
}

/// A registration API with its admin listener.
pub(crate) struct Api {
    settings: Settings,
    admin: Admin,
    bound: BoundApi,
    metrics: Arc<Metrics>,
    condition: Arc<Readiness>,
}

impl Api {
    /// Reads tokens and certificates and listens. Kafka is not touched.
    ///
    /// # Errors
    /// A [`ServeError`] for each option at fault.
    pub(crate) async fn bind(settings: Settings) -> Result<Self, Vec<ServeError>> {
        let bound = BoundApi::bind(&settings).await.map_err(ServeError::from);
        let (bound, admin) = both(bound, bind_admin(&settings).await)?;
        let metrics = Arc::new(Metrics::new(&settings.delivery.schedule));
        Ok(Self { settings, admin, bound, metrics, condition: Arc::default() })
    }

    /// Serves until `stop`, or until the registry can't go on.
    ///
    /// # Errors
    /// [`ServeError`]: above all that a newer process has taken over.
    pub(crate) async fn run(self, stop: CancellationToken) -> Result<(), ServeError> {
        let Self { settings, admin, bound, metrics, condition } = self;
        raise_limit(CONNECTIONS_MAX);
        let api_context = api_context(&settings, &metrics, &condition);
        let address = admin.address();
        let admin_stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(admin.run(metrics, condition, admin_stop.clone()));
        let serving = bound.run(&settings, api_context, stop);
        let mut serving = std::pin::pin!(serving);
        let ended = tokio::select! {
            biased;
            ended = serving.as_mut() => ended.map_err(ServeError::from),
            failed = tasks.join_next() => Err(ServeError::Admin { address, source: ended_early(failed) }),
        };
        admin_stop.cancel();
        while let Some(admin_ended) = tasks.join_next().await {
            if let Err(error) = admin_ended {
                tracing::error!(%error, "the admin listener failed");
            }
        }
        ended
    }
}

pub(super) async fn bind_admin(settings: &Settings) -> Result<Admin, ServeError> {
    let address = settings.admin_listen;
    Admin::bind(address).await.map_err(|source| ServeError::Admin { address, source })
}

/// Both values, or each error.
pub(super) fn both<A, B, E>(one: Result<A, E>, other: Result<B, E>) -> Result<(A, B), Vec<E>> {
    match (one, other) {
        (Ok(one), Ok(other)) => Ok((one, other)),
        (one, other) => Err(one.err().into_iter().chain(other.err()).collect()),
    }
}

/// What the API needs of the process around it; the test delivery connects as a worker does.
pub(crate) fn api_context(settings: &Settings, metrics: &Arc<Metrics>, condition: &Arc<Readiness>) -> ApiContext {
    let policy = AddressPolicy::new(settings.delivery.allow_private_networks.clone());
    let connector = Connector::system(policy, settings.delivery.connect_timeout);
    let courier = HttpCourier::new(connector, settings.delivery.request_timeout, Arc::clone(metrics));
    let condition = Arc::clone(condition);
    metrics.expect_writes([settings.topics.audit.clone()]);
    ApiContext {
        test_delivery: test_delivery::by(Arc::new(courier)),
        requests: metrics.api_requests.clone(),
        unwritten: metrics.deliver.publish_errors.clone(),
        ready: Box::new(move |ready| condition.set_ready(ready)),
    }
}

/// Why the admin listener ended without being asked to.
pub(super) fn ended_early(ended: Option<Result<(), tokio::task::JoinError>>) -> io::Error {
    match ended {
        Some(Err(error)) => io::Error::other(error),
        Some(Ok(())) | None => io::Error::other("it ended without being asked to"),
    }
}
