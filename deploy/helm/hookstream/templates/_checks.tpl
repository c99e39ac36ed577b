{{/*
What the schema cannot say: formats with an example, and values that have to fit together. Every mistake is a sentence that
names the value, what it is and what is accepted; all of them are reported at once.
*/}}
{{- define "hookstream.checks" -}}
{{- $v := .Values -}}
{{- $m := list -}}

{{- /* Kafka */ -}}
{{- if not $v.kafka.brokers -}}
{{- $m = append $m "kafka.brokers is empty: name the bootstrap servers, e.g. --set kafka.brokers=kafka:9092" -}}
{{- else if not (regexMatch "^((\\[[0-9a-fA-F:]+\\]|[^][\\s,:/]+):[0-9]{1,5})(,(\\[[0-9a-fA-F:]+\\]|[^][\\s,:/]+):[0-9]{1,5})*$" $v.kafka.brokers) -}}
{{- $m = append $m (printf "kafka.brokers is %q: write host:port, several separated by commas, without spaces or a scheme" $v.kafka.brokers) -}}
{{- end -}}
{{- range $broker := splitList "," $v.kafka.brokers -}}
{{- $port := regexFind ":[0-9]{1,5}$" $broker | trimPrefix ":" -}}
{{- if and $port (or (lt (atoi $port) 1) (gt (atoi $port) 65535)) -}}
{{- $m = append $m (printf "kafka.brokers holds %q: a port is a number from 1 to 65535" $broker) -}}
{{- end -}}
{{- end -}}
{{- $secret := list "sasl.password" "ssl.key.password" "ssl.keystore.password" "ssl.key.pem" "ssl_key" "sasl.oauthbearer.client.secret" "sasl.oauthbearer.assertion.private.key.passphrase" "sasl.oauthbearer.assertion.private.key.pem" "https.ca.pem" -}}
{{- range $place, $kafka := dict "kafka" $v.kafka "console.kafka" $v.console.kafka -}}
{{- range $key, $value := $kafka.properties -}}
{{- if has $key $secret -}}
{{- $m = append $m (printf "%s.properties holds %s in plain sight: put it into a secret and name that under %s.secretProperties" $place $key $place) -}}
{{- end -}}
{{- if regexMatch "[\\r\\n]" (toString $value) -}}
{{- $m = append $m (printf "%s.properties.%s spans several lines: a property is one line" $place $key) -}}
{{- end -}}
{{- if hasKey $kafka.secretProperties $key -}}
{{- $m = append $m (printf "%s stands in %s.properties and in %s.secretProperties: name it once" $key $place $place) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- /* What the program refuses, since delivery depends on it. */ -}}
{{- $offsets := "an offset is stored only when every delivery of its record is settled" -}}
{{- $acks := "it is always all, so that a record counts when every in-sync replica has it" -}}
{{- $refused := dict "enable.auto.commit" $offsets "auto.commit.enable" $offsets "enable.auto.offset.store" $offsets "acks" $acks "request.required.acks" $acks -}}
{{- $_ := set $refused "auto.offset.reset" "a group without offsets begins at the start of the topic, since skipping would lose events" -}}
{{- $_ := set $refused "enable.idempotence" "it is always on, so that a retry is written once" -}}
{{- $_ := set $refused "isolation.level" "it is always read_committed, since an aborted record is not an event" -}}
{{- $_ := set $refused "enable.partition.eof" "the program uses it to see that the integrations are read to their end" -}}
{{- $_ := set $refused "transactional.id" "it is given where one is needed, from the group's name" -}}
{{- $_ := set $refused "delivery.report.only.error" "every record written is waited for" -}}
{{- range $key, $value := merge (dict) $v.kafka.properties $v.kafka.secretProperties $v.console.kafka.properties $v.console.kafka.secretProperties -}}
{{- if not (regexMatch "^[a-z0-9._]+$" $key) -}}
{{- $m = append $m (printf "%q is not a name of a librdkafka property: such a name has small letters, digits, dots and underscores" $key) -}}
{{- end -}}
{{- if has $key (list "bootstrap.servers" "metadata.broker.list" "group.id") -}}
{{- $m = append $m (printf "the property %s has a value of its own: set kafka.brokers or kafka.group" $key) -}}
{{- end -}}
{{- with get $refused $key -}}
{{- $m = append $m (printf "the property %s can't be set: %s" $key .) -}}
{{- end -}}
{{- end -}}
{{- if not (regexMatch "^\\S+$" $v.kafka.group) -}}
{{- $m = append $m (printf "kafka.group is %q: a consumer group's name has no spaces" $v.kafka.group) -}}
{{- end -}}

{{- /* Topics */ -}}
{{- $seen := dict -}}
{{- range $name := list "events" "integrations" "retryPrefix" "deadLetter" "attempts" "health" "backlog" "audit" -}}
{{- $topic := get $v.topics $name -}}
{{- if or (not (regexMatch "^[a-zA-Z0-9._-]{1,249}$" $topic)) (has $topic (list "." "..")) -}}
{{- $m = append $m (printf "topics.%s is %q: a topic's name has 1 to 249 of the characters a-z A-Z 0-9 . _ -" $name $topic) -}}
{{- else if hasKey $seen $topic -}}
{{- $m = append $m (printf "topics.%s and topics.%s are both %q: each needs a topic of its own" (get $seen $topic) $name $topic) -}}
{{- end -}}
{{- $_ := set $seen $topic $name -}}
{{- end -}}

{{- /* Durations, and what they have to leave room for */ -}}
{{- $duration := "^[1-9][0-9]*(ms|s|m|h)$" -}}
{{- $good := true -}}
{{- $all := dict "delivery.requestTimeout" $v.delivery.requestTimeout "delivery.connectTimeout" $v.delivery.connectTimeout "delivery.drainTimeout" $v.delivery.drainTimeout "health.errorsWindow" $v.health.errorsWindow "health.suspendAfter" $v.health.suspendAfter "monitoring.serviceMonitor.interval" $v.monitoring.serviceMonitor.interval "monitoring.serviceMonitor.scrapeTimeout" $v.monitoring.serviceMonitor.scrapeTimeout -}}
{{- range $name, $value := $all -}}
{{- if not (regexMatch $duration $value) -}}
{{- $good = false -}}
{{- $m = append $m (printf "%s is %q: a duration is written 250ms, 30s, 5m or 1h" $name $value) -}}
{{- end -}}
{{- end -}}
{{- $scheduleGood := true -}}
{{- $whole := int64 0 -}}
{{- range $value := splitList "," $v.delivery.retrySchedule -}}
{{- if regexMatch $duration $value -}}
{{- $whole = add $whole (include "hookstream.millis" $value | int64) -}}
{{- else -}}
{{- $scheduleGood = false -}}
{{- end -}}
{{- if not (regexMatch $duration $value) -}}
{{- $m = append $m (printf "delivery.retrySchedule holds %q: write the delays one after another, e.g. 30s,1m,5m,15m,1h" $value) -}}
{{- else if gt (include "hookstream.millis" $value | int64) 604800000 -}}
{{- $m = append $m (printf "delivery.retrySchedule holds %q: a delay is at most 168h" $value) -}}
{{- end -}}
{{- end -}}
{{- if gt (len (splitList "," $v.delivery.retrySchedule)) 100 -}}
{{- $m = append $m (printf "delivery.retrySchedule has %d delays: at most 100" (len (splitList "," $v.delivery.retrySchedule))) -}}
{{- end -}}
{{- with $v.delivery.giveUpAfter -}}
{{- if not (regexMatch $duration .) -}}
{{- $m = append $m (printf "delivery.giveUpAfter is %q: a duration is written 250ms, 30s, 5m or 1h" .) -}}
{{- else if gt (include "hookstream.millis" . | int64) 60480000000 -}}
{{- $m = append $m (printf "delivery.giveUpAfter is %s: at most 16800h" .) -}}
{{- else if and $scheduleGood (lt (include "hookstream.millis" . | int64) $whole) -}}
{{- $m = append $m (printf "delivery.giveUpAfter (%s) is shorter than the whole delivery.retrySchedule (%s)" . $v.delivery.retrySchedule) -}}
{{- end -}}
{{- end -}}
{{- if $good -}}
{{- range $name := list "errorsWindow" "suspendAfter" -}}
{{- if gt (include "hookstream.millis" (get $v.health $name) | int64) 604800000 -}}
{{- $m = append $m (printf "health.%s is %s: at most 168h" $name (get $v.health $name)) -}}
{{- end -}}
{{- end -}}
{{- if lt (include "hookstream.millis" $v.health.errorsWindow | int64) 1000 -}}
{{- $m = append $m (printf "health.errorsWindow is %s: at least 1s" $v.health.errorsWindow) -}}
{{- end -}}
{{- $request := include "hookstream.millis" $v.delivery.requestTimeout | int64 -}}
{{- $connect := include "hookstream.millis" $v.delivery.connectTimeout | int64 -}}
{{- $drain := include "hookstream.millis" $v.delivery.drainTimeout | int64 -}}
{{- if gt $drain 240000 -}}
{{- $m = append $m (printf "delivery.drainTimeout is %s: at most 4m, since Kafka takes a member that drains for longer out of its group" $v.delivery.drainTimeout) -}}
{{- end -}}
{{- if lt $drain $request -}}
{{- $m = append $m (printf "delivery.drainTimeout (%s) is shorter than delivery.requestTimeout (%s): a stopping worker would cut off requests that still have time" $v.delivery.drainTimeout $v.delivery.requestTimeout) -}}
{{- end -}}
{{- if gt $connect $request -}}
{{- $m = append $m (printf "delivery.connectTimeout (%s) is longer than delivery.requestTimeout (%s), which it is a part of" $v.delivery.connectTimeout $v.delivery.requestTimeout) -}}
{{- end -}}
{{- range $role := list "worker" "api" -}}
{{- $grace := (get $v $role).terminationGracePeriodSeconds | int64 -}}
{{- if and (or (eq $role "worker") $v.api.enabled) (lt (mul $grace 1000) (add $drain 40000)) -}}
{{- $m = append $m (printf "%s.terminationGracePeriodSeconds (%d) leaves less than 40 s beyond delivery.drainTimeout (%s): Kubernetes could kill it before it has ended" $role $grace $v.delivery.drainTimeout) -}}
{{- end -}}
{{- end -}}
{{- if gt (include "hookstream.millis" $v.monitoring.serviceMonitor.scrapeTimeout | int64) (include "hookstream.millis" $v.monitoring.serviceMonitor.interval | int64) -}}
{{- $m = append $m (printf "monitoring.serviceMonitor.scrapeTimeout (%s) is longer than its interval (%s)" $v.monitoring.serviceMonitor.scrapeTimeout $v.monitoring.serviceMonitor.interval) -}}
{{- end -}}
{{- end -}}

{{- /* Limits */ -}}
{{- range $name := list "maxInFlightPerWebhook" "maxInFlightPerHost" -}}
{{- $limit := get $v.delivery $name -}}
{{- if and (not (kindIs "invalid" $limit)) (gt (int64 $limit) (int64 $v.delivery.maxInFlight)) -}}
{{- $m = append $m (printf "delivery.%s (%d) is more than delivery.maxInFlight (%d), the requests of a whole worker" $name (int64 $limit) (int64 $v.delivery.maxInFlight)) -}}
{{- end -}}
{{- end -}}
{{- with $v.delivery.maxQueuedBytes -}}
{{- $text := kindIs "string" . | ternary (toString .) (printf "%d" (int64 .)) -}}
{{- if not (regexMatch "^[1-9][0-9]{0,12}(KiB|MiB|GiB)?$" $text) -}}
{{- $m = append $m (printf "delivery.maxQueuedBytes is %q: write a number of bytes, or 64MiB" $text) -}}
{{- else -}}
{{- $unit := get (dict "" 1 "KiB" 1024 "MiB" 1048576 "GiB" 1073741824) (regexFind "[A-Za-z]*$" $text) -}}
{{- $number := regexFind "^[0-9]+" $text | int64 -}}
{{- if lt (mul $number $unit) 1048576 -}}
{{- $m = append $m (printf "delivery.maxQueuedBytes is %s: at least 1MiB, or a large event could not be taken in" $text) -}}
{{- else if gt $number (div 1099511627776 $unit) -}}
{{- $m = append $m (printf "delivery.maxQueuedBytes is %s: at most 1024GiB" $text) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $range := $v.delivery.allowPrivateNetworks -}}
{{- if not (regexMatch "^([0-9]{1,3}(\\.[0-9]{1,3}){3}/([0-9]|[12][0-9]|3[0-2])|[0-9a-fA-F:]*:[0-9a-fA-F:.]*/([0-9]{1,2}|1[01][0-9]|12[0-8]))$" $range) -}}
{{- $m = append $m (printf "delivery.allowPrivateNetworks holds %q: write address ranges, e.g. 10.20.0.0/16 or fd00::/8" $range) -}}
{{- end -}}
{{- end -}}

{{- /* Logs */ -}}
{{- $level := "(?i:error|warn|info|debug|trace|off)" -}}
{{- $numbered := "(?i:error|warn|info|debug|trace|off|[0-5])" -}}
{{- $directives := printf "^(%s|[^\\s=,\\[\\]{}]+=%s|[^\\s=,\\[\\]{}]*\\[[^\\[\\]]*\\](=%s)?)$" $level $numbered $numbered -}}
{{- $good := true -}}
{{- range $part := splitList "," $v.logs.level -}}
{{- if not (regexMatch $directives $part) -}}{{- $good = false -}}{{- end -}}
{{- end -}}
{{- if not $good -}}
{{- $m = append $m (printf "logs.level is %q: write error, warn, info, debug, trace or off, or directives such as info,hookstream::http=debug" $v.logs.level) -}}
{{- end -}}

{{- /* The API */ -}}
{{- if and $v.api.enabled (not $v.api.tokensSecret.name) -}}
{{- $m = append $m "api.tokensSecret.name is empty: name the secret with the tokens file (without it every request would be refused), or set api.enabled=false" -}}
{{- end -}}
{{- if and $v.api.enabled (eq (int $v.api.port) (int $v.admin.port)) -}}
{{- $m = append $m (printf "api.port and admin.port are both %d: they need different ones" (int $v.api.port)) -}}
{{- end -}}

{{- /* The console */ -}}
{{- if $v.console.enabled -}}
{{- if not (or $v.console.tokensSecret.name $v.api.tokensSecret.name) -}}
{{- $m = append $m "console.tokensSecret.name and api.tokensSecret.name are both empty: name a secret with a tokens file (without it no user could sign in), or set console.enabled=false" -}}
{{- end -}}
{{- if eq (int $v.console.port) (int $v.admin.port) -}}
{{- $m = append $m (printf "console.port and admin.port are both %d: they need different ones" (int $v.console.port)) -}}
{{- end -}}
{{- if and $v.console.apiUrl (not (regexMatch "^https?://[^/\\s?#@]+$" $v.console.apiUrl)) -}}
{{- $m = append $m (printf "console.apiUrl is %q: write the API's URL without a path, e.g. https://hooks.example" $v.console.apiUrl) -}}
{{- end -}}
{{- end -}}

{{- /* Scaling and rollout */ -}}
{{- if and $v.autoscaling.keda.enabled $v.autoscaling.hpa.enabled -}}
{{- $m = append $m "autoscaling.keda.enabled and autoscaling.hpa.enabled are both true: two autoscalers would pull at one deployment" -}}
{{- end -}}
{{- if gt (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas) -}}
{{- $m = append $m (printf "autoscaling.minReplicas (%d) is more than autoscaling.maxReplicas (%d)" (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas)) -}}
{{- end -}}
{{- if $v.autoscaling.keda.enabled -}}
{{- if not (regexMatch "^https?://\\S+$" $v.autoscaling.keda.prometheusAddress) -}}
{{- $m = append $m (printf "autoscaling.keda.prometheusAddress is %q: KEDA asks Prometheus what is late, so write its URL, e.g. http://prometheus.monitoring:9090" $v.autoscaling.keda.prometheusAddress) -}}
{{- end -}}
{{- end -}}
{{- if and (has (toString $v.worker.rollingUpdate.maxSurge) (list "0" "0%")) (has (toString $v.worker.rollingUpdate.maxUnavailable) (list "0" "0%")) -}}
{{- $m = append $m "worker.rollingUpdate.maxSurge and maxUnavailable are both 0: a rollout could not take a single step" -}}
{{- end -}}

{{- /* Names of other things */ -}}
{{- if and $v.image.digest (not (regexMatch "^sha256:[a-f0-9]{64}$" $v.image.digest)) -}}
{{- $m = append $m (printf "image.digest is %q: write sha256: and 64 hexadecimal digits" $v.image.digest) -}}
{{- end -}}
{{- if and $v.image.tag (not (regexMatch "^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$" $v.image.tag)) -}}
{{- $m = append $m (printf "image.tag is %q: a tag has at most 128 letters, digits, dots, dashes and underscores" $v.image.tag) -}}
{{- end -}}
{{- $names := dict "kafka.tls.caSecret.name" $v.kafka.tls.caSecret.name "kafka.tls.clientSecret.name" $v.kafka.tls.clientSecret.name "api.tokensSecret.name" $v.api.tokensSecret.name "api.tlsSecret.name" $v.api.tlsSecret.name "console.tokensSecret.name" $v.console.tokensSecret.name "console.tlsSecret.name" $v.console.tlsSecret.name "console.kafka.clientSecret.name" $v.console.kafka.clientSecret.name "serviceAccount.name" $v.serviceAccount.name "autoscaling.keda.authenticationRef" $v.autoscaling.keda.authenticationRef -}}
{{- range $key, $secret := $v.kafka.secretProperties -}}
{{- $_ := set $names (printf "kafka.secretProperties.%s.name" $key) $secret.name -}}
{{- end -}}
{{- range $key, $secret := $v.console.kafka.secretProperties -}}
{{- $_ := set $names (printf "console.kafka.secretProperties.%s.name" $key) $secret.name -}}
{{- end -}}
{{- range $name, $value := $names -}}
{{- if and $value (not (regexMatch "^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$" $value)) -}}
{{- $m = append $m (printf "%s is %q: a name in Kubernetes has small letters, digits, dashes and dots" $name $value) -}}
{{- end -}}
{{- end -}}
{{- range $role := list "worker" "api" "console" -}}
{{- range $env := (get $v $role).extraEnv -}}
{{- if hasPrefix "HOOKSTREAM_" $env.name -}}
{{- $m = append $m (printf "%s.extraEnv sets %s: options of the program have values of their own" $role $env.name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- with $v.monitoring.rules.runbookBaseUrl -}}
{{- if not (regexMatch "^https?://\\S+[^/\\s]$" .) -}}
{{- $m = append $m (printf "monitoring.rules.runbookBaseUrl is %q: write the URL of the folder that holds docs/, without a slash at the end" .) -}}
{{- end -}}
{{- end -}}

{{- if $m -}}
{{- fail (printf "the values do not fit:\n  - %s" (join "\n  - " $m)) -}}
{{- end -}}
{{- end -}}
