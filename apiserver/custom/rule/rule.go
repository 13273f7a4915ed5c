// Package rule judges custom resources by the validation rules of their schemas (x-kubernetes-validations), which are written
// in CEL, the Common Expression Language.
// https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#validation-rules
//
// A schema says what type each expression's self has: types.go makes CEL types of schemas, value.go CEL values of objects,
// compile.go programs of rules, and eval.go walks an object and runs them. What a rule could cost at worst is estimated when its
// definition is written (estimate.go, from the sizes in shape.go), and one that is too dear is refused. What an evaluation does
// cost is counted and bounded, each rule's by itself and those of an object together, by Kubernetes' own limits; the clock is a
// second bound.
//
// Functions that neither CEL nor this package knows make a rule wrong when its definition is written: no rule is passed over.
//
// In Kubernetes: apiextensions-apiserver's pkg/apiserver/schema/cel, with the function libraries of
// k8s.io/apiserver/pkg/cel/library.
package rule

import (
	"fmt"
	"sync"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/checker"
	"github.com/google/cel-go/ext"
	"github.com/google/cel-go/interpreter"
)

// Kubernetes' limits of what evaluations may cost, in CEL's units of cost.
const (
	perRule   = 1000000
	perObject = 10000000
)

// checkEvery is how many steps of a comprehension may pass before the clock is looked at.
const checkEvery = 100

// base is CEL as Kubernetes speaks it, without variables. It takes some megabytes, so it is made for the first rule.
var base = sync.OnceValues(func() (*cel.Env, error) {
	env, err := cel.NewEnv(
		cel.HomogeneousAggregateLiterals(),
		cel.EagerlyValidateDeclarations(true),
		cel.DefaultUTCTimeZone(true),
		cel.CrossTypeNumericComparisons(true),
		cel.OptionalTypes(),
		cel.ASTValidators(
			cel.ValidateDurationLiterals(), cel.ValidateTimestampLiterals(), cel.ValidateRegexLiterals(), cel.ValidateHomogeneousAggregateLiterals(),
		),
		cel.CostEstimatorOptions(checker.PresenceTestHasCost(false)),
		ext.Strings(ext.StringsVersion(2)),
		ext.Sets(),
		ext.Lists(ext.ListsVersion(3)),
		ext.TwoVarComprehensions(),
		cel.Lib(functions{}),
	)
	if err != nil {
		return nil, fmt.Errorf("make the CEL environment: %w", err)
	}
	return env, nil
})

// bounds make a program count what it does.
func bounds() []cel.ProgramOption {
	return []cel.ProgramOption{
		cel.EvalOptions(cel.OptOptimize, cel.OptTrackCost),
		cel.CostTrackerOptions(interpreter.PresenceTestHasCost(false)),
		cel.CostTracking(costs{}),
		cel.CostLimit(perRule),
		cel.InterruptCheckFrequency(checkEvery),
	}
}
