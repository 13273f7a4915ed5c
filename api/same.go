package api

import (
	"reflect"

	"k8s.io/apimachinery/pkg/api/equality"
)

// Same tells whether two values of one type mean the same: an empty list is none, and 1000m is 1. Most that are compared do
// not differ at all, and that is found out in a tenth of the time.
func Same[T any](a, b T) bool {
	return reflect.DeepEqual(a, b) || equality.Semantic.DeepEqual(a, b)
}
