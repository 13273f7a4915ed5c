package api

import (
	"fmt"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validateJobStatus holds the promises that a Job's status makes to those who wait for it: an end is final, and says when.
// https://kubernetes.io/docs/concepts/workloads/controllers/job/#terminal-job-conditions
func validateJobStatus(j, old *batchv1.Job) field.ErrorList {
	path, s := field.NewPath("status"), &j.Status
	if equality.Semantic.DeepEqual(s, &old.Status) {
		return nil
	}
	errs := nonNegatives(path, count{"active", int64(s.Active)}, count{"succeeded", int64(s.Succeeded)}, count{"failed", int64(s.Failed)},
		count{"ready", int64(deref(s.Ready))}, count{"terminating", int64(deref(s.Terminating))})
	errs = append(errs, validateUncounted(path.Child("uncountedTerminatedPods"), s.UncountedTerminatedPods)...)
	errs = append(errs, validateJobConditions(path.Child("conditions"), s, &old.Status)...)
	errs = append(errs, validateJobTimes(path, s)...)
	if jobIs(s, batchv1.JobComplete) || jobIs(s, batchv1.JobFailed) {
		errs = append(errs, validateFinishedJob(path, s)...)
	}
	if s.Ready != nil && *s.Ready > s.Active {
		errs = append(errs, field.Invalid(path.Child("ready"), *s.Ready, "cannot set more ready pods than active"))
	}
	if s.Failed < old.Status.Failed {
		errs = append(errs, field.Invalid(path.Child("failed"), s.Failed, "cannot decrease the failed counter"))
	}
	return errs
}

func jobIs(s *batchv1.JobStatus, kind batchv1.JobConditionType) bool {
	for _, c := range s.Conditions {
		if c.Type == kind {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func validateUncounted(path *field.Path, u *batchv1.UncountedTerminatedPods) field.ErrorList {
	if u == nil {
		return nil
	}
	var errs field.ErrorList
	seen := map[types.UID]bool{}
	for _, list := range []struct {
		name string
		uids []types.UID
	}{{"succeeded", u.Succeeded}, {"failed", u.Failed}} {
		for i, uid := range list.uids {
			at := path.Child(list.name).Index(i)
			if uid == "" {
				errs = append(errs, field.Invalid(at, uid, "must not be empty"))
			} else if seen[uid] {
				errs = append(errs, field.Duplicate(at, uid))
			}
			seen[uid] = true
		}
	}
	return errs
}

func validateJobConditions(path *field.Path, s, old *batchv1.JobStatus) field.ErrorList {
	var errs field.ErrorList
	wrong := func(text string) { errs = append(errs, field.Invalid(path, field.OmitValueType{}, text)) }
	complete, failed := jobIs(s, batchv1.JobComplete), jobIs(s, batchv1.JobFailed)
	if complete && failed {
		wrong("cannot set Complete=True and Failed=true conditions")
	}
	if complete && jobIs(s, batchv1.JobFailureTarget) {
		wrong("cannot set Complete=True and FailureTarget=true conditions")
	}
	if failed && !jobIs(s, batchv1.JobFailureTarget) {
		wrong("cannot set Failed=True condition without the FailureTarget=true condition")
	}
	if complete && !jobIs(s, batchv1.JobSuccessCriteriaMet) {
		wrong("cannot set Complete=True condition without the SuccessCriteriaMet=true condition")
	}
	for _, kind := range []batchv1.JobConditionType{batchv1.JobFailed, batchv1.JobComplete, batchv1.JobFailureTarget, batchv1.JobSuccessCriteriaMet} {
		if jobIs(old, kind) && !jobIs(s, kind) {
			wrong(fmt.Sprintf("cannot disable the terminal %s=True condition", kind))
		}
	}
	return errs
}

func validateJobTimes(path *field.Path, s *batchv1.JobStatus) field.ErrorList {
	var errs field.ErrorList
	at, complete := path.Child("completionTime"), jobIs(s, batchv1.JobComplete)
	switch {
	case s.CompletionTime != nil && !complete:
		errs = append(errs, field.Invalid(at, s.CompletionTime, "cannot set completionTime when there is no Complete=True condition"))
	case s.CompletionTime == nil && complete:
		errs = append(errs, field.Required(at, "completionTime is required for Complete jobs"))
	}
	if s.StartTime != nil && s.CompletionTime != nil && s.CompletionTime.Before(s.StartTime) {
		errs = append(errs, field.Invalid(at, s.CompletionTime, "completionTime cannot be set before startTime"))
	}
	return errs
}

func validateFinishedJob(path *field.Path, s *batchv1.JobStatus) field.ErrorList {
	var errs field.ErrorList
	if s.Active > 0 {
		errs = append(errs, field.Invalid(path.Child("active"), s.Active, "active>0 is invalid for finished job"))
	}
	if s.StartTime == nil {
		errs = append(errs, field.Required(path.Child("startTime"), "startTime is required for finished job"))
	}
	if n := deref(s.Terminating); n > 0 {
		errs = append(errs, field.Invalid(path.Child("terminating"), n, "terminating>0 is invalid for finished job"))
	}
	if u := s.UncountedTerminatedPods; u != nil && len(u.Succeeded)+len(u.Failed) > 0 {
		errs = append(errs, field.Invalid(path.Child("uncountedTerminatedPods"), u, "uncountedTerminatedPods needs to be empty for finished job"))
	}
	return errs
}
