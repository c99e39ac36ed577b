"""Every option of the program that a deployment can set: docs, compose file and chart may name these only."""

# option, the chart's value for it, a value that is not the default, the variable's text then, the commands that read it
OPTIONS = [
    ("brokers", "kafka.brokers", "a:9092,b:9092", "a:9092,b:9092", "worker api topics console"),
    ("group", "kafka.group", "other", "other", "worker api topics console"),
    ("events-topic", "topics.events", "t.events", "t.events", "worker api topics console"),
    ("integrations-topic", "topics.integrations", "t.int", "t.int", "worker api topics console"),
    ("retry-topic-prefix", "topics.retryPrefix", "t.retry", "t.retry", "worker api topics console"),
    ("dead-letter-topic", "topics.deadLetter", "t.dead", "t.dead", "worker api topics console"),
    ("attempts-topic", "topics.attempts", "t.att", "t.att", "worker api topics console"),
    ("health-topic", "topics.health", "t.health", "t.health", "worker api topics console"),
    ("backlog-topic", "topics.backlog", "t.backlog", "t.backlog", "worker api topics console"),
    ("audit-topic", "topics.audit", "t.audit", "t.audit", "worker api topics console"),
    ("retry-schedule", "delivery.retrySchedule", "10s,2m", "10s,2m", "worker topics"),
    ("give-up-after", "delivery.giveUpAfter", "48h", "48h", "worker"),
    ("request-timeout", "delivery.requestTimeout", "7s", "7s", "worker api"),
    ("connect-timeout", "delivery.connectTimeout", "900ms", "900ms", "worker api"),
    ("ordering", "delivery.ordering", "none", "none", "worker"),
    ("max-in-flight", "delivery.maxInFlight", 50000, "50000", "worker"),
    ("max-in-flight-per-webhook", "delivery.maxInFlightPerWebhook", 8, "8", "worker"),
    ("max-in-flight-per-host", "delivery.maxInFlightPerHost", 64, "64", "worker"),
    ("max-queued-bytes", "delivery.maxQueuedBytes", 134217728, "134217728", "worker"),
    ("delivery-threads", "delivery.deliveryThreads", 3, "3", "worker"),
    ("allow-private-networks", "delivery.allowPrivateNetworks", ["10.1.0.0/16", "fd00::/8"], "10.1.0.0/16,fd00::/8", "worker api"),
    ("admin-listen", "admin.port", 9999, "0.0.0.0:9999", "worker api console"),
    ("api-listen", "api.port", 8181, "0.0.0.0:8181", "api"),
    ("api-tokens-file", "api.tokensSecret.key", "t.txt", "/etc/hookstream/tokens/t.txt", "api console"),
    ("api-tls-cert", "api.tlsSecret.name", "tls", "/etc/hookstream/tls/tls.crt", "api"),
    ("api-tls-key", "api.tlsSecret.name", "tls", "/etc/hookstream/tls/tls.key", "api"),
    ("api-tls-cert", "console.tlsSecret.name", "tls", "/etc/hookstream/tls/tls.crt", "console"),
    ("api-tls-key", "console.tlsSecret.name", "tls", "/etc/hookstream/tls/tls.key", "console"),
    ("console-listen", "console.port", 8191, "0.0.0.0:8191", "console"),
    ("console-api-url", "console.apiUrl", "https://hooks.example", "https://hooks.example", "console"),
    ("attempt-log", "delivery.attemptLog", "all", "all", "worker"),
    ("errors-window", "health.errorsWindow", "5m", "5m", "worker"),
    ("errors-min-attempts", "health.errorsMinAttempts", 30, "30", "worker"),
    ("suspend-after", "health.suspendAfter", "2h", "2h", "worker"),
    ("suspend-after-failures", "health.suspendAfterFailures", 1000000, "1000000", "worker"),
    ("topic-partitions", "topics.apply.partitions", 24, "24", "worker topics"),
    ("topic-replication-factor", "topics.apply.replicationFactor", 2, "2", "worker topics"),
    ("require-replicas", "topics.apply.allowFewerReplicas", True, "false", "topics"),
    ("log-format", "logs.format", "human", "human", "worker api topics console"),
    ("log-level", "logs.level", "debug", "debug", "worker api topics console"),
    ("drain-timeout", "delivery.drainTimeout", "40s", "40s", "worker api"),
    ("kafka-property", "kafka.properties", {"client.rack": "a", "fetch.wait.max.ms": 100}, "client.rack=a\nfetch.wait.max.ms=100", "worker api topics console"),
]

# Options of single commands, which a long-running deployment has no use for.
TOOLS = """workspace integration webhook reason from to event delivery entity all skip-sent dry-run json wide rate limit shell
    listen fail-rate latency status no-echo secret for instance-id help version""".split()

NAMES = {option for option, *_ in OPTIONS} | set(TOOLS)


def variable(option: str) -> str:
    return "HOOKSTREAM_" + option.upper().replace("-", "_")


VARIABLES = {variable(option) for option in NAMES}
