package storetest

import (
	"testing"

	"github.com/anishathalye/porcupine"

	"skiff/store"
)

// The check of histories finds those that are wrong.
func TestLinearizable(t *testing.T) {
	put := porcupine.Operation{Call: 0, Return: 10, Input: linearCall{name: "put", n: 7}, Output: linearAnswer{rev: 2}}
	put.ClientId = 1
	saw := func(from int64, n int, rev uint64) porcupine.Operation {
		answer := linearAnswer{}
		answer.state.keys[0] = linearValue{n, rev}
		return porcupine.Operation{Call: from, Return: 20, Input: linearCall{name: "get"}, Output: answer}
	}
	again := func(rev uint64, err error) porcupine.Operation {
		return porcupine.Operation{Call: 11, Return: 20, Input: linearCall{name: "put", n: 8, want: rev}, Output: linearAnswer{rev: 2, err: err}}
	}
	cases := []struct {
		name string
		call porcupine.Operation
		want bool
	}{
		{"a read after a write sees it", saw(11, 7, 2), true},
		{"a read after a write sees nothing", saw(11, 0, 0), false},
		{"a read beside a write sees nothing yet", saw(5, 0, 0), true},
		{"a read sees what nobody wrote", saw(5, 9, 2), false},
		{"a revision comes twice", again(2, nil), false},
		{"an update of what is not there is refused", again(1, store.ErrConflict), true},
		{"an update is refused for the wrong reason", again(2, store.ErrExists), false},
	}
	for _, tc := range cases {
		model := linearModel(linearState{rev: 1})
		if got := porcupine.CheckOperations(model, []porcupine.Operation{put, tc.call}); got != tc.want {
			t.Errorf("%s: linearizable %t, want %t", tc.name, got, tc.want)
		}
	}
}
