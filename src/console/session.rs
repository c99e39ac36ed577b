//! The session of a browser: a token, pasted once, in a cookie that scripts can't read. The server keeps nothing, so any number of
//! consoles can serve one address.

use axum::http::header::{AUTHORIZATION, COOKIE};
use axum::http::{HeaderMap, HeaderValue, Method};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::registration::http::ACCESS_KEY;

/// The cookie's name.
const NAME: &str = "hookstream-token";
/// Longer than any token that a person pastes.
const TOKEN_BYTES_MAX: usize = 4096;
/// The header that the page sends with every request. Another site's form can't send it, and its script may not.
pub(super) const PAGE_HEADER: &str = "x-hookstream-console";

/// The cookie that keeps `token` until the browser is closed. `None` if the text is not a token.
pub(super) fn kept(token: &str) -> Option<HeaderValue> {
    let is_token = !token.is_empty()
        && token.len() <= TOKEN_BYTES_MAX
        && !token.chars().any(|c| c.is_whitespace() || c.is_control());
    let value = is_token.then(|| URL_SAFE_NO_PAD.encode(token))?;
    let mut cookie =
        HeaderValue::try_from(format!("{NAME}={value}; Path=/; HttpOnly; Secure; SameSite=Strict")).ok()?;
    cookie.set_sensitive(true);
    Some(cookie)
}

/// The cookie that ends a session.
pub(super) fn ended() -> HeaderValue {
    HeaderValue::from_static("hookstream-token=; Path=/; HttpOnly; Secure; SameSite=Strict; Max-Age=0")
}

/// Copies the cookie's token into the header that the readers and the API read. A token that the request already has counts before
/// it. A request that changes something must have the page's header: otherwise it stays without a token.
pub(super) fn admit(method: &Method, headers: &mut HeaderMap) {
    if headers.contains_key(AUTHORIZATION) || headers.contains_key(ACCESS_KEY) {
        return;
    }
    if !method.is_safe() && !headers.contains_key(PAGE_HEADER) {
        return;
    }
    let Some(token) = token(headers) else { return };
    if let Ok(mut value) = HeaderValue::try_from(format!("Bearer {token}")) {
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
}

fn token(headers: &HeaderMap) -> Option<String> {
    let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let value =
        cookies.flat_map(|line| line.split(';')).find_map(|pair| pair.trim().strip_prefix(NAME)?.strip_prefix('='))?;
    String::from_utf8(URL_SAFE_NO_PAD.decode(value).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_cookie(token: &str) -> HeaderMap {
        let cookie = kept(token).unwrap();
        let pair = cookie.to_str().unwrap().split(';').next().unwrap().to_owned();
        HeaderMap::from_iter([(COOKIE, HeaderValue::try_from(format!("a=b; {pair}; c=d")).unwrap())])
    }

    #[test]
    fn a_cookie_is_out_of_reach_of_scripts_and_other_sites() {
        let cookie = kept("s3cret").unwrap();
        for part in ["HttpOnly", "Secure", "SameSite=Strict", "Path=/"] {
            assert!(cookie.to_str().unwrap().contains(part), "{part}");
        }
        assert!(!cookie.to_str().unwrap().contains("s3cret") && cookie.is_sensitive());
        for none in ["", "two words", "line\nfeed", &"x".repeat(5000)] {
            assert!(kept(none).is_none(), "{none:?}");
        }
    }

    #[test]
    fn a_cookie_becomes_the_token_of_a_request() {
        let mut headers = with_cookie("s3cret;=ü");
        admit(&Method::GET, &mut headers);
        assert_eq!(headers.get(AUTHORIZATION).unwrap().as_bytes(), "Bearer s3cret;=ü".as_bytes());
    }

    #[test]
    fn a_change_with_a_cookie_must_come_from_the_page() {
        let mut forged = with_cookie("s3cret");
        admit(&Method::POST, &mut forged);
        assert!(!forged.contains_key(AUTHORIZATION));
        let mut own = with_cookie("s3cret");
        own.insert(PAGE_HEADER, HeaderValue::from_static("1"));
        admit(&Method::POST, &mut own);
        assert!(own.contains_key(AUTHORIZATION));
    }

    #[test]
    fn a_token_that_a_request_brings_counts_before_the_cookie() {
        let mut headers = with_cookie("one");
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer two"));
        admit(&Method::GET, &mut headers);
        assert_eq!(headers.get(AUTHORIZATION).unwrap(), "Bearer two");
    }
}
