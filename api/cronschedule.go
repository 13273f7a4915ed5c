package api

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// cronField is one of the five fields of a schedule: its least and greatest number, and the names that numbers have.
type cronField struct {
	least, greatest int
	names           []string // The first stands for least.
}

// cronFields are the fields in their order: minute, hour, day of the month, month, day of the week.
func cronFields() []cronField {
	return []cronField{
		{0, 59, nil},
		{0, 23, nil},
		{1, 31, nil},
		{1, 12, []string{"jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"}},
		{0, 6, []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}},
	}
}

// validateSchedule checks a schedule in cron's notation, in the words of the library that Kubernetes reads it with.
// https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/#schedule-syntax
func validateSchedule(schedule string) error {
	if _, zoned := strings.CutPrefix(strings.TrimPrefix(schedule, "CRON_"), "TZ="); zoned {
		return nil // Refused for that alone; what comes after is looked at when it is gone.
	}
	if strings.HasPrefix(schedule, "@") {
		return validateNamedSchedule(schedule)
	}
	limits, parts := cronFields(), strings.Fields(schedule)
	if len(parts) != len(limits) {
		return fmt.Errorf("expected exactly %d fields, found %d: %s", len(limits), len(parts), parts)
	}
	for i, part := range parts {
		for expr := range strings.SplitSeq(part, ",") {
			if expr == "" {
				continue
			}
			if err := limits[i].check(expr); err != nil {
				return err
			}
		}
	}
	return nil
}

func validateNamedSchedule(schedule string) error {
	switch schedule {
	case "@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly":
		return nil
	}
	every, ok := strings.CutPrefix(schedule, "@every ")
	if !ok {
		return fmt.Errorf("unrecognized descriptor: %s", schedule)
	}
	if _, err := time.ParseDuration(every); err != nil {
		return fmt.Errorf("failed to parse duration %s: %w", schedule, err)
	}
	return nil
}

// check reads "*", "3", "3-7", each perhaps with a step: "*/5", "3/5" (from 3 on), "3-7/2".
func (f cronField) check(expr string) error {
	parts := strings.Split(expr, "/")
	bounds := strings.Split(parts[0], "-")
	first, last, step := f.least, f.greatest, 1
	var err error
	if bounds[0] != "*" && bounds[0] != "?" {
		if first, err = f.number(bounds[0]); err != nil {
			return err
		}
		switch len(bounds) {
		case 1:
			last = first
		case 2:
			if last, err = f.number(bounds[1]); err != nil {
				return err
			}
		default:
			return fmt.Errorf("too many hyphens: %s", expr)
		}
	}
	switch len(parts) {
	case 1:
	case 2:
		if step, err = cronNumber(parts[1]); err != nil {
			return err
		}
		if len(bounds) == 1 {
			last = f.greatest
		}
	default:
		return fmt.Errorf("too many slashes: %s", expr)
	}
	switch {
	case first < f.least:
		return fmt.Errorf("beginning of range (%d) below minimum (%d): %s", first, f.least, expr)
	case last > f.greatest:
		return fmt.Errorf("end of range (%d) above maximum (%d): %s", last, f.greatest, expr)
	case first > last:
		return fmt.Errorf("beginning of range (%d) beyond end of range (%d): %s", first, last, expr)
	case step == 0:
		return fmt.Errorf("step of range should be a positive number: %s", expr)
	}
	return nil
}

func (f cronField) number(text string) (int, error) {
	if i := slices.Index(f.names, strings.ToLower(text)); i >= 0 {
		return f.least + i, nil
	}
	return cronNumber(text)
}

func cronNumber(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("failed to parse int from %s: %w", text, err)
	}
	if n < 0 {
		return 0, fmt.Errorf("negative number (%d) not allowed: %s", n, text)
	}
	return n, nil
}
