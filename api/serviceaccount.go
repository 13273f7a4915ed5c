package api

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func serviceAccount() *Resource {
	return row(Resource{
		Version: "v1", Name: "serviceaccounts", Singular: "serviceaccount", Kind: "ServiceAccount",
		ShortNames: []string{"sa"}, Namespaced: true,
		ShowsDeleted: true,
		Verbs:        allVerbs(),
		Subs:         []Sub{{Name: "token", Kind: "TokenRequest", Group: "authentication.k8s.io", Verbs: []string{"create"}}},
		Columns:      []metav1.TableColumnDefinition{nameColumn(), ageColumn()},
	}, rules[corev1.ServiceAccount]{
		PrepareCreate: cleanSecretReferences,
		PrepareUpdate: func(s, _ *corev1.ServiceAccount) { cleanSecretReferences(s) },
		Row: func(s *corev1.ServiceAccount) []any {
			return []any{s.Name, age(s.CreationTimestamp.Time)}
		},
	})
}

// cleanSecretReferences leaves a secret's name only: the rest of the reference has never had a meaning.
func cleanSecretReferences(s *corev1.ServiceAccount) {
	for i := range s.Secrets {
		s.Secrets[i] = corev1.ObjectReference{Name: s.Secrets[i].Name}
	}
}
