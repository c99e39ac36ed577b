//! Records and documents that were made to cost much, against the running program: a refused one changes nothing, and every other workspace
//! goes on. Unit tests beside the code cover each part alone; records that no producer should write are in [`super::poison`].

use std::hash::{Hash as _, Hasher};
use std::time::{Duration, Instant};

use http::HeaderName;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::api::{Answer as ApiAnswer, Api, Setting, hook};
use crate::stage::{Stage, event, integration, key_of};
use crate::support::cluster::Cluster;
use crate::support::load::Load;
use crate::support::receiver::{Answer, Receiver};
use crate::support::records::{Record, produce_compressed};
use crate::support::wait::{PATIENCE, wait_until};

/// The hash that the HTTP library's map of headers begins with.
struct Fnv(u64);

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The part of a name's hash that the map uses.
fn place(name: &str) -> u64 {
    let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
    name.parse::<HeaderName>().unwrap().hash(&mut hasher);
    hasher.finish() & 0xffff
}

/// `count` header names with the same hash. The hash depends on the letters so far: two forms of each of 13 syllables that leave the same
/// hash make 2 to the 13 names.
fn colliding_names(count: usize) -> Vec<String> {
    let letters = || b'a'..=b'z';
    let mut names = vec![String::from("x-")];
    while names.len() < count {
        let begin = names[0].clone();
        let mut seen = std::collections::HashMap::new();
        let syllables = letters()
            .flat_map(|first| letters().flat_map(move |second| letters().map(move |third| [first, second, third])));
        let pair = syllables.map(|syllable| String::from_utf8(syllable.to_vec()).unwrap()).find_map(|syllable| {
            let other = seen.insert(place(&format!("{begin}{syllable}")), syllable.clone())?;
            Some([other, syllable])
        });
        let pair = pair.expect("of 17,576 syllables two keep the same");
        names = names.iter().flat_map(|name| pair.iter().map(move |syllable| format!("{name}{syllable}"))).collect();
    }
    names.truncate(count);
    assert!(names.iter().all(|name| place(name) == place(&names[0])), "they collide");
    names
}

/// An integration that sends headers of these names.
fn with_headers(id: &str, base: &str, names: impl IntoIterator<Item = String>) -> Value {
    let secret = |name: String| json!({ "id": format!("webhook.header.{name}"), "value": "v" });
    let mut integration = integration(id, base);
    integration["secrets"] = names.into_iter().map(secret).collect();
    integration
}

#[tokio::test(flavor = "multi_thread")]
async fn records_with_thousands_of_headers_are_unusable_and_the_worker_goes_on() {
    const MANY: usize = 24_569;
    const CHOSEN: usize = 6_564;
    const ALLOWED: usize = 32;
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "headers", "1h", 1).await;
    let receiver = Receiver::start(|_| Answer::ok());
    let url = |id: &str| receiver.url(&format!("/{id}"));
    // Two of them have a good record first.
    let good = ["good", "many", "chosen"].map(|id| integration(id, &url(id)));
    stage.put(&good);
    let mut worker = stage.worker(&[]).await;
    let chosen = colliding_names(CHOSEN);
    let numbered = || (0..MANY).map(|number| format!("x{number}"));
    let hostile = [
        with_headers("many", &url("many"), numbered()),
        with_headers("chosen", &url("chosen"), chosen.clone()),
        with_headers("many-only", &url("many-only"), numbered()),
        with_headers("chosen-only", &url("chosen-only"), chosen.clone()),
        with_headers("allowed", &url("allowed"), chosen.iter().take(ALLOWED).cloned()),
    ];
    let records = hostile.iter().map(|integration| Record::new(key_of(integration), integration.to_string()));
    produce_compressed(cluster.brokers(), &stage.names.integrations(), "zstd", records);
    stage.knows(&worker, "hookstream_integration_records_total", &[("outcome", "unusable")], 4.0).await;
    delivers(&stage, &receiver, "e").await;
    let restarted = stage.worker(&[]).await;
    worker.stop();
    // It has read the former records too: nothing was compacted meanwhile.
    delivers(&stage, &receiver, "after").await;
    for worker in [&worker, &restarted] {
        assert!(!worker.lines().all().iter().any(|line| line.contains("panicked")), "{}", worker.lines().tail(9));
    }
    let requests = receiver.recorded();
    let allowed = requests.iter().find(|request| request.path == "/allowed/hook").unwrap();
    assert!(chosen.iter().take(ALLOWED).all(|name| allowed.header(name) == Some("v")), "{:?}", allowed.headers);
}

/// Sends an event: each webhook with a record that is good gets it, and no other.
async fn delivers(stage: &Stage, receiver: &Receiver, id: &str) {
    let before = receiver.count();
    stage.send([event(id, "c")]);
    receiver.wait_for(before + 4, PATIENCE).await;
    stage.settled(PATIENCE).await;
    let mut paths: Vec<_> = receiver.recorded().split_off(before).into_iter().map(|request| request.path).collect();
    paths.sort();
    assert_eq!(paths, ["/allowed/hook", "/chosen/hook", "/good/hook", "/many/hook"]);
}

/// A document that costs much, and the expected status of the answer.
struct Document {
    name: &'static str,
    method: Method,
    body: String,
    status: StatusCode,
}

/// The largest body that the API accepts.
const BODY_MAX: usize = 1 << 20;

/// `item` as often as it fits into a body between `before` and `after`.
fn filled(before: &str, item: &str, after: &str) -> String {
    let count = (BODY_MAX - before.len() - after.len()) / (item.len() + 1);
    format!("{before}{}{after}", vec![item; count].join(","))
}

fn documents() -> Vec<Document> {
    let operations = |list: &[String]| format!(r#"{{"operations":[{}]}}"#, list.join(","));
    let faulty = |number: usize| {
        let mut webhook = hook(&number.to_string());
        webhook["triggerType"] = "cron".into();
        webhook["note"] = "x".repeat(190).into();
        json!({ "op": "add", "path": "/webHooks", "value": webhook }).to_string()
    };
    let masked: Vec<_> = (0..20_000).map(|number| json!({ "id": number.to_string(), "value": "***" })).collect();
    let test = json!({ "op": "test", "path": "/features", "value": {} }).to_string();
    let write = json!({ "op": "replace", "path": "/status", "value": "active" }).to_string();
    let document = |name, method, body| Document { name, method, body, status: StatusCode::CONFLICT };
    vec![
        document("1,000 faulty webhooks", Method::PATCH, operations(&(0..1_000).map(faulty).collect::<Vec<_>>())),
        document("2,000 faulty webhooks", Method::PATCH, operations(&(0..2_000).map(faulty).collect::<Vec<_>>())),
        Document {
            name: "1 MiB of {} as operations",
            method: Method::PATCH,
            body: filled(r#"{"operations":["#, "{}", "]}"),
            status: StatusCode::BAD_REQUEST,
        },
        document(
            "1 MiB of {} as webhooks",
            Method::PATCH,
            filled(r#"{"operations":[{"op":"replace","path":"/webHooks","value":["#, "{}", "]}]}"),
        ),
        document("1 MiB of {} in a PUT", Method::PUT, filled(r#"{"webHooks":["#, "{}", "]}")),
        document("2,000 tests and writes", Method::PATCH, operations(&vec![[test, write].join(","); 1_000])),
        document(
            "20,000 masked secrets",
            Method::PATCH,
            json!({ "operations": [{ "op": "replace", "path": "/secrets", "value": masked }] }).to_string(),
        ),
        document("20,000 masked secrets in a PUT", Method::PUT, json!({ "secrets": masked }).to_string()),
    ]
}

/// How many operations or values an answer lists, in all its lists.
fn listed(answer: &ApiAnswer) -> usize {
    let lists = ["invalidPaths", "invalidValueTypes", "invalidDatas"];
    lists.iter().filter_map(|list| answer.json["errorInfo"][list].as_array()).map(Vec::len).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_that_cost_much_are_refused_and_do_not_delay_another_workspace() {
    const MEMORY_MAX: u64 = 64 << 20;
    /// An answer repeats the operations at fault, and adds a text about each fault.
    const WORDS_MAX: usize = 64 << 10;
    /// The API refuses a change that waits as long. This build is not optimised.
    const WAIT_MAX: Duration = Duration::from_secs(5);
    let cluster = Cluster::shared().await;
    let setting = Setting::new(cluster.brokers(), &[]).await;
    let api = setting.start("api", &[]);
    let (victim, other) = ("acme/integrations/instances/large", "initech/integrations/instances/other");
    let features: serde_json::Map<_, _> = (0..40_000).map(|number| (format!("x{number}"), json!([number]))).collect();
    assert_eq!(api.put(victim, &json!({ "baseUrl": "https://a.example", "features": features })).await.status, 200);
    for Document { name, method, body, status } in documents() {
        let load = Load::watch();
        let (began, before) = (Instant::now(), api.memory_from_now_on());
        let (refused, waited) = tokio::join!(api.ask(method, victim, &body), changes_meanwhile(&api, other));
        let (took, more) = (began.elapsed(), api.memory_peak().saturating_sub(before));
        println!(
            "{name}: {} bytes, answered in {took:?} with {} MiB; another workspace waited {waited:?}",
            body.len(),
            more >> 20
        );
        assert_eq!(refused.status, status, "{name}: {}", refused.json);
        assert!(listed(&refused) <= 100, "{name} lists {} faults", listed(&refused));
        let (asked, answered) = (body.len(), refused.json.to_string().len());
        assert!(answered <= asked + WORDS_MAX, "{name}: {answered} bytes answer {asked}");
        assert!(more <= MEMORY_MAX, "{name}: {more} bytes more than before");
        load.assert_within("a change of another workspace", waited, WAIT_MAX);
    }
}

/// Makes three changes one after another. Returns the longest wait for one of them; on a busy machine the API may refuse one after 5 s,
/// with a 503, and it is made again.
async fn changes_meanwhile(api: &Api, path: &str) -> Duration {
    let mut longest = Duration::ZERO;
    for number in 0..3 {
        let began = Instant::now();
        let change = json!({ "baseUrl": format!("https://{number}.example") });
        wait_until("a change of another workspace", PATIENCE, async || match api.put(path, &change).await {
            answer if answer.status == 200 => Ok(()),
            answer => {
                assert_eq!(answer.status, 503, "{}", answer.json);
                Err(answer.status)
            }
        })
        .await;
        longest = longest.max(began.elapsed());
    }
    longest
}
