package apiserver

import (
	"fmt"
	"reflect"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// maxMembers is how many members a list or map of an object may have. Server-side apply and the record of who owns a field
// sort each into its place among its siblings, one after the other: 50,000 take about a second, 100,000 five.
const maxMembers = 50_000

// boundMembers refuses an object that has more of them. A body that is too short for so many is not looked into.
func boundMembers(body []byte, obj any) error {
	const shortest = 3 // Bytes of a member: in protobuf a tag, a length, and one of data.
	if len(body) < shortest*maxMembers {
		return nil
	}
	if most := mostMembers(reflect.ValueOf(obj)); most > maxMembers {
		return apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("a list or map has %d members, limit is %d", most, maxMembers))
	}
	return nil
}

// mostMembers is the length of the longest list or map within v. Bytes are no list.
func mostMembers(v reflect.Value) (most int) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			most = mostMembers(v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() { // The others are of times and quantities.
				most = max(most, mostMembers(v.Field(i)))
			}
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return 0
		}
		most = v.Len()
		for i := range v.Len() {
			most = max(most, mostMembers(v.Index(i)))
		}
	case reflect.Map:
		most = v.Len()
		for _, key := range v.MapKeys() {
			most = max(most, mostMembers(v.MapIndex(key)))
		}
	}
	return most
}
