//! Where a request goes: a webhook's URL taken apart, once, into what a connection and a request line need.
//!
//! Reads strictly: what browsers would repair is refused with a reason. Where two readers repair a URL differently, the check of its
//! address can be bypassed. Numbers that mean an IPv4 address in one of its old notations are turned into that address here, so that it
//! is checked like any other. Which addresses are allowed is decided elsewhere.

use std::fmt;
use std::hash::{Hash as _, Hasher as _};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use http::{HeaderValue, Uri};

use super::hash::Hash64;

/// Longer than the URLs that receivers with tokens in the path use, short enough for every server's request line.
pub(crate) const URL_BYTES_MAX: usize = 4096;

/// The bound of DNS on a name.
const NAME_BYTES_MAX: usize = 253;
/// The bound of DNS on each part of a name.
const LABEL_BYTES_MAX: usize = 63;

/// Why a URL can't be delivered to. The texts name the part at fault and what is accepted. They never hold user info, path or
/// query, which may be secrets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadUrl {
    /// Longer than [`URL_BYTES_MAX`].
    #[error("the URL has {0} bytes: at most {URL_BYTES_MAX} are accepted")]
    TooLong(usize),
    /// Space, control or non-ASCII character outside the host.
    #[error("the URL holds {0:?}: spaces, control and non-ASCII characters must be percent-encoded")]
    Character(char),
    /// Not http or https, or not absolute.
    #[error("expected an absolute URL that begins with http:// or https://")]
    Scheme,
    /// A user name or password before the host.
    #[error("the URL has user info before its host: not accepted; use a webhook.header.Authorization secret")]
    UserInfo,
    /// Nothing between the slashes.
    #[error("the URL has no host")]
    NoHost,
    /// Letters outside ASCII in the host.
    #[error("host `{0}`: non-ASCII letters are not accepted; write the name in punycode (xn--…)")]
    Idn(String),
    /// The host is not a name and not an address.
    #[error("host `{0}`: expected a DNS name of letters, digits, - and _, an IPv4 address or an IPv6 address in [ ]")]
    Host(String),
    /// Not 1 to 65535.
    #[error("port `{0}`: expected a number from 1 to 65535")]
    Port(String),
    /// A base URL with a query or a fragment.
    #[error("a base URL has no ? and no #: what continues it would become part of the query or the fragment")]
    QueryInBase,
    /// A character that a request line can't carry.
    #[error("the URL's path or query has a character that must be percent-encoded")]
    Path,
}

/// Scheme, host and port: what a connection is made to. Requests with the same ones share connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Authority {
    /// Whether TLS is used.
    pub(crate) https: bool,
    /// A DNS name in small letters without a last dot, or the usual text of an IP address, without brackets.
    pub(crate) host: Box<str>,
    /// The port, the scheme's own if the URL has none.
    pub(crate) port: u16,
}

impl Authority {
    /// Scheme, host and port, for a log: all that may be shown of a URL.
    pub(crate) fn origin(&self) -> impl fmt::Display + '_ {
        let scheme = if self.https { "https" } else { "http" };
        fmt::from_fn(move |f| write!(f, "{scheme}://{self}"))
    }

    fn default_port(https: bool) -> u16 {
        if https { 443 } else { 80 }
    }
}

/// As in a URL and a `Host` header: an IPv6 address in brackets, the port only if it is not the scheme's.
impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{open}{}{close}", self.host)?;
        if self.port == Self::default_port(self.https) { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

/// A URL that can be delivered to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    authority: Arc<Authority>,
    host_header: HeaderValue,
    path: Uri,
}

impl Target {
    /// Takes a URL apart. A fragment is dropped: it is never sent.
    ///
    /// # Errors
    /// [`BadUrl`] for a text that is not an absolute http or https URL, or has user info, or a host that is not a name or address.
    pub(crate) fn parse(url: &str) -> Result<Self, BadUrl> {
        if url.len() > URL_BYTES_MAX {
            return Err(BadUrl::TooLong(url.len()));
        }
        let (https, rest) = scheme_of(url)?;
        let (authority, path) =
            rest.split_at_checked(rest.find(['/', '?', '#']).unwrap_or(rest.len())).unwrap_or((rest, ""));
        let authority = authority_of(https, authority)?;
        let path = path.split_once('#').map_or(path, |(path, _fragment)| path);
        let host_header = HeaderValue::try_from(authority.to_string());
        let host_header = host_header.map_err(|_no_header| BadUrl::Host(shown(&authority.host)))?;
        Ok(Self { authority: Arc::new(authority), host_header, path: path_of(path)? })
    }

    /// Scheme, host and port.
    pub(crate) fn authority(&self) -> Arc<Authority> {
        Arc::clone(&self.authority)
    }

    /// The value of `Host`.
    pub(crate) fn host_header(&self) -> &HeaderValue {
        &self.host_header
    }

    /// Path and query, as they stand in the request line of HTTP/1.1.
    pub(crate) fn path(&self) -> &Uri {
        &self.path
    }

    /// The same for every URL of one scheme, host and port, in every process.
    pub(crate) fn host_hash(&self) -> u32 {
        let mut hasher = Hash64::default();
        self.authority.hash(&mut hasher);
        let hash = hasher.finish();
        u32::try_from(hash >> 32).unwrap_or(u32::MAX)
    }
}

/// The URL without its query: what logs and the attempt log may hold.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.authority.origin(), self.path.path())
    }
}

/// Whether `relative` may follow any URL of `base_len` bytes that was parsed and ends in its path: nothing in it needs a
/// closer look.
pub(super) fn is_plain(base_len: usize, relative: &str) -> bool {
    base_len + 1 + relative.len() <= URL_BYTES_MAX
        && relative.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-_.~?&=%:@!$'()*+,;".contains(&byte))
}

fn scheme_of(url: &str) -> Result<(bool, &str), BadUrl> {
    let (scheme, rest) = url.split_once("://").ok_or(BadUrl::Scheme)?;
    if scheme.eq_ignore_ascii_case("https") {
        Ok((true, rest))
    } else if scheme.eq_ignore_ascii_case("http") {
        Ok((false, rest))
    } else {
        Err(BadUrl::Scheme)
    }
}

fn authority_of(https: bool, text: &str) -> Result<Authority, BadUrl> {
    if text.contains('@') {
        return Err(BadUrl::UserInfo);
    }
    // An IPv6 address has colons of its own: only one after its bracket begins the port.
    let (host, port) = match text.rfind(':') {
        Some(colon) if !text.ends_with(']') => text.split_at_checked(colon).unwrap_or((text, "")),
        Some(_) | None => (text, ""),
    };
    let port = match port.strip_prefix(':').unwrap_or_default() {
        "" => Authority::default_port(https),
        digits => port_of(digits)?,
    };
    Ok(Authority { https, host: host_of(host)?, port })
}

fn port_of(digits: &str) -> Result<u16, BadUrl> {
    let number = digits.parse().ok().filter(|port| *port != 0 && digits.bytes().all(|byte| byte.is_ascii_digit()));
    number.ok_or_else(|| BadUrl::Port(shown(digits)))
}

fn host_of(host: &str) -> Result<Box<str>, BadUrl> {
    let bad = || BadUrl::Host(shown(host));
    if let Some(inner) = host.strip_prefix('[') {
        let address: Ipv6Addr = inner.strip_suffix(']').ok_or_else(bad)?.parse().map_err(|_no_address| bad())?;
        return Ok(address.to_string().into());
    }
    if host.is_empty() {
        return Err(BadUrl::NoHost);
    }
    if !host.is_ascii() {
        return Err(BadUrl::Idn(shown(host)));
    }
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    if name.rsplit('.').next().is_some_and(is_number) {
        return Ok(ipv4_of(&name).ok_or_else(bad)?.to_string().into());
    }
    let labels_fit = name.split('.').all(is_label);
    if labels_fit && name.len() <= NAME_BYTES_MAX { Ok(name.into()) } else { Err(bad()) }
}

fn is_label(label: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=LABEL_BYTES_MAX).contains(&label.len())
        && label.bytes().all(inner)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// Whether resolvers take a name with this last part for an IPv4 address: all digits, or `0x` and hex digits.
fn is_number(label: &str) -> bool {
    let hex = label.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    hex || (!label.is_empty() && label.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Reads an IPv4 address as `inet_aton` and browsers do: one to four numbers, decimal, octal after `0` or hex after
/// `0x`, of which the last fills the bytes that are left.
fn ipv4_of(text: &str) -> Option<Ipv4Addr> {
    let numbers = text.split('.').map(number_of).collect::<Option<Vec<u64>>>()?;
    let (last, bytes) = numbers.split_last()?;
    if bytes.len() > 3 || bytes.iter().any(|byte| *byte > 255) {
        return None;
    }
    let high = bytes.iter().fold(0, |sum, byte| sum << 8 | byte);
    let low_bits = 8 * (4 - u32::try_from(bytes.len()).ok()?);
    if *last >= 1 << low_bits {
        return None;
    }
    u32::try_from(high << low_bits | last).ok().map(Ipv4Addr::from)
}

fn number_of(text: &str) -> Option<u64> {
    let (digits, radix) = match (text.strip_prefix("0x"), text.strip_prefix('0')) {
        // `0x` alone is zero in programs that read this notation.
        (Some(""), _) => return Some(0),
        (Some(hex), _) => (hex, 16),
        (None, Some(octal)) if !octal.is_empty() => (octal, 8),
        (None, Some(_) | None) => (text, 10),
    };
    let starts_with_sign = digits.starts_with('+');
    u64::from_str_radix(digits, radix).ok().filter(|_| !starts_with_sign)
}

fn path_of(path: &str) -> Result<Uri, BadUrl> {
    if let Some(odd) = path.chars().find(|found| !found.is_ascii_graphic()) {
        return Err(BadUrl::Character(odd));
    }
    let rooted = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    // A path that begins with two slashes is a path here, not another host.
    let path_and_query = http::uri::PathAndQuery::try_from(rooted).map_err(|_named_by_variant| BadUrl::Path)?;
    Ok(Uri::from(path_and_query))
}

/// What an error text shows of a part: short, and without control characters.
fn shown(part: &str) -> String {
    part.chars().take(80).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(url: &str, https: bool, host: &str, port: u16, path: &str) {
        let target = Target::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
        assert_eq!(*target.authority(), Authority { https, host: host.into(), port }, "{url}");
        assert_eq!(target.path().to_string(), path, "{url}");
        assert_eq!(target.path().scheme(), None, "{url}");
    }

    #[track_caller]
    fn refused(url: &str, expected: &BadUrl) {
        assert_eq!(Target::parse(url).as_ref().unwrap_err(), expected, "{url:?}");
    }

    #[test]
    fn an_origin_has_scheme_host_and_port_and_nothing_else() {
        for (url, origin) in [
            ("https://Example.com/secret-path?token=secret", "https://example.com"),
            ("http://[::1]:8080/x", "http://[::1]:8080"),
            ("https://example.com:80", "https://example.com:80"),
        ] {
            assert_eq!(Target::parse(url).unwrap().authority().origin().to_string(), origin);
        }
    }

    #[test]
    fn usual_urls_are_taken_apart() {
        check("http://example.com", false, "example.com", 80, "/");
        check("https://example.com/", true, "example.com", 443, "/");
        check("HTTPS://Example.COM:8443/A/b?c=D%20e&f", true, "example.com", 8443, "/A/b?c=D%20e&f");
        check("http://example.com?x=1", false, "example.com", 80, "/?x=1");
        check("http://example.com:/x", false, "example.com", 80, "/x");
        check("http://example.com:0080/x", false, "example.com", 80, "/x");
        check("http://example.com./x", false, "example.com", 80, "/x");
        check("http://my_service-1:9000/x", false, "my_service-1", 9000, "/x");
        check("http://xn--e1afmkfd.xn--p1ai/x", false, "xn--e1afmkfd.xn--p1ai", 80, "/x");
        check("http://example.com//x/../y", false, "example.com", 80, "//x/../y");
        check("http://example.com/a@b:c", false, "example.com", 80, "/a@b:c");
    }

    #[test]
    fn a_fragment_is_dropped() {
        check("http://example.com/x?y#z", false, "example.com", 80, "/x?y");
        check("http://example.com#z", false, "example.com", 80, "/");
    }

    #[test]
    fn addresses_are_written_in_their_usual_form() {
        check("http://[::1]:8080/x", false, "::1", 8080, "/x");
        check("https://[2001:DB8:0::1]/", true, "2001:db8::1", 443, "/");
        check("http://[::ffff:127.0.0.1]", false, "::ffff:127.0.0.1", 80, "/");
        check("http://[::ffff:7f00:1]", false, "::ffff:127.0.0.1", 80, "/");
        check("http://192.0.2.1:81", false, "192.0.2.1", 81, "/");
    }

    #[test]
    fn old_notations_of_ipv4_become_the_address_they_mean() {
        for host in [
            "127.1",
            "127.0.1",
            "2130706433",
            "0x7f000001",
            "0x7F.1",
            "0177.0.0.1",
            "017700000001",
            "127.0.0.1.",
            "0x7f.0x0.0x0.0x1",
            "127.0.0.0x1",
            "00000177.0.0.01",
        ] {
            check(&format!("http://{host}:9/"), false, "127.0.0.1", 9, "/");
        }
        check("http://0/", false, "0.0.0.0", 80, "/");
        check("http://0x/", false, "0.0.0.0", 80, "/");
        check("http://4294967295/", false, "255.255.255.255", 80, "/");
        check("http://169.254.43518/", false, "169.254.169.254", 80, "/");
    }

    #[test]
    fn hosts_that_are_neither_name_nor_address_are_refused() {
        for host in [
            "256.1.1.1",
            "1.2.3.4.5",
            "4294967296",
            "0x1ffffffff",
            "127.0.0.08",
            "1..2",
            "a.256",
            "example.com..",
            ".",
            ".example.com",
            "-a.com",
            "a-.com",
            "exa%6dple.com",
            "a\\b",
            "a b",
            "a,b",
            "*",
            "[::1",
            "[::1]x",
            "[::1%eth0]",
            "[127.0.0.1]",
            "[]",
            "::1",
            "a!b",
            "a\tb",
            "a\nb",
            "1.+2",
        ] {
            let found = Target::parse(&format!("http://{host}/"));
            assert!(matches!(found, Err(BadUrl::Host(_) | BadUrl::Port(_))), "{host:?}: {found:?}");
        }
        assert!(matches!(Target::parse(&format!("http://{}.com/", "a".repeat(64))), Err(BadUrl::Host(_))));
        assert!(matches!(Target::parse(&format!("http://{}com/", "a.".repeat(126))), Err(BadUrl::Host(_))));
    }

    #[test]
    fn each_other_mistake_has_its_own_reason() {
        for url in
            ["", "/x", "example.com/x", "ftp://example.com", "//example.com", "http:/x", " http://x", "javascript:x"]
        {
            refused(url, &BadUrl::Scheme);
        }
        refused("http://", &BadUrl::NoHost);
        refused("http:///x", &BadUrl::NoHost);
        refused("https://:443/x", &BadUrl::NoHost);
        refused("http://user@example.com/", &BadUrl::UserInfo);
        refused("http://user:secret@example.com/", &BadUrl::UserInfo);
        refused("http://@example.com/", &BadUrl::UserInfo);
        refused("http://example.com\\@evil.com/", &BadUrl::UserInfo);
        refused("http://пример.рф/x", &BadUrl::Idn("пример.рф".to_owned()));
        refused("http://example。com/x", &BadUrl::Idn("example。com".to_owned()));
        for port in ["0", "65536", "+80", "-1", "8o", "99999999999"] {
            refused(&format!("http://example.com:{port}/"), &BadUrl::Port(port.to_owned()));
        }
        refused("http://example.com/a b", &BadUrl::Character(' '));
        refused("http://example.com/a\r\nHost: evil", &BadUrl::Character('\r'));
        refused("http://example.com/ключ", &BadUrl::Character('к'));
        refused("http://example.com/a<b", &BadUrl::Path);
        let long = format!("http://example.com/{}", "a".repeat(URL_BYTES_MAX));
        refused(&long, &BadUrl::TooLong(long.len()));
    }

    #[test]
    fn error_texts_hold_no_secret_and_no_control_character() {
        let url = "http://user:hunter2@example.com/";
        assert!(!Target::parse(url).unwrap_err().to_string().contains("hunter2"));
        assert_eq!(Target::parse("http://a\u{7}b/").unwrap_err(), BadUrl::Host("a\\u{7}b".to_owned()));
    }

    #[test]
    fn the_host_header_has_brackets_and_only_odd_ports() {
        for (url, expected) in [
            ("http://Example.com:80/x", "example.com"),
            ("https://example.com:443", "example.com"),
            ("https://example.com:80", "example.com:80"),
            ("http://[::1]/", "[::1]"),
            ("https://[::1]:8443/", "[::1]:8443"),
            ("http://2130706433:81/", "127.0.0.1:81"),
        ] {
            assert_eq!(Target::parse(url).unwrap().host_header(), expected);
        }
    }

    #[test]
    fn the_shown_form_has_no_query() {
        let target = Target::parse("https://[2001:db8::1]:8443/a/b?token=secret#x").unwrap();
        assert_eq!(target.to_string(), "https://[2001:db8::1]:8443/a/b");
    }

    #[test]
    fn the_host_hash_follows_the_authority_and_nothing_else() {
        let hash = |url: &str| Target::parse(url).unwrap().host_hash();
        assert_eq!(hash("http://example.com/a"), hash("http://EXAMPLE.com:80/b?c"));
        assert_ne!(hash("http://example.com/"), hash("https://example.com/"));
        assert_ne!(hash("http://example.com/"), hash("http://example.com:81/"));
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused_without_a_panic(text in "(https?://)?\\PC{0,60}") {
            if let Ok(target) = Target::parse(&text) {
                prop_assert!(!target.authority().host.is_empty());
            }
        }

        #[test]
        fn every_notation_of_an_address_means_that_address(address: u32) {
            let expected = Ipv4Addr::from(address).to_string();
            let [a, b, c, d] = address.to_be_bytes();
            for host in [
                format!("{address}"), format!("{address:#x}"), format!("0{address:o}"), format!("{a:#x}.{b}.0{c:o}.{d}"),
                format!("{a}.{}", address & 0xff_ffff), format!("{a}.{b}.{}", address & 0xffff),
            ] {
                let target = Target::parse(&format!("http://{host}/")).unwrap();
                prop_assert_eq!(&*target.authority().host, expected.as_str(), "{}", host);
            }
        }
    }
}
