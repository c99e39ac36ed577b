#!/bin/sh
# Writes one made-up event after another to the events topic, PAUSE seconds apart, or COUNT of them. The workspace is a header, the key
# the entity's id, as the CRM is advised to write them.
set -eu

producer=${PRODUCER:-/opt/kafka/bin/kafka-console-producer.sh}

uuid() { cat /proc/sys/kernel/random/uuid; }

events() {
    number=0
    while [ "$number" != "${COUNT:-}" ]; do
        number=$((number + 1))
        entity=$(uuid)
        case $((number % 3)) in
            0) entities="\"contactId\":\"$entity\"" ;;
            *) entities="\"companyId\":\"$entity\"" ;;
        esac
        case $((number % 5)) in
            0) change='{"type":"create","old":null,"new":{"name":"Acme"}}' ;;
            *) change='{"type":"patch","old":{"name":"Acme"},"new":{"name":"Acme Ltd"}}' ;;
        esac
        printf 'workspace:demo\t%s|{"id":"%s","offset":"%s","type":"change","createInfo":{"createdAt":"%s","createdByUserId":"%s","createdWith":"WebApp"},"entityIds":{%s},"changeData":%s}\n' \
            "$entity" "$(uuid)" "$(uuid)" "$(date -u +%Y-%m-%dT%H:%M:%S+00:00)" "$(uuid)" "$entities" "$change"
        sleep "${PAUSE:-1}"
    done
}

events | "$producer" --bootstrap-server "$BROKERS" --topic "$TOPIC" \
    --reader-property parse.headers=true --reader-property parse.key=true --reader-property 'key.separator=|'
