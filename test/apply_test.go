package test

import (
	"strings"
	"testing"
)

// testServerSideApply applies on the server, with each kubectl there is.
func testServerSideApply(t *testing.T, s *shell) {
	for name, path := range kubectls() {
		t.Run(name, func(t *testing.T) {
			s := s.with(t, path)
			applyOnServer(s)
			migrateToServer(s)
			s.do("kubectl delete -f deployment1.yaml -f service1.yaml")
		})
	}
}

func applyOnServer(s *shell) {
	s.t.Helper()
	const file = "kubectl apply --server-side -f deployment1.yaml"
	s.says(file+" --dry-run=server", `deployment.apps/app1 serverside-applied \(server dry run\)`)
	s.fails("kubectl get deployment app1", 1, `Error from server \(NotFound\): deployments.apps "app1" not found`)
	s.says(file, "deployment.apps/app1 serverside-applied")
	version := s.do("kubectl get deployment app1 -o jsonpath={.metadata.generation}")
	s.says(file, "deployment.apps/app1 serverside-applied")
	s.says("kubectl get deployment app1 -o jsonpath={.metadata.generation}", version)

	s.says("kubectl get deployment app1 -o yaml | grep -c managedFields || true", "0")
	s.says("kubectl get deployment app1 --show-managed-fields -o yaml",
		`(?s).*\n  managedFields:\n  - apiVersion: apps/v1\n    fieldsType: FieldsV1\n    fieldsV1:\n.*    manager: kubectl\n    operation: Apply\n    time: "20.*`)

	s.do("kubectl scale deployment app1 --replicas=2")
	s.fails(file, 1, `(?s)error: Apply failed with 1 conflict: conflict with "kubectl" with subresource "scale" using apps/v1: \.spec\.replicas\nPlease review the fields above--they currently have other managers\..*`)
	s.fails(file+" --field-manager=other", 1, `(?s)error: Apply failed with 1 conflict: conflict with "kubectl" with subresource "scale".*`)
	s.says(file+" --force-conflicts", "deployment.apps/app1 serverside-applied")
	s.says("kubectl get deployment app1 -o jsonpath={.spec.replicas}", "1")

	diff := s.try("sed 's/replicas: 1/replicas: 3/' deployment1.yaml | kubectl diff --server-side -f -")
	if diff.status != 1 || !strings.Contains(diff.stdout, "-  replicas: 1\n+  replicas: 3\n") || strings.Contains(diff.stdout, "managedFields") {
		s.t.Fatalf("%v\nwant: one line changed", diff)
	}
	s.says("kubectl diff --server-side -f deployment1.yaml", "")
	s.fails("sed 's/replicas: 1/replikas: 1/' deployment1.yaml | kubectl apply --server-side -f -", 1,
		`(?s)Error from server.*: failed to create typed patch object \(`+s.space+`/app1; apps/v1, Kind=Deployment\): \.spec\.replikas: field not declared in schema`)
}

// migrateToServer goes on with server-side apply where client-side apply was used before.
func migrateToServer(s *shell) {
	s.t.Helper()
	s.do(`sed 's/^metadata:/metadata:\n  labels: {once: "yes"}/' service1.yaml | kubectl apply -f -`)
	s.says("kubectl get svc app1-service -o jsonpath={.metadata.managedFields[*].manager}", "kubectl-client-side-apply")
	s.says("kubectl apply --server-side -f service1.yaml", "service/app1-service serverside-applied")
	// kubectl keeps the annotation of client-side apply up to date, under a name of its own.
	s.says("kubectl get svc app1-service -o jsonpath={.metadata.managedFields[*].manager}", "kubectl kubectl-last-applied|kubectl-last-applied kubectl")
	s.says("kubectl get svc app1-service -o jsonpath={.metadata.managedFields[*].operation}", "Apply Apply")
	s.says("kubectl get svc app1-service -o jsonpath={.metadata.labels}", "")
}
