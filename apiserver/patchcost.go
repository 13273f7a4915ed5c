package apiserver

import (
	"encoding/json"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Patches cost more than their length says. A strategic merge looks for each object of a list among all those of the list
// that is there; an operation of a JSON patch copies the list that it changes. The bounds are what takes about a second.
const (
	maxMerges = 4_000_000   // Comparisons of one object of a list with another: 2000 with 2000.
	maxCopies = 200_000_000 // Elements of lists copied: 10,000 operations on 10,000 elements, and as many more.
	smallest  = 32 << 10    // Bytes of patch and object below which no patch comes near them.
)

// boundMerge refuses a strategic merge patch that would compare too much.
func boundMerge(before, patch []byte) error {
	if len(before)+len(patch) < smallest {
		return nil
	}
	longest, cost := 0, 0
	eachList(before, func(_, objects int) { longest = max(longest, objects) })
	eachList(patch, func(_, objects int) { cost += objects * (objects + longest) })
	if cost > maxMerges {
		return apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("The lists of a strategic merge patch have too many objects to merge: %d comparisons, the allowed maximum is %d", cost, maxMerges))
	}
	return nil
}

// boundOperations refuses a JSON patch that would copy too much.
func boundOperations(before, patch []byte, operations int) error {
	if len(before)+len(patch) < smallest {
		return nil
	}
	longest := 0
	count := func(length, _ int) { longest = max(longest, length) }
	eachList(before, count)
	eachList(patch, count)
	if cost := operations * (longest + operations); cost > maxCopies {
		return apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("The operations of a JSON patch would copy too long lists: %d elements, the allowed maximum is %d", cost, maxCopies))
	}
	return nil
}

// eachList tells of each list in a JSON document how long it is and how many of its elements are objects. Of what is no
// JSON it tells nothing: whoever uses it says so.
func eachList(document []byte, tell func(length, objects int)) {
	var tree any
	if json.Unmarshal(document, &tree) != nil {
		return
	}
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for _, member := range v {
				walk(member)
			}
		case []any:
			objects := 0
			for _, element := range v {
				if _, ok := element.(map[string]any); ok {
					objects++
				}
				walk(element)
			}
			tell(len(v), objects)
		}
	}
	walk(tree)
}
