package clients

import "testing"

// TestClients holds one server to all promises that need none for themselves.
func TestClients(t *testing.T) {
	s := start(t)
	for _, promise := range []struct {
		name string
		test func(*testing.T, *server)
	}{
		{"typed clients speak protobuf", testTyped},
		{"dynamic clients know what discovery tells", testDynamic},
		{"metadata clients see metadata alone", testMetadata},
		{"scale clients scale whatever has a scale", testScale},
		{"a pager sees one moment", testPager},
		{"no update is lost", testContention},
		{"two appliers conflict", testApply},
		{"a watch begins with what is there", testUntilWithSync},
		{"one of two is the leader", testElection},
		{"events of both groups are one", testEvents},
		{"a node can be drained", testDrain},
		{"an operator runs", testOperator},
		{"a chart lives", testChart},
	} {
		t.Run(promise.name, func(t *testing.T) { promise.test(t, s) })
	}
}
