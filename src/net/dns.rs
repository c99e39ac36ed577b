//! Looks names up: in the hosts file, then at the name servers of this machine. One query for each address family. The cache is in
//! `resolver`.
//!
//! Names are absolute: the search list of `resolv.conf` is never tried, since a wildcard in it would get the requests of any receiver.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{TokioResolver, system_conf};

use super::hosts::HostsFile;
use super::lookup::{Family, Lookup, LookupError, Records};

/// How long a name server may take before another is asked. It overrides `resolv.conf`, whose usual 5 s are longer than a connection
/// may take. Lost packets are sent again earlier.
const SERVER_MAX: Duration = Duration::from_secs(2);
/// Rounds through the name servers after the first.
const ROUNDS_MORE: usize = 1;
/// Name servers asked at once, so that one that is silent costs nothing.
const SERVERS_AT_ONCE: usize = 2;
/// How long an address from the hosts file is used.
const HOSTS_TTL: Duration = Duration::from_secs(30);

/// The look-up that this machine is set up for: `/etc/hosts`, then the name servers of `/etc/resolv.conf`.
pub(super) fn system() -> Box<Lookup> {
    let (config, options) = system_conf::read_system_conf().unwrap_or_else(|error| {
        // The C library does the same.
        tracing::warn!(%error, "no name servers are set up, the one of this machine is asked");
        let local = NameServerConfig::udp_and_tcp(IpAddr::V4(Ipv4Addr::LOCALHOST));
        (ResolverConfig::from_name_servers(vec![local]), ResolverOpts::default())
    });
    asking(config.name_servers().to_vec(), options, HostsFile::new("/etc/hosts"))
}

fn asking(servers: Vec<NameServerConfig>, mut options: ResolverOpts, hosts: HostsFile) -> Box<Lookup> {
    options.timeout = options.timeout.min(SERVER_MAX);
    options.attempts = ROUNDS_MORE;
    options.num_concurrent_reqs = SERVERS_AT_ONCE;
    // The caller has a cache.
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    let config = ResolverConfig::from_name_servers(servers);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options;
    let resolver = builder.build().map_err(|error| Arc::<str>::from(error.to_string()));
    if let Err(error) = &resolver {
        tracing::error!(%error, "names can't be looked up");
    }
    let hosts = Arc::new(hosts);
    Box::new(move |name, family| {
        let (resolver, hosts) = (resolver.clone(), Arc::clone(&hosts));
        Box::pin(async move {
            if let Some(found) = in_hosts_file(&hosts, &name, family).await {
                return Ok(found);
            }
            let resolver = resolver.map_err(LookupError::Unanswered)?;
            ask(&resolver, &name, family).await
        })
    })
}

/// The addresses that need no name server: those of the hosts file, and of this machine.
async fn in_hosts_file(hosts: &Arc<HostsFile>, name: &Arc<str>, family: Family) -> Option<Records> {
    let (hosts, asked) = (Arc::clone(hosts), Arc::clone(name));
    let found = tokio::task::spawn_blocking(move || hosts.addresses(&asked)).await.ok().flatten();
    let is_local = &**name == "localhost" || name.ends_with(".localhost");
    let found =
        found.or_else(|| is_local.then(|| vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]))?;
    let addresses = found.into_iter().filter(|address| family.holds(*address)).collect();
    Some(Records { addresses, ttl: HOSTS_TTL })
}

async fn ask(resolver: &TokioResolver, name: &str, family: Family) -> Result<Records, LookupError> {
    let unanswered = |error: &dyn std::fmt::Display| LookupError::Unanswered(error.to_string().into());
    let mut name = Name::from_ascii(name).map_err(|error| unanswered(&error))?;
    // The trailing dot: the search list is not tried.
    name.set_fqdn(true);
    let record_type = match family {
        Family::V4 => RecordType::A,
        Family::V6 => RecordType::AAAA,
    };
    match resolver.lookup(name, record_type).await {
        Ok(found) => {
            let records = found.answers();
            let ttl = records.iter().map(|record| record.ttl).min().unwrap_or_default();
            let addresses = records.iter().filter_map(|record| match &record.data {
                RData::A(address) => Some(IpAddr::V4(address.0)),
                RData::AAAA(address) => Some(IpAddr::V6(address.0)),
                _ => None,
            });
            Ok(Records { addresses: addresses.collect(), ttl: Duration::from_secs(u64::from(ttl)) })
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) => match none.response_code {
            ResponseCode::NXDomain => Err(LookupError::NoSuchName),
            ResponseCode::NoError => Ok(Records::default()),
            code => Err(unanswered(&format!("the name server says: {code}"))),
        },
        Err(error) => Err(unanswered(&error)),
    }
}

/// A name server on loopback, and the names of the receiver zoo: what the suites in `tests/` and the example have too.
#[cfg(test)]
#[path = "../../tests/support/zoo/names.rs"]
#[expect(unreachable_pub, reason = "the file is another crate's too")]
pub(crate) mod zoo_names;

/// Look-ups for tests.
#[cfg(test)]
pub(crate) mod testing {
    use std::net::SocketAddr;
    use std::path::PathBuf;

    use hickory_resolver::config::{ConnectionConfig, ProtocolConfig};

    use super::*;

    /// Asks these name servers, and no hosts file.
    pub(crate) fn asking_only(servers: &[SocketAddr]) -> Box<Lookup> {
        asking_after("/nonexistent/hosts", servers)
    }

    /// Looks into this hosts file, then asks these name servers.
    pub(crate) fn asking_after(hosts: impl Into<PathBuf>, servers: &[SocketAddr]) -> Box<Lookup> {
        let servers = servers.iter().map(|server| {
            let connection = |protocol| {
                let mut connection = ConnectionConfig::new(protocol);
                connection.port = server.port();
                connection
            };
            let connections = vec![connection(ProtocolConfig::Udp), connection(ProtocolConfig::Tcp)];
            NameServerConfig::new(server.ip(), true, connections)
        });
        asking(servers.collect(), ResolverOpts::default(), HostsFile::new(hosts))
    }
}
