#!/bin/sh
# Writes one made-up event after another to the events topic, PAUSE seconds apart, or COUNT of them. The key is the workspace.
set -eu

producer=${PRODUCER:-/opt/kafka/bin/kafka-console-producer.sh}

uuid() { cat /proc/sys/kernel/random/uuid; }

events() {
    number=0
    while [ "$number" != "${COUNT:-}" ]; do
        number=$((number + 1))
        case $((number % 3)) in
            0) entities="\"contactId\":\"$(uuid)\"" ;;
            *) entities="\"companyId\":\"$(uuid)\"" ;;
        esac
        case $((number % 5)) in
            0) change='{"type":"create","old":null,"new":{"name":"Acme"}}' ;;
            *) change='{"type":"patch","old":{"name":"Acme"},"new":{"name":"Acme Ltd"}}' ;;
        esac
        printf 'demo|{"id":"%s","offset":"%s","type":"change","createInfo":{"createdAt":"%s","createdByUserId":"%s","createdWith":"WebApp"},"entityIds":{%s},"changeData":%s}\n' \
            "$(uuid)" "$(uuid)" "$(date -u +%Y-%m-%dT%H:%M:%S+00:00)" "$(uuid)" "$entities" "$change"
        sleep "${PAUSE:-1}"
    done
}

events | "$producer" --bootstrap-server "$BROKERS" --topic "$TOPIC" \
    --property parse.key=true --property 'key.separator=|'
