//! The demo's registration API and its page: the real ones, with a token of this run for a workspace of its own, so that trying
//! them out changes nothing that the account counts.
//!
//! The token exists only without `--api-tokens-file`. The tokens of a file may allow changes to the demo's integrations, and then the
//! account may have faults.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::sample::{PLAYGROUND, WORKSPACE};
use crate::app::api::api_context;
use crate::console::{BoundConsole, Forward};
use crate::domain::text::push_hex;
use crate::registration::http::{ApiError, BoundApi, Tokens};
use crate::settings::Settings;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::readiness::Readiness;

/// The API, listening.
pub(crate) struct Registration {
    bound: BoundApi,
    token: Option<String>,
}

impl Registration {
    /// Binds to the address of the settings, or to another port if that one is taken.
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
        // The token may send again what the account counts, and may not register it again.
        let tokens = Tokens::of(&format!("{token} {PLAYGROUND} {WORKSPACE}:read,body,operate"));
        let tokens = tokens.expect("a word of hex digits and names of workspaces are a line of a tokens file");
        Ok(Self { bound: BoundApi::bind_with(settings, Arc::new(tokens)).await?, token: Some(token) })
    }

    /// The address that it listens on.
    pub(crate) fn address(&self) -> SocketAddr {
        self.bound.address()
    }

    /// The token of this run. `None` when a file holds the tokens.
    pub(crate) fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// The rights of the demo's token.
    pub(crate) fn tokens(&self) -> Arc<Tokens> {
        self.bound.tokens()
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
        let api_context = api_context(&settings, &metrics, &Arc::new(Readiness::default()));
        self.bound.run(&settings, api_context, stop).await
    }
}

/// Binds the operators' page to the address of the settings, or to another port if that one is taken.
///
/// # Errors
/// [`ApiError`] names the option at fault.
pub(crate) async fn bind_console(settings: &Settings) -> Result<BoundConsole, ApiError> {
    match BoundConsole::bind(settings).await {
        Err(ApiError::Listen { error, .. }) if error.kind() == io::ErrorKind::AddrInUse => {
            let mut elsewhere = settings.clone();
            elsewhere.console_listen.set_port(0);
            let bound = BoundConsole::bind(&elsewhere).await?;
            tracing::warn!(taken = %settings.console_listen, address = %bound.address(), "the console listens elsewhere");
            Ok(bound)
        }
        bound => bound,
    }
}

/// The page's client of the demo's API. `None`, and so no actions, if the API speaks TLS: its name is not known here.
pub(crate) fn forward(settings: &Settings, api: SocketAddr) -> Option<Forward> {
    let url = settings.api.tls.is_none().then(|| format!("http://{api}").parse().ok()).flatten()?;
    match Forward::to(&url) {
        Ok(forward) => Some(forward),
        Err(error) => {
            tracing::warn!(%error, "the page cannot reach the API: it offers no actions");
            None
        }
    }
}
