{{/* The name of the release's objects. */}}
{{- define "tidegate.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Cluster-wide names hold the namespace, so that two releases of one name in two namespaces do not meet. */}}
{{- define "tidegate.clusterName" -}}
{{- printf "%s-%s" (include "tidegate.fullname" .) .Release.Namespace -}}
{{- end -}}

{{- define "tidegate.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "tidegate.labels" -}}
{{ include "tidegate.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: tidegate
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "tidegate.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "tidegate.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "tidegate.image" -}}
{{- with .Values.image -}}
{{- if .registry -}}{{ .registry }}/{{- end -}}
{{- .repository -}}
{{- if .digest -}}@{{ .digest }}{{- else -}}:{{ default $.Chart.AppVersion .tag }}{{- end -}}
{{- end -}}
{{- end -}}

{{/* The port of an address such as [::]:8080. Argument: {name, address}. */}}
{{- define "tidegate.port" -}}
{{- $port := regexFind "[0-9]+$" .address -}}
{{- if or (eq $port "") (eq (int $port) 0) -}}
{{- fail (printf "listeners.%s.address: found %q, expected IP:PORT with a port from 1 on, since the Service must know it" .name .address) -}}
{{- end -}}
{{- $port -}}
{{- end -}}

{{/* Milliseconds of a duration such as 1m30s. Argument: {name, text}. */}}
{{- define "tidegate.milliseconds" -}}
{{- $text := required (printf "%s: found nothing, expected a duration such as 10s: the pod's grace period is made of it" .name) .text -}}
{{- $sum := 0 -}}
{{- range regexFindAll "[0-9]+(ms|h|m|s)" $text -1 -}}
{{- $number := int64 (regexFind "[0-9]+" .) -}}
{{- if hasSuffix "ms" . -}}{{- $sum = add $sum $number -}}
{{- else if hasSuffix "s" . -}}{{- $sum = add $sum (mul $number 1000) -}}
{{- else if hasSuffix "m" . -}}{{- $sum = add $sum (mul $number 60000) -}}
{{- else -}}{{- $sum = add $sum (mul $number 3600000) -}}
{{- end -}}
{{- end -}}
{{- $sum -}}
{{- end -}}

{{/* A stop takes at most drain delay, drain timeout and 1 s; 4 s more are for a busy node. */}}
{{- define "tidegate.gracePeriod" -}}
{{- $drain := .Values.dataPlane.drain | default dict -}}
{{- $delay := include "tidegate.milliseconds" (dict "name" "dataPlane.drain.delay" "text" $drain.delay) | int64 -}}
{{- $timeout := include "tidegate.milliseconds" (dict "name" "dataPlane.drain.timeout" "text" $drain.timeout) | int64 -}}
{{- div (add $delay $timeout 5999) 1000 -}}
{{- end -}}

{{/* Something in a cluster, nothing under `helm template`, which finds not even an empty list. Whoever installs may read in
the release's namespace. */}}
{{- define "tidegate.isCluster" -}}
{{- if lookup "v1" "ServiceAccount" .Release.Namespace "" -}}true{{- end -}}
{{- end -}}

{{/* Where the key of session values comes from: "existing", "generated", or nothing. A key that `helm template` made would be
another one each time, so it has none. */}}
{{- define "tidegate.sessionKey" -}}
{{- if .Values.sessions.existingSecret -}}
existing
{{- else if and .Values.sessions.generateKey (include "tidegate.isCluster" .) -}}
generated
{{- end -}}
{{- end -}}

{{/* Rights to read certificates, authorities and credentials. */}}
{{- define "tidegate.certificateRules" -}}
- apiGroups: [""]
  resources: [secrets, configmaps]
  verbs: [get, list, watch]
{{- end -}}

{{/* The settings file. */}}
{{- define "tidegate.settings" -}}
listeners:
{{ toYaml .Values.listeners | indent 2 }}
controller:
  controllerName: {{ .Values.controller.controllerName | quote }}
  gatewayClassName: {{ .Values.controller.gatewayClassName | quote }}
  hostnameOwnership: {{ .Values.controller.hostnameOwnership }}
admin: "[::]:{{ int .Values.metrics.port }}"
{{- if include "tidegate.sessionKey" . }}
sessions:
  keyFile: /etc/tidegate-sessions/key
{{- end }}
{{- if not (kindIs "invalid" .Values.workers) }}
workers: {{ int .Values.workers }}
{{- end }}
{{- range $key := list "deadlines" "limits" "forwarding" "metrics" "jwt" "drain" }}
{{- with index $.Values.dataPlane $key }}
{{ $key }}:
{{- include "tidegate.plain" . | trim | nindent 2 }}
{{- end }}
{{- end }}
{{- if not (kindIs "invalid" .Values.dataPlane.accessLog) }}
accessLog: {{ toYaml .Values.dataPlane.accessLog }}
{{- end }}
{{- end -}}

{{/* A flat map as YAML. Helm reads numbers as floating point, which would print large ones as 1e+09. */}}
{{- define "tidegate.plain" -}}
{{- range $key, $value := . }}
{{ $key }}: {{ if kindIs "float64" $value }}{{ int64 $value }}{{ else }}{{ toJson $value }}{{ end }}
{{- end }}
{{- end -}}

{{/* Rights on objects of namespaces: in a ClusterRole, or in a Role of each watched namespace. */}}
{{- define "tidegate.namespacedRules" -}}
- apiGroups: [tidegate.dev]
  resources: [gatewayroutes]
  verbs: [list, watch]
- apiGroups: [tidegate.dev]
  resources: [gatewayroutes/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [services{{ if .Values.controller.watchLegacyEndpoints }}, endpoints{{ end }}]
  verbs: [list, watch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
{{- if .Values.rbac.referenceGrants }}
- apiGroups: [gateway.networking.k8s.io]
  resources: [referencegrants]
  verbs: [list, watch]
{{- end }}
{{- if .Values.rbac.backendTLSPolicies }}
- apiGroups: [gateway.networking.k8s.io]
  resources: [backendtlspolicies]
  verbs: [list, watch]
- apiGroups: [gateway.networking.k8s.io]
  resources: [backendtlspolicies/status]
  verbs: [patch]
{{- end }}
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}

{{/* The listener that `helm test` asks: the first one that the Service leads to and that speaks plain HTTP without a PROXY
header. Nothing where there is none. */}}
{{- define "tidegate.testListener" -}}
{{- $names := list -}}
{{- range $name := keys .Values.service.ports | sortAlpha -}}
{{- $listener := index $.Values.listeners $name | default dict -}}
{{- $proxy := dig "proxyProtocol" "mode" "off" $listener | toString -}}
{{- if and (ne (get $listener "protocol" | toString) "HTTPS") (ne $proxy "required") -}}
{{- $names = append $names $name -}}
{{- end -}}
{{- end -}}
{{- with $names -}}
{{ first . }}
{{- end -}}
{{- end -}}

{{/* What a Service or a policy calls the port of a listener: its name, so that each pod is reached at the port that it has while
another one is rolled out; the number where Kubernetes takes no such name. */}}
{{- define "tidegate.portName" -}}
{{- if and (le (len .name) 15) (ne .name "metrics") (regexMatch "[a-z]" .name) (not (contains "--" .name)) -}}
{{ .name | quote }}
{{- else -}}
{{ include "tidegate.port" . }}
{{- end -}}
{{- end -}}

{{/* A name that is in no DNS. */}}
{{- define "tidegate.testHost" -}}
{{- include "tidegate.fullname" . }}.{{ .Release.Namespace }}.invalid
{{- end -}}

{{/* The pod of Deployment and DaemonSet. */}}
{{- define "tidegate.pod" -}}
metadata:
  # No versions here: an upgrade that changes nothing of the pod must not roll it.
  labels:
    {{- include "tidegate.selectorLabels" . | nindent 4 }}
    {{- with .Values.commonLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- with .Values.deployment.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    # The settings file is read once, at the start: a change of it rolls the pods.
    tidegate.dev/settings-checksum: {{ include "tidegate.settings" . | sha256sum }}
    {{- with .Values.metrics }}
    {{- if and .scrapeAnnotations (not .podMonitor.enabled) (not .serviceMonitor.enabled) }}
    prometheus.io/scrape: "true"
    prometheus.io/port: {{ int .port | quote }}
    prometheus.io/path: /metrics
    {{- end }}
    {{- end }}
    {{- with .Values.deployment.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "tidegate.serviceAccountName" . }}
  automountServiceAccountToken: true
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ include "tidegate.gracePeriod" . }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    {{- toYaml .Values.podSecurityContext | nindent 4 }}
  {{- if .Values.hostNetwork }}
  hostNetwork: true
  dnsPolicy: ClusterFirstWithHostNet
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  containers:
    - name: tidegate
      image: {{ include "tidegate.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args:
        {{- with .Values.deployment.args }}
        {{- toYaml . | nindent 8 }}
        {{- else }}
        - controller
        - --settings=/etc/tidegate/settings.yaml
        - {{ printf "--log=%s" .Values.log.level | quote }}
        - --log-format={{ .Values.log.format }}
        - --lease-name={{ include "tidegate.fullname" . }}
        {{- if and .Values.rbac.create .Values.rbac.clusterRole }}
        - --certificate-role={{ include "tidegate.clusterName" . }}-certificates
        {{- end }}
        {{- with .Values.controller.watchNamespaces }}
        - --watch-namespaces={{ join "," . }}
        {{- end }}
        {{- if .Values.controller.watchLegacyEndpoints }}
        - --watch-legacy-endpoints
        {{- end }}
        {{- if .Values.controller.cache }}
        - --cache=/var/cache/tidegate
        {{- end }}
        {{- end }}
        {{- with .Values.extraArgs }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      env:
        - name: POD_NAME
          valueFrom: {fieldRef: {fieldPath: metadata.name}}
        - name: POD_NAMESPACE
          valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
        - name: POD_IP
          valueFrom: {fieldRef: {fieldPath: status.podIP}}
        - name: NODE_NAME
          valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
        # Kubernetes puts the zone of the node on pods from 1.35 on; empty before that.
        - name: NODE_ZONE
          valueFrom: {fieldRef: {fieldPath: "metadata.labels['topology.kubernetes.io/zone']"}}
        {{- with .Values.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        - name: metrics
          containerPort: {{ int .Values.metrics.port }}
        {{- range $name, $listener := .Values.listeners }}
        - containerPort: {{ include "tidegate.port" (dict "name" $name "address" $listener.address) }}
          {{- if and (le (len $name) 15) (ne $name "metrics") (regexMatch "[a-z]" $name) (not (contains "--" $name)) }}
          name: {{ $name | quote }}
          {{- end }}
        {{- end }}
      # Pods that run but are not ready keep running: only a process that does not answer at all is restarted.
      startupProbe:
        httpGet: {path: /livez, port: metrics}
        periodSeconds: 1
        failureThreshold: 60
      livenessProbe:
        httpGet: {path: /livez, port: metrics}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 3
      # A deleted pod is unready anyway. /servingz keeps the probe green while it still accepts: with externalTrafficPolicy
      # Local a node gives traffic to a terminating pod only as long as its probe succeeds.
      readinessProbe:
        httpGet: {path: /servingz, port: metrics}
        periodSeconds: 2
        timeoutSeconds: 2
        failureThreshold: 2
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      securityContext:
        {{- toYaml .Values.securityContext | nindent 8 }}
      volumeMounts:
        - name: settings
          mountPath: /etc/tidegate
          readOnly: true
        {{- if include "tidegate.sessionKey" . }}
        - name: sessions
          mountPath: /etc/tidegate-sessions
          readOnly: true
        {{- end }}
        {{- if .Values.controller.cache }}
        - name: cache
          mountPath: /var/cache/tidegate
        {{- end }}
        {{- with .Values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: settings
      configMap:
        name: {{ include "tidegate.fullname" . }}
    {{- with include "tidegate.sessionKey" . }}
    - name: sessions
      secret:
        secretName: {{ if eq . "existing" }}{{ $.Values.sessions.existingSecret }}{{ else }}{{ include "tidegate.fullname" $ }}-sessions{{ end }}
        items: [{key: key, path: key}]
    {{- end }}
    {{- if .Values.controller.cache }}
    - name: cache
      emptyDir: {}
    {{- end }}
    {{- with .Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- range . }}
    - {{ toYaml . | nindent 6 | trim }}
      {{- if not .labelSelector }}
      labelSelector:
        matchLabels:
          {{- include "tidegate.selectorLabels" $ | nindent 10 }}
      {{- end }}
    {{- end }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
