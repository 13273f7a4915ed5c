package api

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func aMirror(of, spec string) string {
	return "{metadata: {name: p, annotations: {kubernetes.io/config.mirror: " + of + "}}, spec: {containers: [{name: c, image: i}]" + more(spec) + "}}"
}

// A mirror is one from the beginning, on a node.
func TestMirrorIsCreatedOnANode(t *testing.T) {
	const why = `annotations[kubernetes.io/config.mirror]: Invalid value: "x": must set spec.nodeName if mirror pod annotation is set`
	checkErrors(t, []errorTest{
		{"Pod", aMirror("x", "nodeName: n1"), nil},
		{"Pod", aMirror("x", ""), []string{"metadata." + why}},
		{"ReplicaSet", "{metadata: {name: r}, spec: {selector: {matchLabels: {app: a}}, template: {metadata: {labels: {app: a}, annotations: {kubernetes.io/config.mirror: x}}, " +
			"spec: {containers: [{name: c, image: i}]}}}}", []string{"spec.template." + why}},
	})
}

// No way of writing a pod makes one a mirror, or of a mirror another pod.
func TestMirrorStaysWhatItIs(t *testing.T) {
	const at = "metadata.annotations[kubernetes.io/config.mirror]: Forbidden: "
	const added, changed = at + "may not add mirror pod annotation", at + "may not remove or update mirror pod annotation"
	plain, mirror, other := aPod("nodeName: n1", ""), aMirror("x", "nodeName: n1"), aMirror("y", "nodeName: n1")
	r := find(t, "Pod")
	for _, tc := range []struct {
		old, given string
		want       []string
	}{
		{mirror, mirror, nil}, {plain, plain, nil},
		{plain, mirror, []string{added}}, {mirror, plain, []string{changed}}, {mirror, other, []string{changed}},
	} {
		old, now := parse(t, r, tc.old), parse(t, r, tc.given)
		if diff := cmp.Diff(tc.want, texts(r.ValidateUpdate(now, old))); diff != "" {
			t.Errorf("update of %s to %s (-want +got):\n%s", tc.old, tc.given, diff)
		}
		for _, name := range []string{"status", "binding"} {
			sub, _ := r.Sub(name)
			if diff := cmp.Diff(tc.want, texts(sub.Validate(now, old))); diff != "" {
				t.Errorf("%s of %s to %s (-want +got):\n%s", name, tc.old, tc.given, diff)
			}
		}
		for _, name := range []string{"ephemeralcontainers", "resize"} {
			sub, _ := r.Sub(name)
			kept := now.DeepCopyObject()
			sub.Prepare(kept, old)
			if diff := cmp.Diff(format(t, old), format(t, kept)); diff != "" {
				t.Errorf("%s of %s to %s changes the pod (-want +got):\n%s", name, tc.old, tc.given, diff)
			}
		}
	}
}
