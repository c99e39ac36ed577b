//! The head of an answer that the HTTP library refuses because of what it says about the body's length. Only its status and echo are
//! read: nothing else decides about an acknowledgement. What is read here is never used to find the end of an answer, so nothing can hide
//! in it.

/// What is needed of an answer's status line and headers.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head<'a> {
    pub(super) status: u16,
    /// The values of the header `X-XCOM-Integration-Echo`, in order.
    pub(super) echoes: Vec<&'a [u8]>,
}

impl<'a> Head<'a> {
    /// Reads the beginning of `bytes`. `None` unless it is a whole head of HTTP/1.0 or 1.1 without a NUL. Interim answers before it are
    /// skipped.
    pub(super) fn parse(bytes: &'a [u8], echo: &str) -> Option<Self> {
        let mut lines = bytes.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        loop {
            let status = status_of(lines.next()?)?;
            let mut echoes = Vec::new();
            loop {
                let line = lines.next()?;
                if line.is_empty() {
                    break;
                }
                if line.contains(&0) {
                    return None;
                }
                echoes.extend(value_of(line, echo));
            }
            // The last piece is not a line: it has no end.
            lines.clone().next()?;
            if status >= 200 {
                return Some(Self { status, echoes });
            }
        }
    }
}

fn status_of(line: &[u8]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/1.1 ").or_else(|| line.strip_prefix(b"HTTP/1.0 "))?;
    let (digits, after) = rest.split_at_checked(3)?;
    let is_whole = after.first().is_none_or(|byte| *byte == b' ');
    let status = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (is_whole && digits.iter().all(u8::is_ascii_digit)).then_some(status)
}

/// The value of a header line of that name.
fn value_of<'a>(line: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (found, value) = line.split_at_checked(colon)?;
    found
        .trim_ascii_end()
        .eq_ignore_ascii_case(name.as_bytes())
        .then(|| value.get(1..).unwrap_or_default().trim_ascii())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Option<(u16, Vec<&str>)> {
        let head = Head::parse(text.as_bytes(), "x-echo")?;
        Some((head.status, head.echoes.iter().map(|echo| std::str::from_utf8(echo).unwrap()).collect()))
    }

    #[test]
    fn status_and_echoes_are_read_whatever_else_stands_in_a_head() {
        for (text, expected) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: x\r\nX-Echo: t\r\n\r\n", (200, vec!["t"])),
            ("HTTP/1.0 404\nx-echo :\tt \n\nx-echo: in the body", (404, vec!["t"])),
            (
                "HTTP/1.1 103 Hints\r\nx-echo: no\r\n\r\nHTTP/1.1 200 OK\r\nx-echo: a\r\nx-echo: b\r\n\r\n",
                (200, vec!["a", "b"]),
            ),
            ("HTTP/1.1 200 OK\r\nno colon\r\n x-echo: folded\r\nx-echo\r\n\r\n", (200, vec![])),
        ] {
            assert_eq!(parsed(text), Some(expected), "{text:?}");
        }
    }

    #[test]
    fn a_head_that_is_not_whole_is_not_read() {
        for text in [
            "",
            "HTTP/1.1 200 OK\r\nx-echo: t\r\n",
            "HTTP/1.1 200 OK\r\nx-echo: t",
            "HTTP/1.1 2000 OK\r\n\r\n",
            "HTTP/1.1 +20 OK\r\n\r\n",
            "HTTP/2 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nx: a\0b\r\nx-echo: t\r\n\r\n",
            "SSH-2.0\r\n\r\n",
        ] {
            assert_eq!(parsed(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_bytes_come_are_read_without_a_panic(bytes: Vec<u8>) {
            drop(Head::parse(&bytes, "x-echo"));
            drop(Head::parse(&[b"HTTP/1.1 200 OK\r\n", bytes.as_slice()].concat(), "x-echo"));
        }
    }
}
