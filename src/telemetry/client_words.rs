//! The Kafka client library's errors in plain words. It prints `Meta data fetch error: BrokerTransportFailure (Local: Broker transport
//! failure)`: an operation of its own, the name of a constant, and the same again. All log lines and all chains of causes go through
//! here, so no place that has such an error needs to know it.

use std::borrow::Cow;

/// What stands before the library's description of an error: where it arose.
const ORIGINS: [&str; 2] = [" (Local: ", " (Broker: "];

/// What the library was doing. Our own texts say it too.
const DOING: [&str; 15] = [
    "(Fatal) Message consumption error: ",
    "Admin operation error: ",
    "Consumer commit error: ",
    "Consumer queue close error: ",
    "Flush error: ",
    "Global error: ",
    "Group list fetch error: ",
    "Message consumption error: ",
    "Message production error: ",
    "Meta data fetch error: ",
    "Mock cluster error: ",
    "Offset fetch error: ",
    "Rebalance error: ",
    "Set partition offset error: ",
    "Store offset error: ",
];

/// The library's constants whose description says little. For the others it is used as it is.
const WORDS: [(&str, &str); 11] = [
    ("AllBrokersDown", "no broker answers"),
    ("BrokerTransportFailure", "no connection to a broker"),
    ("Fail", "the client library says no more"),
    ("MessageTimedOut", "no answer in time"),
    ("OperationTimedOut", "no answer in time"),
    ("PurgeInflight", "the record was dropped when its producer ended"),
    ("PurgeQueue", "the record was dropped when its producer ended"),
    ("QueueFull", "the producer's queue is full"),
    ("RequestTimedOut", "no answer in time"),
    ("Resolve", "the broker's name can't be looked up"),
    ("UnknownTopicOrPartition", "there is no such topic or partition"),
];

/// The text with the library's errors in plain words.
pub(crate) fn plain(text: &str) -> Cow<'_, str> {
    let mut text = Cow::Borrowed(text);
    let mut from = 0;
    while let Some((start, end, words)) = next(&text, from) {
        from = start + words.len();
        text.to_mut().replace_range(start..end, &words);
    }
    text
}

/// Where the first error at or after `from` begins and ends, and what it says.
fn next(text: &str, from: usize) -> Option<(usize, usize, String)> {
    let rest = text.get(from..)?;
    let (at, origin) = ORIGINS.iter().filter_map(|origin| Some((rest.find(origin)? + from, origin))).min()?;
    let described = at + origin.len();
    let end = described + text.get(described..)?.find(')')?;
    let before = text.get(from..at)?;
    let name = before.rsplit(|char: char| !char.is_ascii_alphanumeric()).next().unwrap_or_default();
    let before = before.strip_suffix(name).unwrap_or(before);
    let doing = DOING.iter().find(|doing| before.ends_with(*doing)).map_or(0, |doing| doing.len());
    let words = match WORDS.iter().find(|(known, _)| *known == name) {
        Some((_, words)) => (*words).to_owned(),
        None => small(text.get(described..end)?),
    };
    Some((from + before.len() - doing, end + 1, words))
}

/// The text with its first letter in lower case.
fn small(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_ascii_lowercase()).into_iter().chain(chars).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_client_library_is_said_in_plain_words_wherever_it_stands() {
        for (said, plainly) in [
            (
                "Meta data fetch error: BrokerTransportFailure (Local: Broker transport failure)",
                "no connection to a broker",
            ),
            (
                r#"{"error":"the topic can't be read: Message consumption error: RequestTimedOut (Broker: Request timed out)","topic":"t"}"#,
                r#"{"error":"the topic can't be read: no answer in time","topic":"t"}"#,
            ),
            (
                "error=GroupAuthorizationFailed (Broker: Group authorization failed) a=1 cause=Resolve (Local: Host resolution failure)",
                "error=group authorization failed a=1 cause=the broker's name can't be looked up",
            ),
            ("ready (Locally: yes)", "ready (Locally: yes)"),
            ("ends early (Local: ", "ends early (Local: "),
            ("", ""),
        ] {
            assert_eq!(plain(said), plainly);
        }
    }
}
