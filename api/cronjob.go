package api

import (
	"regexp"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func cronJob() *Resource {
	spec, status := batchv1.CronJobSpec{}.SwaggerDoc(), batchv1.CronJobStatus{}.SwaggerDoc()
	return row(Resource{
		Group: "batch", Version: "v1", Name: "cronjobs", Singular: "cronjob", Kind: "CronJob", Idle: true, ShortNames: []string{"cj"},
		Categories: []string{"all"}, Namespaced: true,
		Verbs: allVerbs(),
		Subs:  []Sub{statusSub("CronJob")},
		Gated: append(gatedInPods("spec.jobTemplate.spec.template.spec"), "spec.jobTemplate.spec.scheduling"),
		Columns: []metav1.TableColumnDefinition{
			nameColumn(),
			column("Schedule", "string", spec["schedule"]),
			column("Timezone", "string", spec["timeZone"]),
			column("Suspend", "boolean", spec["suspend"]),
			column("Active", "integer", status["active"]),
			column("Last Schedule", "string", status["lastScheduleTime"]),
			ageColumn(),
			wide("Containers", "string", "The names of the template's containers."),
			wide("Images", "string", "The images of the template's containers."),
			wide("Selector", "string", batchv1.JobSpec{}.SwaggerDoc()["selector"]),
		},
	}, rules[batchv1.CronJob]{
		Default: func(c *batchv1.CronJob) {
			defaultJobTemplate(&c.Spec.JobTemplate.Spec)
			setDefault(&c.Spec.ConcurrencyPolicy, batchv1.AllowConcurrent)
			setDefaultPtr(&c.Spec.Suspend, false)
			setDefaultPtr(&c.Spec.SuccessfulJobsHistoryLimit, 3)
			setDefaultPtr(&c.Spec.FailedJobsHistoryLimit, 1)
		},
		Validate: validateCronJob,
		Wanted:   func(c *batchv1.CronJob) any { return &c.Spec },
		Row: func(c *batchv1.CronJob) []any {
			names, images := containersAndImages(&c.Spec.JobTemplate.Spec.Template)
			last, zone := "<none>", "<none>"
			if t := c.Status.LastScheduleTime; t != nil {
				last = age(t.Time)
			}
			if c.Spec.TimeZone != nil {
				zone = *c.Spec.TimeZone
			}
			return []any{
				c.Name, c.Spec.Schedule, zone, printBool(c.Spec.Suspend), int64(len(c.Status.Active)), last,
				age(c.CreationTimestamp.Time), names, images, metav1.FormatLabelSelector(c.Spec.JobTemplate.Spec.Selector),
			}
		},
	})
}

// printBool is "True", "False", or "<unset>".
func printBool(b *bool) string {
	switch {
	case b == nil:
		return "<unset>"
	case *b:
		return "True"
	}
	return "False"
}

func validateCronJob(c *batchv1.CronJob) field.ErrorList {
	const maxName = 52 // A Job's name is the CronJob's and eleven characters of time.
	path, s := field.NewPath("spec"), &c.Spec
	at := path.Child("schedule")
	errs := required(at, s.Schedule)
	if s.Schedule != "" {
		if err := validateSchedule(s.Schedule); err != nil {
			errs = append(errs, field.Invalid(at, s.Schedule, err.Error()))
		}
		if strings.Contains(s.Schedule, "TZ") {
			errs = append(errs, field.Invalid(at, s.Schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"))
		}
	}
	errs = append(errs, nonNegative(path.Child("startingDeadlineSeconds"), deref(s.StartingDeadlineSeconds))...)
	errs = append(errs, validateTimeZone(path.Child("timeZone"), s.TimeZone)...)
	errs = append(errs, oneOf(path.Child("concurrencyPolicy"), s.ConcurrencyPolicy,
		batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent)...)
	job, jobAt := &s.JobTemplate.Spec, path.Child("jobTemplate", "spec")
	errs = append(errs, validateJobSpec(jobAt, job)...)
	if job.Selector != nil {
		errs = append(errs, field.Invalid(jobAt.Child("selector"), job.Selector, "`selector` will be auto-generated"))
	}
	if deref(job.ManualSelector) {
		errs = append(errs, field.NotSupported(jobAt.Child("manualSelector"), *job.ManualSelector, []string{"nil", "false"}))
	}
	errs = append(errs, nonNegative(path.Child("successfulJobsHistoryLimit"), deref(s.SuccessfulJobsHistoryLimit))...)
	errs = append(errs, nonNegative(path.Child("failedJobsHistoryLimit"), deref(s.FailedJobsHistoryLimit))...)
	if len(c.Name) > maxName {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), c.Name, "must be no more than 52 characters"))
	}
	return errs
}

var zonePart = regexp.MustCompile(`^[A-Za-z\.\-_0-9+]{1,14}$`)

// validateTimeZone wants a name of the IANA time zone database. The name is a path in a directory of files, so it is
// looked at before it is looked up.
func validateTimeZone(path *field.Path, zone *string) field.ErrorList {
	if zone == nil {
		return nil
	}
	if *zone == "" {
		return field.ErrorList{field.Invalid(path, zone, "timeZone must be nil or non-empty string")}
	}
	for part := range strings.SplitSeq(*zone, "/") {
		if part == "." || part == ".." || strings.HasPrefix(part, "-") || !zonePart.MatchString(part) {
			return field.ErrorList{field.Invalid(path, zone, "unknown time zone "+*zone)}
		}
	}
	var errs field.ErrorList
	if strings.EqualFold(*zone, "Local") {
		errs = append(errs, field.Invalid(path, zone,
			"timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"))
	}
	if _, err := time.LoadLocation(*zone); err != nil {
		errs = append(errs, field.Invalid(path, zone, err.Error()))
	}
	return errs
}
