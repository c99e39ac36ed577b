#!/bin/sh
# Registers the two receivers of docker-compose.yml through the API. Running it again changes nothing.
set -eu

token=$(sed -n 's/^\([^# ][^ ]*\) .*/\1/p' "$TOKENS_FILE" | head -n 1)

register() { # ID BASE-URL WEBHOOK FILTER
    curl --fail-with-body --silent --show-error --retry 30 --retry-connrefused --retry-delay 1 --max-time 60 \
        -X PUT "$API/api/v1/demo/integrations/instances/$1" \
        -H "Authorization: Bearer $token" -H 'Content-Type: application/json' \
        -d "{\"id\":\"$1\",\"baseUrl\":\"$2\",\"status\":\"active\",
             \"secrets\":[{\"id\":\"webhook.signingSecret\",\"value\":\"$SECRET\"}],
             \"webHooks\":[{\"id\":\"$3\",\"relativeUrl\":\"/callbacks\",\"triggerType\":\"entityEvent\",
                          \"filter\":{\"items\":[$4]},\"schedule\":{},\"disabled\":false}]}"
    echo
}

register 6f1b4a52-6d5e-4a7e-9d3b-0c6a4f0f1a01 "$RECEIVER" 6f1b4a52-6d5e-4a7e-9d3b-0c6a4f0f1b01 '{}'
register 6f1b4a52-6d5e-4a7e-9d3b-0c6a4f0f1a02 "$FLAKY_RECEIVER" 6f1b4a52-6d5e-4a7e-9d3b-0c6a4f0f1b02 \
    '{"eventType":"change","entityType":"company"}'
