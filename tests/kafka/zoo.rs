//! The receiver zoo: each of its receivers ends as it is expected to, in the contract's words, and the good one beside them notices
//! nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::stage::{LONG, Stage, event, record};
use crate::support::cluster::Cluster;
use crate::support::load::Load;
use crate::support::wait::{PATIENCE, wait_until};
use crate::support::zoo::{Animal, Expected, Zoo};

/// Events that each receiver of the zoo gets, one after another: a connection that an answer has spoilt would spoil the next.
const VISITS: usize = 3;
/// Events that the good receiver gets meanwhile, besides those.
const MEANWHILE: usize = 40;

fn integration(id: &str, url: &str, entity: &str) -> Value {
    json!({ "id": id, "baseUrl": "http://127.0.0.1", "webHooks": [{ "id": id, "relativeUrl": url,
        "triggerType": "entityEvent", "filter": { "items": [{ "entityType": entity }] } }] })
}

fn contact(number: usize) -> crate::support::records::Record {
    let value = json!({ "id": format!("contact-{number}"), "type": "change", "entityIds": { "contactId": "k" },
        "changeData": { "type": "patch" } });
    record("k", value.to_string())
}

/// How the attempts of an animal differ from what is expected; nothing if they do not.
fn difference(animal: &Animal, attempts: &[&Value]) -> Option<String> {
    let wrong = attempts.iter().enumerate().find(|(number, attempt)| match animal.expected_of(*number) {
        Expected::Acknowledged => attempt["outcome"] != "acknowledged",
        Expected::Failed { reason, cause } => {
            let said = attempt["error"].as_str().unwrap_or_default();
            attempt["reason"] != reason || !said.contains(cause) || said.is_empty()
        }
    });
    let is_complete = attempts.len() == VISITS;
    let wrong = wrong
        .map(|(number, attempt)| format!("{attempt} as attempt {number}"))
        .or((!is_complete).then(|| attempts.len().to_string()))?;
    Some(format!("{}: expected {:?}, found {wrong}", animal.name, (animal.expected, animal.again)))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_receiver_of_the_zoo_gets_the_expected_outcome_and_does_not_delay_the_good_one() {
    let cluster = Cluster::shared().await;
    let stage = Stage::on(&cluster, "zoo", "1h", 3).await;
    let folder = tempfile::tempdir().unwrap();
    let zoo = Zoo::start(folder.path());
    let good = zoo.animals().iter().find(|animal| animal.name == "good").unwrap().url.clone();
    let mut integrations: Vec<_> =
        zoo.animals().iter().map(|animal| integration(animal.name, &animal.url, "company")).collect();
    integrations.push(integration("neighbour", &good, "contact"));
    stage.put(&integrations);
    let trusted = Zoo::trusted(folder.path());
    let options = ["--attempt-log", "all", "--request-timeout", "8s", "--connect-timeout", "4s"];
    let mut worker = stage.worker_in(&[("SSL_CERT_FILE", trusted.to_str().unwrap())], &options).await;
    stage.send((0..VISITS).map(|number| event(&format!("visit-{number}"), "one-company")));
    let (load, mut latencies) = (Load::watch(), Vec::new());
    for number in 0..MEANWHILE {
        stage.send([contact(number)]);
        let sent = Instant::now();
        let came =
            || zoo.scripted().recorded().iter().filter(|one| one.json()["id"] == format!("contact-{number}")).count();
        wait_until("the good receiver's event", PATIENCE, async || if came() > 0 { Ok(()) } else { Err(()) }).await;
        latencies.push(sent.elapsed());
    }
    let animals = zoo.animals();
    let differences = || {
        let attempts = stage.attempts();
        let mut by_webhook: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
        for attempt in &attempts {
            by_webhook.entry(attempt["webHookId"].as_str().unwrap()).or_default().push(attempt);
        }
        let of = |animal: &Animal| by_webhook.get(animal.name).cloned().unwrap_or_default();
        (attempts.len(), animals.iter().filter_map(|animal| difference(animal, &of(animal))).collect::<Vec<_>>())
    };
    let all = animals.len() * VISITS + MEANWHILE;
    wait_until("every attempt", LONG, async || match differences() {
        (count, _) if count >= all => Ok(()),
        missing => Err(missing),
    })
    .await;
    let (_, wrong) = differences();
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    let attempts = stage.attempts();
    let of_the_neighbour = || attempts.iter().filter(|attempt| attempt["webHookId"] == "neighbour");
    assert!(of_the_neighbour().all(|attempt| attempt["outcome"] == "acknowledged" && attempt["attempt"] == 1));
    assert_eq!(of_the_neighbour().count(), MEANWHILE, "each once");
    latencies.sort();
    println!(
        "{} receivers, {VISITS} events each; the good one's {MEANWHILE} events meanwhile: median {:?}, slowest {:?}",
        animals.len(),
        latencies[MEANWHILE / 2],
        latencies[MEANWHILE - 1],
    );
    load.assert_within("half of the good one's events", latencies[MEANWHILE / 2], Duration::from_secs(1));
    worker.stop();
}
