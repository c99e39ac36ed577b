#!/bin/sh
# Writes one made-up event after another to the events topic, PAUSE seconds apart, or COUNT of them. The workspace is a header, the key
# the entity's id, as the CRM is advised to write them.
set -eu

producer=${PRODUCER:-/opt/kafka/bin/kafka-console-producer.sh}

# Microseconds since 1970. A `date` without %N knows the seconds.
start=$(date +%s%N | tr -cd 0-9 | cut -c 1-16)
[ "${#start}" -eq 16 ] || start="${start}000000"

# The place of change number $1 in the CRM's log: larger with every event, also when this is started again.
place() {
    at=$((start + $1))
    printf '00000000-20ac-176a-%04x-%012x' $((at >> 48)) $((at & 0xffffffffffff))
}

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
            "$entity" "$(uuid)" "$(place "$number")" "$(date -u +%Y-%m-%dT%H:%M:%S+00:00)" "$(uuid)" "$entities" "$change"
        sleep "${PAUSE:-1}"
    done
}

events | "$producer" --bootstrap-server "$BROKERS" --topic "$TOPIC" \
    --reader-property parse.headers=true --reader-property parse.key=true --reader-property 'key.separator=|'
