//! Receivers that read a request as they should, and answer as they should not. Each is a path of one scripted receiver, so they
//! share host and port with each other and with a good one.

use std::time::Duration;

use super::names::Expected::{self, Acknowledged};
use super::names::failed;
use crate::support::receiver::{Answer, Echo, Misbehaviour};

/// One of them.
pub(super) struct Scripted {
    pub(super) name: &'static str,
    pub(super) does: &'static str,
    pub(super) expected: Expected,
    pub(super) answer: Answer,
}

const STATUS: Expected = failed("status", "the answer has status");
const MISMATCH: Expected =
    failed("echo-mismatch", "X-XCOM-Integration-Echo is not the request's, or is there more than once");
const MISSING: Expected = failed("echo-missing", "the answer has no header X-XCOM-Integration-Echo");
const LATE: Expected = failed("timeout", "no answer within");
const CLOSED: Expected = failed("reset", "connection closed before message completed");
const RESET: Expected = failed("reset", "Connection reset by peer");
const NO_HTTP: Expected = failed("protocol", "");

/// A good head without its first line and its end.
const ECHO: &str = "X-XCOM-Integration-Echo: {echo}\r\n";

/// All of them.
pub(super) fn all() -> Vec<Scripted> {
    [good_enough(), wrong_echoes(), no_answers(), cut_off()].into_iter().flatten().collect()
}

fn one(name: &'static str, does: &'static str, expected: Expected, answer: Answer) -> Scripted {
    Scripted { name, does, expected, answer }
}

/// 200 and the echo, with anything else.
#[expect(clippy::too_many_lines, reason = "it is one list")]
fn good_enough() -> Vec<Scripted> {
    let ok = |rest: &str| Answer::text(format!("HTTP/1.1 200 OK\r\n{ECHO}{rest}"));
    let gzip = Answer::ok().header("content-encoding", "gzip").body(gzip_bomb());
    vec![
        one("good", "answers 200 with the echo", Acknowledged, Answer::ok()),
        one("endless-body", "sends a body that never ends", Acknowledged, Answer::misbehave(Misbehaviour::EndlessBody)),
        one(
            "stalled-body",
            "announces a body and sends none",
            Acknowledged,
            Answer::misbehave(Misbehaviour::StalledBody),
        ),
        one("no-length", "says nothing about its body's length", Acknowledged, ok("\r\nhello").closing()),
        one(
            "two-lengths",
            "says two lengths",
            Acknowledged,
            ok("content-length: 1\r\ncontent-length: 2\r\n\r\n").closing(),
        ),
        one("gzip-bomb", "sends 64 KiB that inflate to 10 MB", Acknowledged, gzip),
        one(
            "header-lines-that-are-none",
            "mixes the warnings of its interpreter into its headers",
            Acknowledged,
            Answer::text(format!(
                "HTTP/1.1 200 OK\r\nPHP Warning:  no x.so in Unknown on line 0\r\nno colon\r\n{ECHO}content-length: 0\r\n\r\n"
            )),
        ),
        one(
            "folded-echo",
            "folds the line of its echo",
            Acknowledged,
            Answer::text("HTTP/1.1 200 OK\r\nX-XCOM-Integration-Echo:\r\n {echo}\r\ncontent-length: 0\r\n\r\n"),
        ),
        one(
            "line-feeds",
            "ends lines with line feeds alone",
            Acknowledged,
            Answer::text("HTTP/1.1 200 OK\nX-XCOM-Integration-Echo: {echo}\ncontent-length: 0\n\n"),
        ),
        one(
            "http-1.0",
            "speaks HTTP/1.0",
            Acknowledged,
            Answer::text(format!("HTTP/1.0 200 OK\r\n{ECHO}\r\n")).closing(),
        ),
        one(
            "interim",
            "sends 100 and 103 first",
            Acknowledged,
            Answer::text(format!(
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 200 OK\r\n{ECHO}content-length: 0\r\n\r\n"
            )),
        ),
        one(
            "double-answer",
            "answers each request twice",
            Acknowledged,
            ok(&format!("content-length: 0\r\n\r\nHTTP/1.1 200 OK\r\n{ECHO}content-length: 0\r\n\r\n")),
        ),
        one(
            "closes-between",
            "closes the connection after each answer without a word",
            Acknowledged,
            Answer::misbehave(Misbehaviour::CloseAfter),
        ),
        one(
            "reset-in-body",
            "resets the connection within the body",
            Acknowledged,
            ok("content-length: 1000\r\n\r\nhello").but(Misbehaviour::ResetAfter),
        ),
    ]
}

/// Answers that do not acknowledge.
fn wrong_echoes() -> Vec<Scripted> {
    vec![
        one("no-echo", "leaves the echo out", MISSING, Answer::echo(Echo::Missing)),
        one("wrong-echo", "sends another echo", MISMATCH, Answer::echo(Echo::Wrong)),
        one("doubled-echo", "sends the echo twice", MISMATCH, Answer::echo(Echo::Twice)),
        one(
            "listed-echo",
            "sends the echo twice in one line",
            MISMATCH,
            Answer::text("HTTP/1.1 200 OK\r\nX-XCOM-Integration-Echo: {echo}, {echo}\r\ncontent-length: 0\r\n\r\n"),
        ),
        one(
            "echo-in-body",
            "sends the echo behind the head",
            MISSING,
            Answer::text(format!("HTTP/1.1 200 OK\r\ncontent-length: 66\r\n\r\n{ECHO}")).closing(),
        ),
        one(
            "no-content",
            "answers 204 with the echo",
            STATUS,
            Answer::text(format!("HTTP/1.1 204 No Content\r\n{ECHO}\r\n")),
        ),
        one("redirect", "sends the request elsewhere", STATUS, Answer::status(302).header("location", "/good")),
        one("server-error", "answers 500", STATUS, Answer::status(500)),
        one("too-many", "answers 429 and asks for a pause", STATUS, Answer::status(429).header("retry-after", "60")),
    ]
}

/// Answers that are not HTTP, or whose head never ends.
fn no_answers() -> Vec<Scripted> {
    vec![
        one("silent", "reads the request and says nothing", LATE, Answer::misbehave(Misbehaviour::Hang)),
        one(
            "slow-loris",
            "sends a good head, a byte every 200 ms",
            LATE,
            Answer::misbehave(Misbehaviour::DripHead(Duration::from_millis(200))),
        ),
        one("half-a-head", "stops in mid-head", LATE, Answer::text("HTTP/1.1 200 OK\r\nX-XC")),
        one("header-bomb", "sends headers that never end", NO_HTTP, Answer::misbehave(Misbehaviour::EndlessHeaders)),
        one(
            "interim-flood",
            "sends interim answers that never end",
            NO_HTTP,
            Answer::misbehave(Misbehaviour::EndlessInterim),
        ),
        one("no-http", "answers with words", NO_HTTP, Answer::misbehave(Misbehaviour::Garbage)),
        one("http-2", "answers with frames of HTTP/2", NO_HTTP, Answer::text(b"\0\0\0\x04\0\0\0\0\0".to_vec())),
        one(
            "nul-in-head",
            "has a NUL in its head",
            NO_HTTP,
            Answer::text(format!("HTTP/1.1 200 OK\r\nX-A: a\0b\r\n{ECHO}content-length: 0\r\n\r\n")),
        ),
    ]
}

/// Connections that end before the answer's head does.
fn cut_off() -> Vec<Scripted> {
    vec![
        one("close", "closes the connection instead of an answer", CLOSED, Answer::misbehave(Misbehaviour::Close)),
        one("reset", "resets the connection instead of an answer", RESET, Answer::misbehave(Misbehaviour::Reset)),
        one(
            "close-in-head",
            "closes the connection in mid-head",
            CLOSED,
            Answer::text("HTTP/1.1 200 OK\r\nX-XC").closing(),
        ),
        one(
            "reset-in-head",
            "resets the connection in mid-head",
            RESET,
            Answer::text("HTTP/1.1 200 OK\r\nX-XC").but(Misbehaviour::ResetAfter),
        ),
    ]
}

/// 10 MB of zeros, deflated by hand: a literal, then copies of 258 bytes of 13 bits each, in one block of fixed codes.
fn gzip_bomb() -> Vec<u8> {
    const COPIES: usize = 40_000;
    let mut bits = vec![true, true, false];
    // The literal 0, then "258 bytes from one byte back": length code 285 and distance code 0.
    bits.extend([false, false, true, true, false, false, false, false]);
    for _ in 0..COPIES {
        bits.extend([true, true, false, false, false, true, false, true]);
        bits.extend([false; 5]);
    }
    // The end of the block.
    bits.extend([false; 7]);
    let mut bytes = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    bytes.extend(bits.chunks(8).map(|byte| byte.iter().rev().fold(0u8, |sum, bit| sum << 1 | u8::from(*bit))));
    bytes
}
