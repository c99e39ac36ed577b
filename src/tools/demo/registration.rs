//! The demo's registration API: the real one, with a token of this run for a workspace of its own, so that trying it out
//! changes nothing that the account counts.
//!
//! Without `--api-tokens-file` only. A user who gives a file may change everything, the demo's integrations included, and then has
//! to explain the account's faults himself.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::sample::PLAYGROUND;
use crate::app::api::surroundings;
use crate::inflight::job::push_hex;
use crate::registration::http::{ApiError, BoundApi};
use crate::settings::Settings;
use crate::telemetry::admin::Readiness;
use crate::telemetry::metrics::Metrics;

/// The API, listening.
pub(crate) struct Registration {
    bound: BoundApi,
    token: Option<String>,
}

impl Registration {
    /// Listens where the settings say, or, where that is taken, on another port.
    ///
    /// # Errors
    /// [`ApiError`] names the option at fault.
    pub(crate) async fn bind(settings: &Settings) -> Result<Self, ApiError> {
        match Self::bind_there(settings).await {
            Err(ApiError::Listen { error, .. }) if error.kind() == io::ErrorKind::AddrInUse => {
                let mut elsewhere = settings.clone();
                elsewhere.api.listen.set_port(0);
                let bound = Self::bind_there(&elsewhere).await?;
                tracing::warn!(taken = %settings.api.listen, address = %bound.address(), "the API listens elsewhere");
                Ok(bound)
            }
            bound => bound,
        }
    }

    async fn bind_there(settings: &Settings) -> Result<Self, ApiError> {
        if settings.api.tokens_file.is_some() {
            return Ok(Self { bound: BoundApi::bind(settings).await?, token: None });
        }
        let mut token = String::new();
        push_hex(&mut token, &rand::random::<[u8; 16]>());
        let bound = BoundApi::bind_with_token(settings, &token, PLAYGROUND).await?;
        Ok(Self { bound, token: Some(token) })
    }

    /// The address listened on.
    pub(crate) fn address(&self) -> SocketAddr {
        self.bound.address()
    }

    /// The token of this run; none when a file holds the tokens.
    pub(crate) fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// Serves until `stop`.
    ///
    /// # Errors
    /// [`ApiError`]: it can't go on.
    pub(crate) async fn run(
        self,
        settings: Settings,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) -> Result<(), ApiError> {
        // Its readiness is not used: `/readyz` shows the worker's.
        let surroundings = surroundings(&settings, &metrics, &Arc::new(Readiness::default()));
        self.bound.run(&settings, surroundings, stop).await
    }
}
