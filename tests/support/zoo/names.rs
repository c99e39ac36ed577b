//! The zoo's names: the answer of its name server to each, and the outcome that a sender is expected to report. And that name server, which the
//! unit tests of name resolution use too.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA};
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use parking_lot::Mutex;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

/// A sender's result of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// It is acknowledged.
    Acknowledged,
    /// It failed.
    Failed {
        /// The contract's word.
        reason: &'static str,
        /// Part of the cause in words.
        cause: &'static str,
    },
}

/// A failure with this reason, in words that hold `cause`.
pub const fn failed(reason: &'static str, cause: &'static str) -> Expected {
    Expected::Failed { reason, cause }
}

/// The family of addresses that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// A records.
    V4,
    /// AAAA records.
    V6,
}

/// A name server's answer to a question.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Nothing.
    Silence,
    /// These addresses, for this many seconds.
    Addresses(Vec<IpAddr>, u32),
    /// No address of this family.
    Empty,
    /// There is no such name.
    NoSuchName,
    /// It can't say.
    Failure,
}

/// A name of the zoo.
#[derive(Clone, Copy, Debug)]
pub struct ZooName {
    /// The name, without a last dot.
    pub name: &'static str,
    /// The behaviour of its name server.
    pub does: &'static str,
    /// A sender's result of the first attempt. It may send to loopback of IPv4, and to no other private address.
    pub expected: Expected,
    /// The same of an attempt two seconds later.
    pub later: Expected,
    says: fn(Family, usize) -> Reply,
}

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const PRIVATE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
/// 10.0.0.1 as a translator of addresses (DNS64) writes it.
const TRANSLATED: IpAddr = IpAddr::V6(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0x0a00, 1));
/// An address of IPv6 that a request may go to and that leads nowhere on most machines.
const ELSEWHERE: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 1));
const REFUSED: Expected = failed("refused-address", "is refused (private)");

/// All of them.
pub fn zoo_names() -> Vec<ZooName> {
    let one = |name, does, expected, says| ZooName { name, does, expected, later: expected, says };
    vec![
        one("dns-silent.zoo.test", "is never answered", failed("timeout", "the name took longer than"), |_, _| {
            Reply::Silence
        }),
        one("dns-no-such-name.zoo.test", "does not exist", failed("dns", "no such name"), |_, _| Reply::NoSuchName),
        one("dns-empty.zoo.test", "has no address", failed("dns", "no address"), |_, _| Reply::Empty),
        one("dns-fails.zoo.test", "is one its name server can't look up", failed("dns", ""), |_, _| Reply::Failure),
        one("dns-v4-only.zoo.test", "has an address of IPv4 alone", Expected::Acknowledged, |family, _| match family {
            Family::V4 => Reply::Addresses(vec![HERE], 60),
            Family::V6 => Reply::Empty,
        }),
        one(
            "dns-v6-unanswered.zoo.test",
            "is never answered for IPv6",
            Expected::Acknowledged,
            |family, _| match family {
                Family::V4 => Reply::Addresses(vec![HERE], 60),
                Family::V6 => Reply::Silence,
            },
        ),
        one(
            "dns-v6-broken.zoo.test",
            "has addresses of both families, of which one leads nowhere",
            Expected::Acknowledged,
            |family, _| match family {
                Family::V4 => Reply::Addresses(vec![HERE], 60),
                Family::V6 => Reply::Addresses(vec![ELSEWHERE], 60),
            },
        ),
        one("dns-private.zoo.test", "leads into a private network", REFUSED, |family, _| match family {
            Family::V4 => Reply::Addresses(vec![PRIVATE], 60),
            Family::V6 => Reply::Empty,
        }),
        one("dns-mixed.zoo.test", "leads to a good address and to a private one", REFUSED, |family, _| match family {
            Family::V4 => Reply::Addresses(vec![HERE, PRIVATE], 60),
            Family::V6 => Reply::Empty,
        }),
        one("dns64.zoo.test", "leads through a translator into a private network", REFUSED, |family, _| match family {
            Family::V4 => Reply::Empty,
            Family::V6 => Reply::Addresses(vec![TRANSLATED], 60),
        }),
        ZooName {
            name: "dns-flips.zoo.test",
            does: "leads to a good address first and into a private network a second later",
            expected: Expected::Acknowledged,
            later: REFUSED,
            says: |family, asked| match (family, asked) {
                (Family::V6, _) => Reply::Empty,
                (Family::V4, 0) => Reply::Addresses(vec![HERE], 1),
                (Family::V4, _) => Reply::Addresses(vec![PRIVATE], 1),
            },
        },
        one("dns-good.zoo.test", "leads to a good address", Expected::Acknowledged, |family, _| match family {
            Family::V4 => Reply::Addresses(vec![HERE], 60),
            Family::V6 => Reply::Empty,
        }),
    ]
}

type Says = Arc<Mutex<dyn FnMut(&str, Family) -> Reply + Send>>;

/// A name server, over UDP.
pub struct NameServer {
    /// Its address.
    pub address: SocketAddr,
    questions: Arc<Mutex<Vec<(String, Family)>>>,
    _serving: JoinSet<()>,
}

impl NameServer {
    /// Starts one on a free port of loopback.
    pub async fn start(says: impl FnMut(&str, Family) -> Reply + Send + 'static) -> Self {
        Self::start_on(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), says).await
    }

    /// Starts one there.
    pub async fn start_on(address: SocketAddr, says: impl FnMut(&str, Family) -> Reply + Send + 'static) -> Self {
        let socket = UdpSocket::bind(address).await.unwrap_or_else(|error| panic!("listen on {address}: {error}"));
        let address = socket.local_addr().expect("a socket has an address");
        let says: Says = Arc::new(Mutex::new(says));
        let questions = Arc::new(Mutex::new(Vec::new()));
        let mut serving = JoinSet::new();
        serving.spawn(answer(socket, says, Arc::clone(&questions)));
        Self { address, questions, _serving: serving }
    }

    /// The name server of the zoo. It answers every other name with "no such name".
    pub async fn of_the_zoo(address: SocketAddr) -> Self {
        let mut asked = std::collections::HashMap::<_, usize>::new();
        Self::start_on(address, move |name, family| {
            let found = zoo_names().into_iter().find(|one| one.name == name.trim_end_matches('.'));
            let Some(found) = found else { return Reply::NoSuchName };
            let times = asked.entry((found.name, family == Family::V6)).or_default();
            let reply = (found.says)(family, *times);
            *times += 1;
            reply
        })
        .await
    }

    /// The questions so far.
    pub fn questions(&self) -> Vec<(String, Family)> {
        self.questions.lock().clone()
    }
}

async fn answer(socket: UdpSocket, says: Says, questions: Arc<Mutex<Vec<(String, Family)>>>) {
    let mut buffer = [0; 4096];
    while let Ok((bytes, from)) = socket.recv_from(&mut buffer).await {
        // What is no question is left alone.
        let Ok(question) = Message::from_vec(&buffer[..bytes]) else { continue };
        let Some(query) = question.queries.first().cloned() else { continue };
        let family = if query.query_type() == RecordType::A { Family::V4 } else { Family::V6 };
        let name = query.name().to_ascii().to_lowercase();
        questions.lock().push((name.clone(), family));
        let reply = says.lock()(&name, family);
        let mut message = question.into_response();
        match reply {
            Reply::Silence => continue,
            Reply::Addresses(addresses, ttl) => {
                for address in addresses {
                    let data = match address {
                        IpAddr::V4(address) => RData::A(A(address)),
                        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
                    };
                    message.add_answer(Record::from_rdata(query.name().clone(), ttl, data));
                }
            }
            Reply::Empty => {}
            Reply::NoSuchName => message.metadata.response_code = ResponseCode::NXDomain,
            Reply::Failure => message.metadata.response_code = ResponseCode::ServFail,
        }
        let bytes = message.to_vec().expect("an answer");
        // A sender that is gone gets none.
        let _sent = socket.send_to(&bytes, from).await;
    }
}
