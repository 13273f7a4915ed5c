package api

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestBindings(t *testing.T) {
	const group = "rbac.authorization.k8s.io"
	newTest{
		name: "binding", kind: "RoleBinding",
		given: `{subjects: [{kind: User, name: a}, {kind: ServiceAccount, name: b}], roleRef: {kind: Role, name: r}}`,
		want: `{subjects: [{kind: User, name: a, apiGroup: ` + group + `}, {kind: ServiceAccount, name: b}],
			roleRef: {kind: Role, name: r, apiGroup: ` + group + `}}`,
	}.run(t)
	checkErrors(t, []errorTest{
		{"Role", "{rules: [{apiGroups: [''], resources: [pods], verbs: [get]}]}", nil},
		{"Role", "{rules: [{nonResourceURLs: [/x], apiGroups: [a]}, {verbs: [get]}]}", []string{
			"rules[0].verbs: Required value: verbs must contain at least one value",
			`rules[0].nonResourceURLs: Invalid value: ["/x"]: namespaced rules cannot apply to non-resource URLs`,
			`rules[0].nonResourceURLs: Invalid value: ["/x"]: rules cannot apply to both regular resources and non-resource URLs`,
			"rules[1].apiGroups: Required value: resource rules must supply at least one api group",
			"rules[1].resources: Required value: resource rules must supply at least one resource",
		}},
		{"ClusterRole", "{rules: [{nonResourceURLs: [/x], verbs: [get]}]}", nil},
		{"ClusterRole", "{aggregationRule: {}}", []string{
			"aggregationRule.clusterRoleSelectors: Required value: at least one clusterRoleSelector required if aggregationRule is non-nil",
		}},
		{"RoleBinding", "{subjects: [{kind: Robot}, {kind: ServiceAccount, name: A, apiGroup: x}, {kind: Group, name: g, apiGroup: w}], roleRef: {apiGroup: z, kind: Pod}}", []string{
			`roleRef.apiGroup: Unsupported value: "z": supported values: "` + group + `"`,
			`roleRef.kind: Unsupported value: "Pod": supported values: "Role", "ClusterRole"`,
			"roleRef.name: Required value",
			"subjects[0].name: Required value",
			`subjects[0].kind: Unsupported value: "Robot": supported values: "ServiceAccount", "User", "Group"`,
			`subjects[1].name: Invalid value: "A": ` + subdomain1123,
			`subjects[1].apiGroup: Unsupported value: "x": supported values: ""`,
			`subjects[2].apiGroup: Unsupported value: "w": supported values: "` + group + `"`,
		}},
		{"ClusterRoleBinding", "{subjects: [{kind: ServiceAccount, name: a}], roleRef: {kind: Role, name: r}}", []string{
			`roleRef.kind: Unsupported value: "Role": supported values: "ClusterRole"`, "subjects[0].namespace: Required value",
		}},
	})
	for _, kind := range []string{"RoleBinding", "ClusterRoleBinding"} {
		checkUpdates(t, []updateTest{
			{kind, "{roleRef: {kind: ClusterRole, name: a}}", "{roleRef: {kind: ClusterRole, name: a}, subjects: [{kind: User, name: u}]}", nil},
			{kind, "{roleRef: {kind: ClusterRole, name: a}}", "{roleRef: {kind: ClusterRole, name: b}}", []string{`roleRef: Invalid value: {"apiGroup":"` + group + `","kind":"ClusterRole","name":"b"}: cannot change roleRef`}},
		})
		checkRows(t, []rowTest{{kind, "{metadata: {name: b}, roleRef: {kind: ClusterRole, name: r}, subjects: [{kind: User, name: u}, {kind: User, name: v}, " +
			"{kind: Group, name: g}, {kind: ServiceAccount, name: s, namespace: ns}]}", "b|ClusterRole/r|<unknown>|u, v|g|ns/s"}})
	}
	for name, ok := range map[string]bool{"system:node": true, "a b": true, "a/b": false, "..": false, "50%": false} {
		if got := find(t, "ClusterRole").ValidateName(name, false); (len(got) == 0) != ok {
			t.Errorf("ValidateName of a ClusterRole %q says %v, want it allowed: %v", name, got, ok)
		}
	}
}

// aRequest is a CertificateSigningRequest for the user jane.
func aRequest(t *testing.T, status string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "jane"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	text := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	return "{metadata: {name: jane}, spec: {signerName: example.com/user, usages: [client auth], request: " + text + "}, status: {" + status + "}}"
}

func TestCertificateRequests(t *testing.T) {
	checkErrors(t, []errorTest{
		{"CertificateSigningRequest", aRequest(t, ""), nil},
		{"CertificateSigningRequest", "{spec: {signerName: a/b, usages: [client auth, client auth], expirationSeconds: 599, request: QQ==}}", []string{
			`spec.request: Invalid value: "QQ==": PEM block type must be CERTIFICATE REQUEST`,
			`spec.usages[1]: Duplicate value: "client auth"`,
			`spec.signerName: Invalid value: "a": should be a domain with at least two segments separated by dots`,
			"spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 600 seconds (10 minutes)",
		}},
	})
	checkRows(t, []rowTest{
		{"CertificateSigningRequest", "{metadata: {name: c}, spec: {username: jane, expirationSeconds: 86400}}", "c|<unknown>|<none>|jane|24h|Pending"},
		{"CertificateSigningRequest", "{metadata: {name: c}, spec: {signerName: a.b/c}, status: {certificate: QQ==, conditions: [{type: Approved}]}}",
			"c|<unknown>|a.b/c||<none>|Approved,Issued"},
		{"CertificateSigningRequest", "{metadata: {name: c}, status: {conditions: [{type: Denied}, {type: Failed}]}}", "c|<unknown>|<none>||<none>|Denied,Failed"},
	})
}

// TestCertificateApproval holds that whoever approves can't sign, whoever signs can't approve, and no decision is taken back.
func TestCertificateApproval(t *testing.T) {
	const since = `lastUpdateTime: "2026-01-01T00:00:00Z", lastTransitionTime: "2026-01-01T00:00:00Z"`
	const approved = `{type: Approved, status: "True", ` + since + "}"
	const denied = `{type: Denied, status: "True", ` + since + "}"
	r := find(t, "CertificateSigningRequest")
	for _, tc := range []struct {
		sub, old, given string
		want            []string
	}{
		{"approval", "", "conditions: [" + approved + "]", nil},
		{"approval", "", "conditions: [" + approved + "], certificate: QQ==", nil}, // The certificate is left out.
		{"approval", "", "conditions: [" + approved + ", " + denied + "]", []string{
			`status.conditions: Invalid value: "Denied": Approved and Denied conditions are mutually exclusive`,
		}},
		{"approval", "", `conditions: [{type: Approved, status: "False"}, {type: "", status: Maybe}]`, []string{
			`status.conditions[0].status: Unsupported value: "False": supported values: "True"`,
			"status.conditions[1].type: Required value",
			`status.conditions[1].status: Unsupported value: "Maybe": supported values: "False", "True", "Unknown"`,
		}},
		{"approval", "conditions: [" + approved + "]", "conditions: [" + denied + "]", []string{
			`status.conditions: Forbidden: updates may not remove a condition of type "Approved"`,
		}},
		{"status", "", "conditions: [" + approved + "]", []string{
			`status.conditions: Forbidden: updates may not add a condition of type "Approved"`,
		}},
		{"status", "", "certificate: QQ==", []string{
			`status.certificate: Invalid value: "<certificate data>": must contain at least one CERTIFICATE PEM block`,
		}},
		{"status", "conditions: [" + approved + "]", `conditions: [{type: Approved, status: "True", reason: changed, ` + since + `}]`, nil}, // Kept.
	} {
		given := aRequest(t, tc.given)
		now, old := parse(t, r, given), parse(t, r, aRequest(t, tc.old))
		sub, _ := r.Sub(tc.sub)
		sub.Prepare(now, old)
		if diff := cmp.Diff(tc.want, texts(sub.Validate(now, old))); diff != "" {
			t.Errorf("%s: stored status {%s}, given {%s}\n(-want +got):\n%s", tc.sub, tc.old, tc.given, diff)
		}
	}
}
