//! The page's files, built into the program, and the headers that keep it to its own origin.

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderName, HeaderValue, Response};
use axum::middleware::Next;
use axum::routing::{self, MethodRouter};
use axum::{Router, middleware};

/// Every file: its path, its type, its text.
const FILES: [(&str, &str, &str); 15] = [
    ("/", HTML, include_str!("page/index.html")),
    ("/app.css", "text/css; charset=utf-8", include_str!("page/app.css")),
    ("/icon.svg", "image/svg+xml", include_str!("page/icon.svg")),
    ("/app.js", SCRIPT, include_str!("page/app.js")),
    ("/api.js", SCRIPT, include_str!("page/api.js")),
    ("/dom.js", SCRIPT, include_str!("page/dom.js")),
    ("/words.js", SCRIPT, include_str!("page/words.js")),
    ("/actions.js", SCRIPT, include_str!("page/actions.js")),
    ("/body.js", SCRIPT, include_str!("page/body.js")),
    ("/attempts.js", SCRIPT, include_str!("page/attempts.js")),
    ("/integrations.js", SCRIPT, include_str!("page/integrations.js")),
    ("/integration.js", SCRIPT, include_str!("page/integration.js")),
    ("/event.js", SCRIPT, include_str!("page/event.js")),
    ("/dead.js", SCRIPT, include_str!("page/dead.js")),
    ("/lab.js", SCRIPT, include_str!("page/lab.js")),
];

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Only the page's own files run or draw, and they talk to this origin alone.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
                      frame-ancestors 'none'; base-uri 'none'; form-action 'self'";

/// The headers of every answer of the console, the readers' included.
const HEADERS: [(HeaderName, &str); 6] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
    (REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// The routes of the files.
pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES.into_iter().fold(Router::new(), |router, (path, kind, text)| router.route(path, file(kind, text)))
}

fn file<S: Clone + Send + Sync + 'static>(kind: &'static str, text: &'static str) -> MethodRouter<S> {
    routing::get(move || async move {
        let mut response = Response::new(Body::from(text));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        // A release brings all files again, so that no file is older than the others.
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        response
    })
}

/// Adds the headers to every answer of `router`.
pub(super) fn guarded(router: Router) -> Router {
    router.layer(middleware::from_fn(async |request: Request, next: Next| {
        let mut response = next.run(request).await;
        for (name, value) in HEADERS {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_module_that_the_page_imports_is_served() {
        for (path, kind, text) in FILES {
            for line in text.lines().filter(|_| kind == SCRIPT).filter(|line| line.starts_with("import ")) {
                let name = line.split('"').nth(1).unwrap_or_else(|| panic!("{path}: {line}"));
                let wanted = name.trim_start_matches('.');
                assert!(FILES.iter().any(|(path, ..)| *path == wanted), "{path} imports {name}");
            }
        }
    }

    #[test]
    fn no_file_holds_what_the_policy_forbids_or_another_origin() {
        for (path, _, text) in FILES {
            for part in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "style=",
                "onclick=",
                "localStorage",
                "sessionStorage",
            ] {
                assert!(!text.contains(part), "{path} holds {part}");
            }
            // The name of SVG's language looks like an address and is never requested.
            let text = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!text.contains("http://") && !text.contains("https://"), "{path} names another origin");
        }
    }
}
