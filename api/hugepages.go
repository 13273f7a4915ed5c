package api

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func isHugePages(name corev1.ResourceName) bool {
	return strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}

// HugePageSize is how many bytes a page has that the name of a resource speaks of: hugepages-2Mi.
func HugePageSize(name corev1.ResourceName) (bytes int64, ok bool) {
	text, ok := strings.CutPrefix(string(name), corev1.ResourceHugePagesPrefix)
	if !ok {
		return 0, false
	}
	size, err := resource.ParseQuantity(text)
	if err != nil || size.Sign() <= 0 || size.MilliValue()%1000 != 0 {
		return 0, false
	}
	return size.Value(), true
}

// HugePagesMedium is the resource that an emptyDir's medium takes from, HugePages-2Mi: hugepages-2Mi. That of HugePages is the
// one that the pod requests.
func HugePagesMedium(medium corev1.StorageMedium) (name corev1.ResourceName, ok bool) {
	if medium == corev1.StorageMediumHugePages {
		return "", true
	}
	size, ok := strings.CutPrefix(string(medium), string(corev1.StorageMediumHugePagesPrefix))
	return corev1.ResourceName(corev1.ResourceHugePagesPrefix + size), ok
}
