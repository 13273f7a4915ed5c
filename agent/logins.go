package agent

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/distribution/reference"
	v1 "k8s.io/api/core/v1"
)

// dockerHub is the registry of names without one; docker's own files call it by other names.
const dockerHub = "docker.io"

// dockerLogin is one entry of docker's configuration file.
type dockerLogin struct {
	Username      string `json:"username"`
	Password      string `json:"password"`
	Auth          string `json:"auth"` // base64 of "username:password".
	IdentityToken string `json:"identitytoken"`
}

// logins are what the pod's imagePullSecrets have for an image's registry. A secret that is not there is told in an Event: the
// registry may let everybody in.
func (a *Agent) logins(ctx context.Context, pod *v1.Pod, image string) []Login {
	var secrets []*v1.Secret
	var missing []string
	for _, ref := range pod.Spec.ImagePullSecrets {
		secret, err := a.sources.secret(ctx, pod, ref.Name)
		if err != nil {
			missing = append(missing, ref.Name)
			continue
		}
		secrets = append(secrets, secret)
	}
	if len(missing) > 0 {
		a.events.Event(pod, v1.EventTypeWarning, "FailedToRetrieveImagePullSecret",
			fmt.Sprintf("Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", strings.Join(missing, ", ")))
	}
	return loginsFor(image, secrets)
}

// loginsFor picks the logins that are meant for an image, those that say most of its name first.
func loginsFor(image string, secrets []*v1.Secret) []Login {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return nil
	}
	type match struct {
		key   string
		login Login
	}
	var found []match
	for _, secret := range secrets {
		for key, entry := range dockerLogins(secret) {
			key = registryKey(key)
			if login, ok := entry.login(); ok && matchesRegistry(key, named.Name()) {
				found = append(found, match{key, login})
			}
		}
	}
	slices.SortStableFunc(found, func(a, b match) int {
		return cmp.Or(len(b.key)-len(a.key), strings.Compare(a.key, b.key))
	})
	var logins []Login
	for _, m := range found {
		if !slices.Contains(logins, m.login) {
			logins = append(logins, m.login)
		}
	}
	return logins
}

// dockerLogins reads a secret of either kind that docker's clients write. What is no such file has no logins.
func dockerLogins(secret *v1.Secret) map[string]dockerLogin {
	var file struct {
		Auths map[string]dockerLogin `json:"auths"`
	}
	if content, ok := secret.Data[v1.DockerConfigJsonKey]; ok {
		if json.Unmarshal(content, &file) != nil {
			return nil
		}
	} else if content, ok := secret.Data[v1.DockerConfigKey]; ok {
		if json.Unmarshal(content, &file.Auths) != nil {
			return nil
		}
	}
	return file.Auths
}

func (d dockerLogin) login() (Login, bool) {
	l := Login{d.Username, d.Password}
	if d.Auth != "" {
		plain, err := base64.StdEncoding.DecodeString(d.Auth)
		if err != nil {
			return Login{}, false
		}
		if user, password, ok := strings.Cut(string(plain), ":"); ok {
			l = Login{user, strings.TrimRight(password, "\x00")}
		}
	}
	if d.IdentityToken != "" {
		l = Login{Password: d.IdentityToken}
	}
	return l, l != Login{}
}

// registryKey is a key of docker's file without scheme and API version: "index.docker.io/v1/" is a registry, not a path.
func registryKey(key string) string {
	key = strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://")
	key = strings.TrimRight(key, "/")
	host, rest, _ := strings.Cut(key, "/")
	if rest == "v1" || rest == "v2" {
		rest = ""
	}
	if host == "index."+dockerHub || host == "registry-1."+dockerHub {
		host = dockerHub
	}
	return strings.TrimRight(host+"/"+rest, "/")
}

// matchesRegistry says whether a key is meant for a repository. Each part of its host may have wildcards, its path is a prefix.
func matchesRegistry(key, repository string) bool {
	keyHost, keyPath, _ := strings.Cut(key, "/")
	host, rest, _ := strings.Cut(repository, "/")
	patterns, parts := strings.Split(keyHost, "."), strings.Split(host, ".")
	if len(patterns) != len(parts) || !strings.HasPrefix(rest, keyPath) {
		return false
	}
	for i, pattern := range patterns {
		if ok, err := path.Match(pattern, parts[i]); err != nil || !ok {
			return false
		}
	}
	return true
}
