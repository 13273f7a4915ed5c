package agent

import (
	"encoding/base64"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
)

func TestLoginsFor(t *testing.T) {
	auth := base64.StdEncoding.EncodeToString([]byte("ann:p:w"))
	file := func(key, content string) *v1.Secret { return &v1.Secret{Data: map[string][]byte{key: []byte(content)}} }
	secrets := []*v1.Secret{
		file(v1.DockerConfigJsonKey, `{"auths": {"https://index.docker.io/v1/": {"auth": "`+auth+`"}, "registry.example": {"username": "all", "password": "1"},
			"registry.example/team": {"username": "team", "password": "2"}, "*.lab.example:5000": {"identitytoken": "tok"}}}`),
		file(v1.DockerConfigKey, `{"old.example": {"username": "old", "password": "3"}}`),
		file(v1.DockerConfigJsonKey, `no JSON`),
		file("other", `{}`),
	}
	for image, want := range map[string][]Login{
		"nginx":                          {{"ann", "p:w"}},
		"docker.io/me/app:1":             {{"ann", "p:w"}},
		"registry.example/app":           {{"all", "1"}},
		"registry.example/team/app:v1":   {{"team", "2"}, {"all", "1"}},
		"a.lab.example:5000/x":           {{"", "tok"}},
		"a.b.lab.example:5000/x":         nil,
		"a.lab.example/x":                nil,
		"old.example/x":                  {{"old", "3"}},
		"registry.example.evil.test/app": nil,
		"NOT a name":                     nil,
	} {
		if diff := cmp.Diff(want, loginsFor(image, secrets)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", image, diff)
		}
	}
}
