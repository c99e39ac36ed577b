{{- define "hookstream.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 53 | trimSuffix "-" -}}
{{- else if contains (default .Chart.Name .Values.nameOverride) .Release.Name -}}
{{- .Release.Name | trunc 53 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (default .Chart.Name .Values.nameOverride) | trunc 53 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Labels by which selectors find pods; they never change over a release's life. Called with (dict "root" $ "component" "worker"). */}}
{{- define "hookstream.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "hookstream.labels" -}}
{{ include "hookstream.selector" . }}
app.kubernetes.io/part-of: hookstream
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 }}
{{- end -}}

{{- define "hookstream.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}

{{- define "hookstream.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "hookstream.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* A duration of the program's (250ms, 30s, 5m, 1h) in milliseconds. */}}
{{- define "hookstream.millis" -}}
{{- $unit := dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000 -}}
{{- mul (regexFind "^[0-9]+" . | int64) (get $unit (regexFind "[a-z]+$" .)) -}}
{{- end -}}

{{/* The user of the containers: without any right, on a file system that cannot be written. */}}
{{- define "hookstream.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: { type: RuntimeDefault }
{{- end -}}

{{- define "hookstream.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end -}}

{{- define "hookstream.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* One variable; nothing for null, so that the program's default holds. Called with (list NAME VALUE). */}}
{{- define "hookstream.option" -}}
{{- $value := index . 1 -}}
{{- if not (kindIs "invalid" $value) }}
- name: HOOKSTREAM_{{ index . 0 }}
  {{- /* A number that Helm read as a float keeps its digits; $( would be taken for a reference to another variable. */}}
  value: {{ kindIs "float64" $value | ternary (printf "%.0f" $value) (toString $value) | replace "$(" "$$(" | quote }}
{{- end }}
{{- end -}}

{{/* The connection to Kafka. Secret values are variables of their own, which Kubernetes puts into the list of properties. */}}
{{- define "hookstream.env.kafka" -}}
{{- $lines := list -}}
{{- range $key, $value := .Values.kafka.properties -}}
{{- $lines = append $lines (printf "%s=%s" $key (kindIs "float64" $value | ternary (printf "%v" $value) (toString $value) | replace "$(" "$$(")) -}}
{{- end -}}
{{- if .Values.kafka.tls.caSecret.name -}}
{{- $lines = append $lines (printf "ssl.ca.location=/etc/hookstream/kafka-ca/%s" .Values.kafka.tls.caSecret.key) -}}
{{- end -}}
{{- if .Values.kafka.tls.clientSecret.name -}}
{{- $lines = append $lines "ssl.certificate.location=/etc/hookstream/kafka-client/tls.crt" -}}
{{- $lines = append $lines "ssl.key.location=/etc/hookstream/kafka-client/tls.key" -}}
{{- end -}}
{{- $index := 0 -}}
{{- range $key, $secret := .Values.kafka.secretProperties }}
- name: KAFKA_SECRET_{{ $index }}
  valueFrom:
    secretKeyRef: { name: {{ $secret.name }}, key: {{ $secret.key | quote }} }
{{- $lines = append $lines (printf "%s=$(KAFKA_SECRET_%d)" $key $index) -}}
{{- $index = add $index 1 -}}
{{- end }}
{{- include "hookstream.option" (list "BROKERS" .Values.kafka.brokers) }}
{{- include "hookstream.option" (list "GROUP" .Values.kafka.group) }}
{{- with $lines }}
- name: HOOKSTREAM_KAFKA_PROPERTY
  value: {{ join "\n" . | quote }}
{{- end }}
{{- include "hookstream.option" (list "EVENTS_TOPIC" .Values.topics.events) }}
{{- include "hookstream.option" (list "INTEGRATIONS_TOPIC" .Values.topics.integrations) }}
{{- include "hookstream.option" (list "RETRY_TOPIC_PREFIX" .Values.topics.retryPrefix) }}
{{- include "hookstream.option" (list "DEAD_LETTER_TOPIC" .Values.topics.deadLetter) }}
{{- include "hookstream.option" (list "ATTEMPTS_TOPIC" .Values.topics.attempts) }}
{{- include "hookstream.option" (list "HEALTH_TOPIC" .Values.topics.health) }}
{{- include "hookstream.option" (list "BACKLOG_TOPIC" .Values.topics.backlog) }}
{{- include "hookstream.option" (list "AUDIT_TOPIC" .Values.topics.audit) }}
{{- include "hookstream.option" (list "LOG_FORMAT" .Values.logs.format) }}
{{- include "hookstream.option" (list "LOG_LEVEL" .Values.logs.level) }}
{{- end -}}

{{/* How a request is made: the worker's deliveries and the API's test deliveries. */}}
{{- define "hookstream.env.requests" -}}
{{- include "hookstream.option" (list "REQUEST_TIMEOUT" .Values.delivery.requestTimeout) }}
{{- include "hookstream.option" (list "CONNECT_TIMEOUT" .Values.delivery.connectTimeout) }}
{{- include "hookstream.option" (list "DRAIN_TIMEOUT" .Values.delivery.drainTimeout) }}
{{- with .Values.delivery.allowPrivateNetworks }}
{{- include "hookstream.option" (list "ALLOW_PRIVATE_NETWORKS" (join "," .)) }}
{{- end }}
{{- include "hookstream.option" (list "ADMIN_LISTEN" (printf "0.0.0.0:%d" (int $.Values.admin.port))) }}
{{- end -}}

{{- define "hookstream.env.worker" -}}
{{- include "hookstream.env.topics" . }}
{{- include "hookstream.option" (list "GIVE_UP_AFTER" .Values.delivery.giveUpAfter) }}
{{- include "hookstream.option" (list "ORDERING" .Values.delivery.ordering) }}
{{- include "hookstream.option" (list "MAX_IN_FLIGHT" .Values.delivery.maxInFlight) }}
{{- include "hookstream.option" (list "MAX_IN_FLIGHT_PER_WEBHOOK" .Values.delivery.maxInFlightPerWebhook) }}
{{- include "hookstream.option" (list "MAX_IN_FLIGHT_PER_HOST" .Values.delivery.maxInFlightPerHost) }}
{{- include "hookstream.option" (list "MAX_QUEUED_BYTES" .Values.delivery.maxQueuedBytes) }}
{{- include "hookstream.option" (list "DELIVERY_THREADS" .Values.delivery.deliveryThreads) }}
{{- include "hookstream.option" (list "ATTEMPT_LOG" .Values.delivery.attemptLog) }}
{{- include "hookstream.option" (list "ERRORS_WINDOW" .Values.health.errorsWindow) }}
{{- include "hookstream.option" (list "ERRORS_MIN_ATTEMPTS" .Values.health.errorsMinAttempts) }}
{{- include "hookstream.option" (list "SUSPEND_AFTER" .Values.health.suspendAfter) }}
{{- include "hookstream.option" (list "SUSPEND_AFTER_FAILURES" .Values.health.suspendAfterFailures) }}
{{- end -}}

{{/* The settings of the topics: for the job that creates them, and for the worker, which checks them. */}}
{{- define "hookstream.env.topics" -}}
{{- include "hookstream.option" (list "RETRY_SCHEDULE" .Values.delivery.retrySchedule) }}
{{- include "hookstream.option" (list "TOPIC_PARTITIONS" .Values.topics.apply.partitions) }}
{{- include "hookstream.option" (list "TOPIC_REPLICATION_FACTOR" .Values.topics.apply.replicationFactor) }}
{{- end -}}

{{- define "hookstream.volumes.kafka" -}}
{{- with .Values.kafka.tls.caSecret.name }}
- name: kafka-ca
  secret: { secretName: {{ . }}, defaultMode: 0440 }
{{- end }}
{{- with .Values.kafka.tls.clientSecret.name }}
- name: kafka-client
  secret: { secretName: {{ . }}, defaultMode: 0440 }
{{- end }}
{{- end -}}

{{- define "hookstream.mounts.kafka" -}}
{{- if .Values.kafka.tls.caSecret.name }}
- { name: kafka-ca, mountPath: /etc/hookstream/kafka-ca, readOnly: true }
{{- end }}
{{- if .Values.kafka.tls.clientSecret.name }}
- { name: kafka-client, mountPath: /etc/hookstream/kafka-client, readOnly: true }
{{- end }}
{{- end -}}

{{/* Where the pod may be placed. Called with the worker's or the API's values. */}}
{{- define "hookstream.placement" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* Alive and ready, as the admin port reports. A worker is ready once it has read the integrations topic, however long that takes. */}}
{{- define "hookstream.probes" -}}
startupProbe:
  httpGet: { path: /livez, port: admin }
  periodSeconds: 2
  failureThreshold: 30
livenessProbe:
  httpGet: { path: /livez, port: admin }
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
# A rollout goes on at the next probe after a worker has its partitions.
readinessProbe:
  httpGet: { path: /readyz, port: admin }
  periodSeconds: 2
  timeoutSeconds: 5
{{- end -}}

{{- /* The port of the API's service: as set, or what its clients expect. */ -}}
{{- define "hookstream.apiPort" -}}
{{- if .Values.api.service.port }}{{ int .Values.api.service.port }}{{ else }}{{ .Values.api.tlsSecret.name | empty | ternary 80 443 }}{{ end -}}
{{- end }}
