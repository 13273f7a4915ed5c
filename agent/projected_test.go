package agent

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
)

func TestTokenDue(t *testing.T) {
	expires := time.Date(2026, 1, 8, 0, 0, 0, 0, time.UTC)
	for _, tc := range []struct{ life, left time.Duration }{
		{time.Hour, 12 * time.Minute},
		{30 * time.Hour, 6 * time.Hour},
		{7 * 24 * time.Hour, 6 * 24 * time.Hour},
	} {
		if got := expires.Sub(tokenDue(expires, tc.life)); got != tc.left {
			t.Errorf("a token of %s is renewed when %s are left, want %s", tc.life, got, tc.left)
		}
	}
}

// A token belongs to the user of all containers, where they are of one mind; the pod's fsGroup may read it too.
func TestTokenFiles(t *testing.T) {
	user := func(id int64) *v1.SecurityContext { return &v1.SecurityContext{RunAsUser: &id} }
	id := func(id int64) *int64 { return &id }
	for _, tc := range []struct {
		name  string
		pod   v1.PodSpec
		owner *int64
		mode  string
	}{
		{"of anybody", v1.PodSpec{Containers: []v1.Container{{}}}, nil, "-rw-r--r--"},
		{"of the pod's user", v1.PodSpec{SecurityContext: &v1.PodSecurityContext{RunAsUser: id(7)}, Containers: []v1.Container{{}}}, id(7), "-rw-------"},
		{"of the containers' user", v1.PodSpec{InitContainers: []v1.Container{{SecurityContext: user(8)}}, Containers: []v1.Container{{SecurityContext: user(8)}}}, id(8), "-rw-------"},
		{"of several", v1.PodSpec{Containers: []v1.Container{{SecurityContext: user(8)}, {SecurityContext: user(9)}}}, nil, "-rw-r--r--"},
		{"of one and anybody", v1.PodSpec{Containers: []v1.Container{{SecurityContext: user(8)}, {}}}, nil, "-rw-r--r--"},
		{"of a group", v1.PodSpec{SecurityContext: &v1.PodSecurityContext{FSGroup: id(7)}, Containers: []v1.Container{{}}}, nil, "-rw-------"},
	} {
		files, err := tokenFiles(t.Context(), &v1.Pod{Spec: tc.pod}, &v1.ServiceAccountTokenProjection{Path: "token", Audience: "vault"}, nil, objects{})
		if err != nil {
			t.Fatal(err)
		}
		f := files["token"]
		if diff := cmp.Diff(tc.owner, f.owner); diff != "" || f.mode.String() != tc.mode || string(f.content) != "for vault" {
			t.Errorf("a token %s: mode %s, %q, want mode %s; owner (-want +got):\n%s", tc.name, f.mode, f.content, tc.mode, diff)
		}
	}
}
