package api

import (
	"encoding/json"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func secret() *Resource {
	doc := corev1.Secret{}.SwaggerDoc()
	return row(Resource{
		Version: "v1", Name: "secrets", Singular: "secret", Kind: "Secret", Namespaced: true,
		Verbs: allVerbs(),
		Columns: []metav1.TableColumnDefinition{
			nameColumn(), column("Type", "string", doc["type"]), column("Data", "string", doc["data"]), ageColumn(),
		},
	}, rules[corev1.Secret]{
		Default:        defaultSecret,
		Validate:       validateSecret,
		ValidateUpdate: validateSecretUpdate,
		Fields:         func(s *corev1.Secret) fields.Set { return fields.Set{"type": string(s.Type)} },
		Row: func(s *corev1.Secret) []any {
			return []any{s.Name, string(s.Type), int64(len(s.Data)), age(s.CreationTimestamp.Time)}
		},
	})
}

// defaultSecret also moves stringData, which is for writing only, into data.
func defaultSecret(s *corev1.Secret) {
	setDefault(&s.Type, corev1.SecretTypeOpaque)
	for key, value := range s.StringData {
		if s.Data == nil {
			s.Data = map[string][]byte{}
		}
		s.Data[key] = []byte(value)
	}
	s.StringData = nil
	fillBytes(s.Data)
}

// fillBytes makes null in JSON an empty value, which clients can decode.
func fillBytes(data map[string][]byte) {
	for key, value := range data {
		if value == nil {
			data[key] = []byte{}
		}
	}
}

func validateSecret(s *corev1.Secret) field.ErrorList {
	path := field.NewPath("data")
	errs, size := validateKeys(path, s.Data)
	if size > maxDataSize {
		errs = append(errs, field.TooLong(path, "", maxDataSize))
	}
	need := func(keys ...string) {
		for _, key := range keys {
			if _, ok := s.Data[key]; !ok {
				errs = append(errs, field.Required(path.Key(key), ""))
			}
		}
	}
	switch s.Type {
	case corev1.SecretTypeServiceAccountToken:
		if s.Annotations[corev1.ServiceAccountNameKey] == "" {
			errs = append(errs, field.Required(field.NewPath("metadata", "annotations").Key(corev1.ServiceAccountNameKey), ""))
		}
	case corev1.SecretTypeDockercfg:
		need(corev1.DockerConfigKey)
		errs = append(errs, validateSecretJSON(path, s, corev1.DockerConfigKey)...)
	case corev1.SecretTypeDockerConfigJson:
		need(corev1.DockerConfigJsonKey)
		errs = append(errs, validateSecretJSON(path, s, corev1.DockerConfigJsonKey)...)
	case corev1.SecretTypeBasicAuth: // One of the two is enough.
		_, password := s.Data[corev1.BasicAuthPasswordKey]
		if _, user := s.Data[corev1.BasicAuthUsernameKey]; !user && !password {
			need(corev1.BasicAuthUsernameKey, corev1.BasicAuthPasswordKey)
		}
	case corev1.SecretTypeSSHAuth:
		if len(s.Data[corev1.SSHAuthPrivateKey]) == 0 {
			errs = append(errs, field.Required(path.Key(corev1.SSHAuthPrivateKey), ""))
		}
	case corev1.SecretTypeTLS:
		need(corev1.TLSCertKey, corev1.TLSPrivateKeyKey)
	}
	return errs
}

// validateSecretJSON wants a JSON object under key. The error does not repeat what is secret.
func validateSecretJSON(path *field.Path, s *corev1.Secret, key string) field.ErrorList {
	value, ok := s.Data[key]
	if !ok {
		return nil
	}
	if err := json.Unmarshal(value, &map[string]any{}); err != nil {
		return field.ErrorList{field.Invalid(path.Key(key), "<secret contents redacted>", err.Error())}
	}
	return nil
}

func validateSecretUpdate(s, old *corev1.Secret) field.ErrorList {
	errs := immutable(field.NewPath("type"), s.Type, old.Type)
	if deref(old.Immutable) {
		errs = append(errs, stillImmutable(s.Immutable)...)
		errs = append(errs, unchanged("data", s.Data, old.Data)...)
	}
	return errs
}
