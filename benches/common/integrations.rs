//! Many integrations, each as its record, and events of a size.

/// Entity types that webhooks subscribe to.
const ENTITY_TYPES: [&str; 8] =
    ["company", "contact", "user", "deal", "catalogItem", "task", "invoice", "catalogItemPrice"];
const CHANGE_TYPES: [&str; 4] = ["create", "patch", "delete", "restore"];

/// A population of integrations: `webhooks` in `integrations` in `workspaces`, evenly spread.
#[derive(Clone, Copy)]
pub(crate) struct Population {
    pub(crate) webhooks: usize,
    pub(crate) integrations: usize,
    pub(crate) workspaces: usize,
}

impl Population {
    /// The workspace of integration `number`.
    pub(crate) fn workspace(&self, number: usize) -> String {
        workspace(number % self.workspaces)
    }

    /// Key and value of each record.
    pub(crate) fn records(self) -> impl Iterator<Item = (String, String)> {
        let per_integration = self.webhooks / self.integrations;
        (0..self.integrations).map(move |number| {
            let id = uuid(1, number);
            let webhooks: Vec<_> =
                (0..per_integration).map(|place| webhook(number * per_integration + place)).collect();
            let value = format!(
                r#"{{"id":"{id}","baseUrl":"https://integration-{number:06}.example.com/crm/v1","status":"active","features":{{}},"secrets":[{{"id":"webhook.signingSecret","value":"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}}],"settings":[],"webHooks":[{}],"updateInfo":{{"createdAt":"2021-09-28T11:08:26.903198+00:00","createdWith":"WebApp","updatedAt":"2021-09-28T11:08:26.903198+00:00","updatedWith":"WebApp"}}}}"#,
                webhooks.join(",")
            );
            (format!("{}/{id}", self.workspace(number)), value)
        })
    }
}

/// The name of workspace `number`.
pub(crate) fn workspace(number: usize) -> String {
    format!("workspace-{number:06}")
}

/// As the documented example: a filter of one or two items.
fn webhook(number: usize) -> String {
    let entity = |step: usize| ENTITY_TYPES[(number / 2 + step) % ENTITY_TYPES.len()];
    let first = format!(
        r#"{{"eventType":"change","entityType":"{}","changeType":"{}"}}"#,
        entity(0),
        CHANGE_TYPES[number / 3 % CHANGE_TYPES.len()]
    );
    let second = if number.is_multiple_of(2) { format!(r#",{{"entityType":"{}"}}"#, entity(3)) } else { String::new() };
    format!(
        r#"{{"id":"{}","relativeUrl":"/callbacks/{}","triggerType":"entityEvent","filter":{{"items":[{first}{second}]}},"schedule":{{}},"disabled":false}}"#,
        uuid(2, number),
        number % 1000
    )
}

/// A UUID that belongs to `number` alone.
fn uuid(kind: u32, number: usize) -> String {
    let mixed = (number as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    format!(
        "{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}",
        mixed >> 32,
        mixed >> 16 & 0xffff,
        mixed >> 4 & 0xfff,
        kind,
        number
    )
}

/// An event of `size` bytes about one entity, as the documented example.
pub(crate) fn event(number: usize, entity_type: &str, size: usize) -> String {
    let head = format!(
        r#"{{"id":"3c75d291-{number:08}","offset":"00000000-20ac-176a-0000-0000060f5e88","type":"change","createInfo":{{"createdAt":"2021-09-28T11:08:26.903198+00:00","createdByUserId":"7489f14b","createdWith":"WebApp"}},"entityIds":{{"{entity_type}Id":"c{number}"}},"changeData":{{"type":"patch","old":{{"name":"Old name {number}","tags":["a","b",1,2.5,null]}},"new":{{"text":""#
    );
    let tail = r#""}}}"#;
    let words = "lorem ipsum dolor sit amet ".chars().cycle();
    let filling: String = words.take(size.saturating_sub(head.len() + tail.len())).collect();
    format!("{head}{filling}{tail}")
}
