package api

import (
	"fmt"
	"math"
	"strconv"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/duration"
)

func job() *Resource {
	return row(Resource{
		Group: "batch", Version: "v1", Name: "jobs", Singular: "job", Kind: "Job", Idle: true, Categories: []string{"all"},
		Namespaced: true, Orphans: true,
		OrphansWarning: "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning",
		Verbs:          allVerbs(),
		Subs:           []Sub{statusSub("Job")},
		Gated:          append(gatedInPods("spec.template.spec"), "spec.scheduling"),
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Status", "string", "What has become of the job, in one word."),
			column("Completions", "string", batchv1.JobStatus{}.SwaggerDoc()["succeeded"]),
			column("Duration", "string", "How long the job took, or has been running."),
			ageColumn(),
			wide("Containers", "string", "The names of the template's containers."),
			wide("Images", "string", "The images of the template's containers."),
			wide("Selector", "string", batchv1.JobSpec{}.SwaggerDoc()["selector"]),
		},
	}, rules[batchv1.Job]{
		ValidateStatus: validateJobStatus,
		Default:        defaultJob,
		PrepareCreate:  prepareJob,
		Validate:       validateJob,
		ValidateUpdate: validateJobUpdate,
		Fields: func(j *batchv1.Job) fields.Set {
			return fields.Set{"status.successful": strconv.Itoa(int(j.Status.Succeeded))}
		},
		Wanted: func(j *batchv1.Job) any { return &j.Spec },
		Row:    printJob,
	})
}

func defaultJob(j *batchv1.Job) {
	labelJob(j)
	defaultJobTemplate(&j.Spec)
	s := &j.Spec
	if s.Parallelism == nil {
		setDefaultPtr(&s.Completions, 1)
		setDefaultPtr(&s.Parallelism, 1)
	}
	if s.BackoffLimitPerIndex != nil {
		setDefaultPtr(&s.BackoffLimit, math.MaxInt32)
	}
	setDefaultPtr(&s.BackoffLimit, 6)
	setDefaultPtr(&s.CompletionMode, batchv1.NonIndexedCompletion)
	setDefaultPtr(&s.Suspend, false)
	if s.PodFailurePolicy != nil {
		setDefaultPtr(&s.PodReplacementPolicy, batchv1.Failed)
	}
	setDefaultPtr(&s.PodReplacementPolicy, batchv1.TerminatingOrFailed)
	setDefaultPtr(&s.ManualSelector, false)
}

// defaultJobTemplate fills in what holds for Jobs and for the templates in CronJobs.
func defaultJobTemplate(s *batchv1.JobSpec) {
	defaultPodSpec(&s.Template.Spec)
	if s.PodFailurePolicy == nil {
		return
	}
	for i := range s.PodFailurePolicy.Rules {
		conditions := s.PodFailurePolicy.Rules[i].OnPodConditions
		for j := range conditions {
			setDefault(&conditions[j].Status, corev1.ConditionTrue)
		}
	}
}

// The labels by which a Job knows its pods, each in the form that it had before it had a domain, too.
var (
	jobNameLabels = [...]string{batchv1.JobNameLabel, "job-name"}
	jobUIDLabels  = [...]string{batchv1.ControllerUidLabel, "controller-uid"}
)

// prepareJob makes the selector, unless the user wants to: no two Jobs have the same uid, so none finds another's pods.
// Where the user gave these labels other values, validation says so.
func prepareJob(j *batchv1.Job) {
	if !deref(j.Spec.ManualSelector) {
		template := &j.Spec.Template
		for _, label := range jobNameLabels {
			addLabel(&template.Labels, label, j.Name)
		}
		for _, label := range jobUIDLabels {
			addLabel(&template.Labels, label, string(j.UID))
		}
		setDefaultPtr(&j.Spec.Selector, metav1.LabelSelector{})
		addLabel(&j.Spec.Selector.MatchLabels, batchv1.ControllerUidLabel, string(j.UID))
	}
	labelJob(j)
}

// addLabel sets a label where there is none of that name.
func addLabel(labels *map[string]string, name, value string) {
	if *labels == nil {
		*labels = map[string]string{}
	}
	if _, ok := (*labels)[name]; !ok {
		(*labels)[name] = value
	}
}

// labelJob gives a Job without labels those of its pods: the same map, so that both get what is added when the Job is made.
func labelJob(j *batchv1.Job) {
	if len(j.Labels) == 0 {
		j.Labels = j.Spec.Template.Labels
	}
}

func printJob(j *batchv1.Job) []any {
	names, images := containersAndImages(&j.Spec.Template)
	completions := fmt.Sprintf("%d/1", j.Status.Succeeded)
	if wanted := j.Spec.Completions; wanted != nil {
		completions = fmt.Sprintf("%d/%d", j.Status.Succeeded, *wanted)
	} else if parallelism := deref(j.Spec.Parallelism); parallelism > 1 {
		completions += fmt.Sprintf(" of %d", parallelism)
	}
	took := ""
	if start, end := j.Status.StartTime, j.Status.CompletionTime; start != nil {
		until := time.Now()
		if end != nil {
			until = end.Time
		}
		took = duration.HumanDuration(until.Sub(start.Time))
	}
	return []any{
		j.Name, jobStatus(j), completions, took, age(j.CreationTimestamp.Time),
		names, images, metav1.FormatLabelSelector(j.Spec.Selector),
	}
}

// jobStatus is the weightiest of a Job's conditions.
func jobStatus(j *batchv1.Job) string {
	has := func(kind batchv1.JobConditionType) bool {
		for _, c := range j.Status.Conditions {
			if c.Type == kind {
				return c.Status == corev1.ConditionTrue
			}
		}
		return false
	}
	for _, kind := range []batchv1.JobConditionType{batchv1.JobComplete, batchv1.JobFailed} {
		if has(kind) {
			return string(kind)
		}
	}
	if j.DeletionTimestamp != nil {
		return "Terminating"
	}
	for _, kind := range []batchv1.JobConditionType{batchv1.JobSuspended, batchv1.JobFailureTarget, batchv1.JobSuccessCriteriaMet} {
		if has(kind) {
			return string(kind)
		}
	}
	return "Running"
}
