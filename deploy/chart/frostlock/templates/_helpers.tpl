{{- define "frostlock.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "frostlock.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains (include "frostlock.name" .) .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "frostlock.name" .) | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "frostlock.selector" -}}
app.kubernetes.io/name: {{ include "frostlock.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "frostlock.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "frostlock.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "frostlock.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Of a whole pod, beside what is its own. */}}
{{- define "frostlock.pod" -}}
automountServiceAccountToken: false
priorityClassName: {{ .Values.priorityClassName }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "frostlock.container" -}}
image: {{ include "frostlock.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
terminationMessagePolicy: FallbackToLogsOnError
{{- end }}

{{- /* Changes the node, and has no token of the API server. */}}
{{- define "frostlock.onNode" -}}
{{ include "frostlock.container" . }}
securityContext:
  privileged: true
resources: {{- toYaml .Values.installer.resources | nindent 2 }}
{{- end }}

{{- define "frostlock.unprivileged" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: {{ .Values.exporter.runAsUser }}
runAsGroup: {{ .Values.exporter.runAsUser }}
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- /* Has a token of the API server, and no rights on the node. */}}
{{- define "frostlock.asksApi" -}}
{{ include "frostlock.container" . }}
env:
  - name: NODE_NAME
    valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
  - name: POD_NAMESPACE
    valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
securityContext: {{- include "frostlock.unprivileged" . | nindent 2 }}
resources: {{- toYaml .Values.installer.resources | nindent 2 }}
volumeMounts:
  - name: token
    mountPath: /var/run/secrets/kubernetes.io/serviceaccount
    readOnly: true
{{- end }}

{{- define "frostlock.token" -}}
- name: token
  projected:
    # Readable by the user of the containers that ask, whose group is fsGroup.
    defaultMode: 0440
    sources:
      - serviceAccountToken:
          path: token
          expirationSeconds: 3600
      - configMap:
          name: kube-root-ca.crt
          items:
            - {key: ca.crt, path: ca.crt}
{{- end }}

{{- /* The removal has to find what was configured. */}}
{{- define "frostlock.engine" -}}
- --dir={{ .Values.installDir }}
- --runtime={{ .Values.engine }}
{{- with .Values.configureArgs }}
- --
{{ toYaml . }}
{{- end }}
{{- end }}
