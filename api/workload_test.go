package api

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// defaultedTemplate is what becomes of the template of aTemplate.
const defaultedTemplate = `{metadata: {labels: {app: a}}, spec: {containers: [{name: c, image: "i:1", imagePullPolicy: IfNotPresent,
	resources: {}, terminationMessagePath: /dev/termination-log, terminationMessagePolicy: File}], dnsPolicy: ClusterFirst,
	restartPolicy: Always, schedulerName: default-scheduler, securityContext: {}, terminationGracePeriodSeconds: 30}}`

func aTemplate(spec string) string {
	return `{metadata: {labels: {app: a}}, spec: {containers: [{name: c, image: "i:1"}]` + more(spec) + "}}"
}

// aSet is a StatefulSet or a DaemonSet.
func aSet(spec, template string) string {
	return "{metadata: {name: s}, spec: {selector: {matchLabels: {app: a}}, template: " + aTemplate(template) + more(spec) + "}}"
}

func aJob(spec, template string) string {
	if !strings.Contains(template, "restartPolicy") {
		template = "restartPolicy: Never" + more(template)
	}
	return "{metadata: {name: j, uid: u1}, spec: {template: " + aTemplate(template) + more(spec) + "}}"
}

func aCronJob(spec, job string) string {
	return "{metadata: {name: c}, spec: {schedule: '0 3 * * *', jobTemplate: {spec: {template: " +
		aTemplate("restartPolicy: Never") + more(job) + "}}" + more(spec) + "}}"
}

func TestNewWorkloads(t *testing.T) {
	ending := strings.Replace(defaultedTemplate, "restartPolicy: Always", "restartPolicy: Never", 1)
	const generated = "batch.kubernetes.io/controller-uid: u1, batch.kubernetes.io/job-name: j, controller-uid: u1, job-name: j"
	for _, tc := range []newTest{
		{
			name: "statefulset", kind: "StatefulSet",
			given: aSet(`volumeClaimTemplates: [{metadata: {name: data}, spec: {resources: {requests: {storage: 0.1m}}}}]`, ""),
			want: `
metadata: {name: s}
spec:
  podManagementPolicy: OrderedReady
  persistentVolumeClaimRetentionPolicy: {whenDeleted: Retain, whenScaled: Retain}
  replicas: 1
  revisionHistoryLimit: 10
  selector: {matchLabels: {app: a}}
  serviceName: ""
  updateStrategy: {type: RollingUpdate, rollingUpdate: {partition: 0, maxUnavailable: 1}}
  volumeClaimTemplates:
  - {apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data},
     spec: {resources: {requests: {storage: 1m}}, volumeMode: Filesystem}, status: {phase: Pending}}
  template: ` + defaultedTemplate,
		},
		{
			name: "daemonset", kind: "DaemonSet", given: aSet("", ""),
			want: `
metadata: {name: s, annotations: {deprecated.daemonset.template.generation: "1"}}
spec:
  revisionHistoryLimit: 10
  selector: {matchLabels: {app: a}}
  updateStrategy: {type: RollingUpdate, rollingUpdate: {maxUnavailable: 1, maxSurge: 0}}
  template: ` + defaultedTemplate,
		},
		{
			name: "job", kind: "Job", given: aJob("", ""),
			want: `
metadata: {name: j, uid: u1, labels: {app: a, ` + generated + `}}
spec:
  backoffLimit: 6
  completionMode: NonIndexed
  completions: 1
  manualSelector: false
  parallelism: 1
  podReplacementPolicy: TerminatingOrFailed
  selector: {matchLabels: {batch.kubernetes.io/controller-uid: u1}}
  suspend: false
  template: ` + strings.Replace(ending, "app: a", "app: a, "+generated, 1),
		},
		{
			name: "job whose user selects", kind: "Job",
			given: aJob(`manualSelector: true, selector: {matchLabels: {app: a}}, completionMode: Indexed, completions: 3, parallelism: 2,
				backoffLimitPerIndex: 1, podFailurePolicy: {rules: [{action: Ignore, onPodConditions: [{type: DisruptionTarget}]}]}`, ""),
			want: `
metadata: {name: j, uid: u1, labels: {app: a}}
spec:
  backoffLimit: 2147483647
  backoffLimitPerIndex: 1
  completionMode: Indexed
  completions: 3
  manualSelector: true
  parallelism: 2
  podFailurePolicy: {rules: [{action: Ignore, onPodConditions: [{type: DisruptionTarget, status: "True"}]}]}
  podReplacementPolicy: Failed
  selector: {matchLabels: {app: a}}
  suspend: false
  template: ` + ending,
		},
		{
			name: "cronjob", kind: "CronJob", given: aCronJob("", ""),
			want: `
metadata: {name: c}
spec:
  concurrencyPolicy: Allow
  failedJobsHistoryLimit: 1
  schedule: "0 3 * * *"
  successfulJobsHistoryLimit: 3
  suspend: false
  jobTemplate: {spec: {template: ` + ending + `}}`,
		},
		{
			name: "replication controller", kind: "ReplicationController", given: "{spec: {template: " + aTemplate("") + "}}",
			want: "{metadata: {labels: {app: a}}, spec: {replicas: 1, selector: {app: a}, template: " + defaultedTemplate + "}}",
		},
		{
			name: "pod template", kind: "PodTemplate", given: "{template: " + aTemplate("") + "}",
			want: "{template: " + defaultedTemplate + "}",
		},
		{
			name: "autoscaler", kind: "HorizontalPodAutoscaler",
			given: `{spec: {maxReplicas: 3, behavior: {scaleUp: {policies: [{type: Pods, value: 1, periodSeconds: 9}]}}}}`,
			want: `{spec: {maxReplicas: 3, minReplicas: 1, scaleTargetRef: {kind: "", name: ""},
				metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}}],
				behavior: {scaleUp: {policies: [{type: Pods, value: 1, periodSeconds: 9}], selectPolicy: Max, stabilizationWindowSeconds: 0},
				scaleDown: {policies: [{type: Percent, value: 100, periodSeconds: 15}], selectPolicy: Max}}}}`,
		},
	} {
		t.Run(tc.name, tc.run)
	}
}

func TestValidateWorkloads(t *testing.T) {
	const claim = "volumeClaimTemplates: [{metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}]"
	const mounted = "initContainers: [{name: i, image: i, volumeMounts: [{name: data, mountPath: /d}]}]"
	checkErrors(t, []errorTest{
		{"StatefulSet", aSet(claim, mounted), nil},
		{"StatefulSet", aSet("", mounted), []string{`spec.template.spec.initContainers[0].volumeMounts[0].name: Not found: "data"`}},
		{"StatefulSet", aSet("podManagementPolicy: Any, updateStrategy: {type: Recreate}, replicas: -1, serviceName: A, ordinals: {start: -1},"+
			" persistentVolumeClaimRetentionPolicy: {whenDeleted: Keep}, volumeClaimTemplates: [{spec: {}}]", "activeDeadlineSeconds: 5"), []string{
			"spec.podManagementPolicy: Invalid value: \"Any\": must be 'OrderedReady' or 'Parallel'",
			`spec.updateStrategy: Invalid value: {"type":"Recreate"}: must be 'RollingUpdate' or 'OnDelete'`,
			`spec.persistentVolumeClaimRetentionPolicy.whenDeleted: Unsupported value: "Keep": supported values: "Retain", "Delete"`,
			"spec.volumeClaimTemplates[0].spec.accessModes: Required value: at least 1 access mode is required",
			"spec.volumeClaimTemplates[0].spec.resources[storage]: Required value",
			"spec.replicas: Invalid value: -1: must be greater than or equal to 0",
			"spec.ordinals.start: Invalid value: -1: must be greater than or equal to 0",
			`spec.serviceName: Invalid value: "A": ` + label1123,
			"spec.template.spec.volumes[0].persistentVolumeClaim.claimName: Required value",
			"spec.template.spec.volumes[0].name: Required value",
			"spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in StatefulSet is not Supported",
		}},
		{"StatefulSet", aSet("updateStrategy: {type: RollingUpdate, rollingUpdate: {partition: -1, maxUnavailable: 0%}}", ""), []string{
			"spec.updateStrategy.rollingUpdate.partition: Invalid value: -1: must be greater than or equal to 0",
			`spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: "0%": cannot be 0`,
		}},
		{"DaemonSet", aSet("", ""), nil},
		{"DaemonSet", "{spec: {selector: {}, template: {spec: {containers: [{name: c, image: i}], restartPolicy: OnFailure}}}}", []string{
			"spec.selector: Invalid value: {}: empty selector is invalid for daemonset",
			`spec.template.spec.restartPolicy: Unsupported value: "OnFailure": supported values: "Always"`,
		}},
		{"DaemonSet", aSet("updateStrategy: {rollingUpdate: {maxUnavailable: 1, maxSurge: 101%}}", ""), []string{
			`spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: "101%": must not be greater than 100%`,
			`spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: "101%": may not be set when maxUnavailable is non-zero`,
		}},
		{"DaemonSet", aSet("updateStrategy: {rollingUpdate: {maxUnavailable: 0}}", ""), []string{
			"spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when maxSurge is 0",
		}},
		{"ControllerRevision", "{revision: 1, data: {a: b}}", nil},
		{"ControllerRevision", "{revision: -1}", []string{
			"revision: Invalid value: -1: must be greater than or equal to 0", "data: Required value: data is mandatory",
		}},
		{"ControllerRevision", "{revision: 1, data: [a]}", []string{"data: Required value: data must be a valid JSON object"}},
		{"ReplicationController", "{spec: {replicas: -1}}", []string{
			"spec.selector: Required value", "spec.replicas: Invalid value: -1: must be greater than or equal to 0", "spec.template: Required value",
		}},
		{"ReplicationController", "{spec: {selector: {app: b}, template: " + aTemplate("") + "}}", []string{
			"spec.template.metadata.labels: Invalid value: {\"app\":\"a\"}: `selector` does not match template `labels`",
		}},
		{"PodTemplate", "{template: {}}", []string{"template.spec.containers: Required value"}},
		{"PodDisruptionBudget", "{spec: {minAvailable: 101%, maxUnavailable: -1, unhealthyPodEvictionPolicy: Never}}", []string{
			`spec: Invalid value: {"minAvailable":"101%","maxUnavailable":-1,"unhealthyPodEvictionPolicy":"Never"}: minAvailable and maxUnavailable cannot be both set`,
			`spec.minAvailable: Invalid value: "101%": must not be greater than 100%`,
			"spec.maxUnavailable: Invalid value: -1: must be greater than or equal to 0",
			`spec.unhealthyPodEvictionPolicy: Unsupported value: "Never": supported values: "AlwaysAllow", "IfHealthyBudget"`,
		}},
		{"RuntimeClass", "{handler: A_b, overhead: {podFixed: {cpu: '-1'}}, scheduling: {tolerations: [{key: a}, {key: a}]}}", []string{
			`handler: Invalid value: "A_b": ` + label1123,
			`overhead.limits[cpu]: Invalid value: "-1": must be greater than or equal to 0`,
			`scheduling.tolerations[1]: Duplicate value: {"key":"a"}`,
		}},
	})
}

func TestValidateJobs(t *testing.T) {
	checkErrors(t, []errorTest{
		{"Job", aJob("", ""), nil},
		{"Job", aJob("", "restartPolicy: Always"), []string{`spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"`}},
		{"Job", aJob("parallelism: -1, completions: -2, activeDeadlineSeconds: -3, managedBy: me, maxFailedIndexes: 1, podReplacementPolicy: Now", ""), []string{
			"spec.parallelism: Invalid value: -1: must be greater than or equal to 0",
			"spec.completions: Invalid value: -2: must be greater than or equal to 0",
			"spec.activeDeadlineSeconds: Invalid value: -3: must be greater than or equal to 0",
			"spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified",
			"spec.managedBy: Invalid value: \"me\": must be a domain-prefixed path (such as \"acme.io/foo\")",
			"spec.maxFailedIndexes: Invalid value: 1: requires indexed completion mode",
			`spec.podReplacementPolicy: Unsupported value: "Now": supported values: "Failed", "TerminatingOrFailed"`,
		}},
		{"Job", aJob("completionMode: Indexed, parallelism: 100001", ""), []string{
			"spec.completions: Required value: when completion mode is Indexed",
			"spec.parallelism: Invalid value: 100001: must be less than or equal to 100000 when completion mode is Indexed",
		}},
		{"Job", "{metadata: {name: " + strings.Repeat("a", 62) + ", uid: u}, spec: {completionMode: Indexed, completions: 11, template: " +
			aTemplate("restartPolicy: Never") + "}}", []string{
			`metadata.name: Invalid value: "` + strings.Repeat("a", 62) + `": will not able to create pod with invalid DNS label: ` + strings.Repeat("a", 62) + "-10",
		}},
		{"Job", "{metadata: {name: j, uid: u}, spec: {template: {metadata: {labels: {job-name: other}}, spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}}}", []string{
			`spec.template.metadata.labels[job-name]: Invalid value: {"batch.kubernetes.io/controller-uid":"u","batch.kubernetes.io/job-name":"j","controller-uid":"u","job-name":"other"}: must be 'j'`,
		}},
		{"Job", aJob("podFailurePolicy: {rules: [{action: Shrug, onExitCodes: {operator: In, containerName: x, values: [3, 0, 3]}}, {action: FailIndex}]}", "restartPolicy: OnFailure"), []string{
			`spec.podFailurePolicy.rules[0].action: Unsupported value: "Shrug": supported values: "Count", "FailIndex", "FailJob", "Ignore"`,
			`spec.podFailurePolicy.rules[0].onExitCodes.containerName: Invalid value: "x": must be one of the container or initContainer names in the pod template`,
			"spec.podFailurePolicy.rules[0].onExitCodes.values[1]: Invalid value: 0: must not be 0 for the In operator",
			"spec.podFailurePolicy.rules[0].onExitCodes.values[2]: Duplicate value: 3",
			"spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: [3,0,3]: must be ordered",
			`spec.podFailurePolicy.rules[1].action: Invalid value: "FailIndex": requires the backoffLimitPerIndex to be set`,
			"spec.podFailurePolicy.rules[1]: Invalid value: specifying one of OnExitCodes and OnPodConditions is required",
			`spec.template.spec.restartPolicy: Invalid value: "OnFailure": only "Never" is supported when podFailurePolicy is specified`,
		}},
		{"Job", aJob("successPolicy: {rules: []}, completionMode: Indexed, completions: 3", ""), []string{
			"spec.successPolicy.rules: Required value: at least one rules must be specified when the successPolicy is specified",
		}},
		{"Job", aJob("successPolicy: {rules: [{succeededIndexes: '0,2', succeededCount: 3}, {}, {succeededIndexes: 1-5}]}, completionMode: Indexed, completions: 3", ""), []string{
			"spec.successPolicy.rules[0].succeededCount: Invalid value: 3: must be less than or equal to 2 (the number of indexes in the specified succeededIndexes field)",
			"spec.successPolicy.rules[1]: Required value: at least one of succeededCount or succeededIndexes must be specified",
			`spec.successPolicy.rules[2].succeededIndexes: Invalid value: "1-5": error parsing succeededIndexes: too large index: "5"`,
		}},
		{"CronJob", aCronJob("timeZone: Europe/Berlin", ""), nil},
		{"CronJob", aCronJob("timeZone: ../secret, concurrencyPolicy: Queue, startingDeadlineSeconds: -1", "manualSelector: true, selector: {}"), []string{
			"spec.startingDeadlineSeconds: Invalid value: -1: must be greater than or equal to 0",
			`spec.timeZone: Invalid value: "../secret": unknown time zone ../secret`,
			`spec.concurrencyPolicy: Unsupported value: "Queue": supported values: "Allow", "Forbid", "Replace"`,
			"spec.jobTemplate.spec.selector: Invalid value: {}: `selector` will be auto-generated",
			`spec.jobTemplate.spec.manualSelector: Unsupported value: true: supported values: "nil", "false"`,
		}},
		{"CronJob", strings.Replace(aCronJob("", ""), "0 3 * * *", "TZ=UTC 0 3 * * *", 1), []string{
			`spec.schedule: Invalid value: "TZ=UTC 0 3 * * *": cannot use TZ or CRON_TZ in schedule, use timeZone field instead`,
		}},
	})
}

func TestSchedule(t *testing.T) {
	for schedule, want := range map[string]string{
		"* * * * *":              "",
		"*/5 0-23/2 1,15 * ?":    "",
		"0 3 * JAN-mar MON-Fri":  "",
		"@hourly":                "",
		"@every 1h30m":           "",
		"@sometimes":             "unrecognized descriptor: @sometimes",
		"@every day":             `failed to parse duration @every day: time: invalid duration "day"`,
		"* * *":                  "expected exactly 5 fields, found 3: [* * *]",
		"60 * * * *":             "end of range (60) above maximum (59): 60",
		"* * 0 * *":              "beginning of range (0) below minimum (1): 0",
		"* 9-3 * * *":            "beginning of range (9) beyond end of range (3): 9-3",
		"*/0 * * * *":            "step of range should be a positive number: */0",
		"1-2-3 * * * *":          "too many hyphens: 1-2-3",
		"1/2/3 * * * *":          "too many slashes: 1/2/3",
		"x * * * *":              `failed to parse int from x: strconv.Atoi: parsing "x": invalid syntax`,
		"* * * * 7":              "end of range (7) above maximum (6): 7",
		"99999999999999 * * * *": "end of range (99999999999999) above maximum (59): 99999999999999",
	} {
		got := ""
		if err := validateSchedule(schedule); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("validateSchedule(%q) says %q, want %q", schedule, got, want)
		}
	}
}

func TestUpdateWorkloads(t *testing.T) {
	const immutable = "field is immutable"
	suspended := aJob("suspend: true", "")
	checkUpdates(t, []updateTest{
		{"StatefulSet", aSet("", ""), aSet("replicas: 3, minReadySeconds: 5", "hostname: h"), nil},
		{"StatefulSet", aSet("", ""), aSet("serviceName: s, podManagementPolicy: Parallel", ""), []string{
			`spec.serviceName: Invalid value: "s": ` + immutable, `spec.podManagementPolicy: Invalid value: "Parallel": ` + immutable,
		}},
		{"DaemonSet", aSet("", ""), "{spec: {selector: {matchLabels: {app: b}}}}", []string{
			`spec.selector: Invalid value: {"matchLabels":{"app":"b"}}: ` + immutable,
		}},
		{"ControllerRevision", "{data: {a: b}}", "{data: {a: c}}", []string{`data: Invalid value: {"a":"c"}: ` + immutable}},
		{"Job", aJob("", ""), aJob("parallelism: 2, completions: 1, backoffLimit: 3", ""), nil},
		{"Job", aJob("", ""), aJob("completions: 2", "hostname: h"), []string{
			"spec.completions: Invalid value: 2: " + immutable, "spec.template: Invalid value: ",
		}},
		{"Job", aJob("completionMode: Indexed, completions: 2, parallelism: 2", ""), aJob("completionMode: Indexed, completions: 3, parallelism: 3", ""), nil},
		{"Job", aJob("completionMode: Indexed, completions: 2, parallelism: 2", ""), aJob("completionMode: Indexed, completions: 3, parallelism: 2", ""), []string{
			"spec.completions: Invalid value: 3: can only be modified in tandem with spec.parallelism",
		}},
		{"Job", suspended, aJob("", "nodeSelector: {disk: ssd}, affinity: {nodeAffinity: {}}"), nil},
		{"Job", suspended, strings.Replace(suspended, `image: "i:1"`, `image: "i:1", resources: {limits: {cpu: 1}}`, 1), nil},
		{"Job", suspended, aJob("", "hostname: h"), []string{"spec.template.spec: Invalid value: "}},
	})
}

// TestDaemonSetCountsItsTemplates holds that a new template, and only that, gets a new number.
func TestDaemonSetCountsItsTemplates(t *testing.T) {
	r := find(t, "DaemonSet")
	old := parse(t, r, strings.Replace(aSet("", ""), "name: s", `name: s, annotations: {deprecated.daemonset.template.generation: "4"}`, 1))
	for _, tc := range []struct{ given, want string }{
		{aSet("minReadySeconds: 3", ""), "4"}, {aSet("", "hostname: h"), "5"},
	} {
		now := parse(t, r, tc.given)
		r.PrepareUpdate(now, old)
		if !strings.Contains(format(t, now), `deprecated.daemonset.template.generation: "`+tc.want+`"`) {
			t.Errorf("given %s, want template generation %s, got\n%s", tc.given, tc.want, format(t, now))
		}
	}
}

func TestWorkloadRows(t *testing.T) {
	const containers = "containers: [{name: a, image: x}, {name: b, image: 'y:1'}]"
	const job = "{metadata: {name: j}, spec: {template: {spec: {" + containers + "}}, completions: 3}, status: {succeeded: 1"
	checkRows(t, []rowTest{
		{"StatefulSet", "{metadata: {name: s, creationTimestamp: AGO}, spec: {replicas: 3, template: {spec: {" + containers + "}}}, status: {readyReplicas: 2}}",
			"s|2/3|10h|a,b|x,y:1"},
		{"DaemonSet", "{metadata: {name: d}, spec: {selector: {matchLabels: {app: a}}, template: {spec: {nodeSelector: {disk: ssd}, " + containers +
			"}}}, status: {desiredNumberScheduled: 5, currentNumberScheduled: 4, numberReady: 3, updatedNumberScheduled: 2, numberAvailable: 1}}",
			"d|5|4|3|2|1|disk=ssd|<unknown>|a,b|x,y:1|app=a"},
		{"ControllerRevision", "{metadata: {name: r, ownerReferences: [{apiVersion: apps/v1, kind: StatefulSet, name: db, controller: true}]}, revision: 7}",
			"r|statefulset.apps/db|7|<unknown>"},
		{"ControllerRevision", "{metadata: {name: r}}", "r|<none>|0|<unknown>"},
		{"Job", job + "}}", "j|Running|1/3||<unknown>|a,b|x,y:1|<none>"},
		{"Job", job + ", startTime: AGO, conditions: [{type: Suspended, status: 'True'}]}}", "j|Suspended|1/3|10h|<unknown>|a,b|x,y:1|<none>"},
		{"Job", job + ", startTime: '2026-01-01T00:00:00Z', completionTime: '2026-01-01T00:00:09Z', conditions: [{type: SuccessCriteriaMet, status: 'True'}, {type: Complete, status: 'True'}]}}",
			"j|Complete|1/3|9s|<unknown>|a,b|x,y:1|<none>"},
		{"Job", "{metadata: {name: j}, spec: {parallelism: 4}}", "j|Running|0/1 of 4||<unknown>|||<none>"},
		{"CronJob", "{metadata: {name: c}, spec: {schedule: '@daily'}, status: {active: [{name: a}], lastScheduleTime: AGO}}",
			"c|@daily|<none>|False|1|10h|<unknown>|||<none>"},
		{"ReplicationController", "{metadata: {name: r}, spec: {replicas: 3, selector: {app: a}}, status: {replicas: 2, readyReplicas: 1}}",
			"r|3|2|1|<unknown>|||app=a"},
		{"PodTemplate", "{metadata: {name: t}, template: {metadata: {labels: {a: b}}, spec: {" + containers + "}}}", "t|a,b|x,y:1|a=b"},
		{"PodDisruptionBudget", "{metadata: {name: b}, spec: {minAvailable: 50%}, status: {disruptionsAllowed: 2}}", "b|50%|N/A|2|<unknown>"},
		{"PriorityClass", "{metadata: {name: p}, value: 7, globalDefault: true}", "p|7|true|<unknown>|PreemptLowerPriority"},
		{"RuntimeClass", "{metadata: {name: r}, handler: runsc}", "r|runsc|<unknown>"},
	})
}

func TestSystemPriorityClasses(t *testing.T) {
	r := find(t, "PriorityClass")
	for _, class := range SystemPriorityClasses() {
		r.Default(class)
		if errs := r.Validate(class); len(errs) > 0 {
			t.Errorf("the system's own class %s: %v", class.Name, errs)
		}
	}
	checkErrors(t, []errorTest{
		{"PriorityClass", "{metadata: {name: p}, value: 1000000000}", nil},
		{"PriorityClass", "{metadata: {name: p}, value: 1000000001, preemptionPolicy: Often}", []string{
			"value: Forbidden: maximum allowed value of a user defined priority is 1000000000",
			`preemptionPolicy: Unsupported value: "Often": supported values: "PreemptLowerPriority", "Never"`,
		}},
		{"PriorityClass", "{metadata: {name: system-mine}, value: 1}", []string{
			"metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: system-mine is not a known system priority class",
		}},
		{"PriorityClass", "{metadata: {name: system-node-critical}, value: 1}", []string{
			"metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: value of system-node-critical PriorityClass must be 2000001000",
		}},
	})
	checkUpdates(t, []updateTest{
		{"PriorityClass", "{value: 1, description: a}", "{value: 1, description: b, globalDefault: true}", nil},
		{"PriorityClass", "{value: 1}", "{value: 2, preemptionPolicy: Never}", []string{
			"value: Forbidden: may not be changed in an update.", `preemptionPolicy: Invalid value: "Never": field is immutable`,
		}},
	})
}

func TestAutoscalers(t *testing.T) {
	const target = "maxReplicas: 3, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: d}"
	const value = "metric: {name: m}, target: {type: Value, value: 5}"
	checkErrors(t, []errorTest{
		{"HorizontalPodAutoscaler", "{spec: {" + target + "}}", nil},
		{"HorizontalPodAutoscaler", "{spec: {minReplicas: 0, " + target + ", metrics: [{type: External, external: {" + value + "}}]}}", nil},
		{"HorizontalPodAutoscaler", "{spec: {minReplicas: 0, scaleTargetRef: {apiVersion: v1, kind: Pod}}}", []string{
			"spec.scaleTargetRef.name: Required value",
			`spec.scaleTargetRef.apiVersion: Invalid value: "v1": apiVersion must specify API group`,
			"spec.metrics: Forbidden: must specify at least one Object or External metric to support scaling to zero replicas",
			"spec.maxReplicas: Required value",
		}},
		{"HorizontalPodAutoscaler", "{spec: {minReplicas: 4, " + target + ", metrics: [{type: Pods, external: {" + value + "}}, {type: CPU, external: {" + value + "}}, " +
			"{type: Resource, resource: {name: cpu, target: {type: Percent, averageUtilization: 0, averageValue: 0}}}]}}", []string{
			"spec.maxReplicas: Invalid value: 3: must be greater than or equal to `minReplicas`",
			"spec.metrics[0].external: Forbidden: must populate the given metric source only",
			"spec.metrics[0].pods: Required value: must populate information for the given metric source",
			`spec.metrics[1].type: Unsupported value: "CPU": supported values: "ContainerResource", "External", "Object", "Pods", "Resource"`,
			`spec.metrics[2].resource.target.type: Invalid value: "Percent": must be either Utilization, Value, or AverageValue`,
			`spec.metrics[2].resource.target.averageValue: Invalid value: "0": must be positive`,
			"spec.metrics[2].resource.target.averageUtilization: Invalid value: 0: must be greater than 0",
			"spec.metrics[2].resource.target.averageValue: Forbidden: may not set both a target raw value and a target utilization",
		}},
		{"HorizontalPodAutoscaler", "{spec: {" + target + ", behavior: {scaleUp: {stabilizationWindowSeconds: 3601, selectPolicy: Best, policies: []}, " +
			"scaleDown: {tolerance: '-1', policies: [{type: Pod, value: 0, periodSeconds: 1801}]}}}}", []string{
			"spec.behavior.scaleUp.stabilizationWindowSeconds: Invalid value: 3601: must be less than or equal to 3600",
			`spec.behavior.scaleUp.selectPolicy: Unsupported value: "Best": supported values: "Disabled", "Max", "Min"`,
			"spec.behavior.scaleUp.policies: Required value: must specify at least one Policy",
			`spec.behavior.scaleDown.policies[0].type: Unsupported value: "Pod": supported values: "Percent", "Pods"`,
			"spec.behavior.scaleDown.policies[0].value: Invalid value: 0: must be greater than zero",
			"spec.behavior.scaleDown.policies[0].periodSeconds: Invalid value: 1801: must be less than or equal to 1800",
			`spec.behavior.scaleDown.tolerance: Invalid value: "-1": must be greater than or equal to 0`,
		}},
	})
	checkRows(t, []rowTest{
		{"HorizontalPodAutoscaler", "{metadata: {name: h}, spec: {" + target + "}, status: {currentReplicas: 2, currentMetrics: [{type: Resource, resource: {name: cpu, current: {averageUtilization: 12}}}]}}",
			"h|Deployment/d|cpu: 12%/80%|1|3|2|<unknown>"},
		{"HorizontalPodAutoscaler", "{metadata: {name: h}, spec: {" + target + ", metrics: [{type: External, external: {" + value + "}}, {type: Pods, pods: {target: {averageValue: 3}}}, {type: X}]}}",
			"h|Deployment/d|<unknown>/5, <unknown>/3 + 1 more...|1|3|0|<unknown>"},
		{"HorizontalPodAutoscaler", "{metadata: {name: h}, spec: {" + target + ", metrics: [{type: Object, object: {target: {averageValue: 3}}}, {type: ContainerResource, containerResource: {name: memory, target: {averageValue: 1Gi}}}]}, " +
			"status: {currentMetrics: [{type: Object, object: {current: {averageValue: 2}}}]}}",
			"h|Deployment/d|2/3 (avg), memory: <unknown>/1Gi|1|3|0|<unknown>"},
	})
}

func TestJobFields(t *testing.T) {
	r := find(t, "Job")
	got := r.Fields(parse(t, r, "{status: {succeeded: 2}}"))
	if diff := cmp.Diff("2", got["status.successful"]); diff != "" {
		t.Errorf("status.successful (-want +got):\n%s", diff)
	}
}
