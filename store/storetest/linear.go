package storetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"skiff/store"
)

const (
	linearKeys    = 4
	linearClients = 6
	linearCalls   = 50 // Of each client.
)

// linearCall is what a client asks, and linearAnswer what it is told.
type linearCall struct {
	name string // "get", "list", "put", "delete".
	key  int
	want uint64 // The revision that the client saw.
	n    int    // What it puts.
}

type linearAnswer struct {
	state linearState // What a read saw; a Get fills in its key alone.
	rev   uint64      // Of a write.
	err   error       // One of the store's, or nil.
}

// linearState is what a store should be: a revision, and a few keys.
type linearState struct {
	rev  uint64
	keys [linearKeys]linearValue
}

// linearValue is zero for a key that is not there.
type linearValue struct {
	n   int
	rev uint64
}

// step says whether a store in this state may give the answer, and in which state it is then.
func (s linearState) step(call linearCall, answer linearAnswer) (bool, linearState) {
	have := s.keys[call.key]
	switch call.name {
	case "get":
		return answer.state.keys[call.key] == have, s
	case "list":
		return answer.state == s, s
	}
	if want := writeError(have.rev, call.want, call.name == "delete"); answer.err != nil || want != nil {
		return answer.err == want, s
	}
	if answer.rev <= s.rev {
		return false, s
	}
	s.rev, s.keys[call.key] = answer.rev, linearValue{}
	if call.name == "put" {
		s.keys[call.key] = linearValue{call.n, answer.rev}
	}
	return true, s
}

// writeError is what a write is told that saw one revision where the key is at another; 0 is none.
func writeError(have, saw uint64, deletion bool) error {
	switch {
	case have == 0 && (saw != 0 || deletion):
		return store.ErrNotFound
	case have != 0 && saw == 0 && !deletion:
		return store.ErrExists
	case have != saw:
		return store.ErrConflict
	}
	return nil
}

// What many clients are told at once must have an order in which one after the other would be told the same, and in which
// no call comes after one that began when it had ended: https://jepsen.io/consistency/models/linearizable
func testLinearizable(t *testing.T, s store.Store) {
	model := linearModel(linearState{rev: revision(t, s)})
	began := time.Now()
	var mu sync.Mutex
	var calls []porcupine.Operation
	var wg sync.WaitGroup
	for client := range linearClients {
		wg.Go(func() {
			var saw [linearKeys]uint64
			for n := range linearCalls {
				call := nextCall(client*linearCalls+n+1, saw)
				from := time.Since(began)
				answer, err := do(t, s, call)
				to := time.Since(began)
				if err != nil {
					t.Error(err)
					return
				}
				saw = sawAfter(saw, call, answer)
				mu.Lock()
				calls = append(calls, porcupine.Operation{ClientId: client, Input: call, Call: int64(from), Output: answer, Return: int64(to)})
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	if result := porcupine.CheckOperationsTimeout(model, calls, patience); result != porcupine.Ok {
		for _, c := range calls {
			t.Logf("client %d, %d to %d: %s", c.ClientId, c.Call, c.Return, model.DescribeOperation(c.Input, c.Output))
		}
		t.Errorf("%d calls of %d clients: %s, want a history that is linearizable", len(calls), linearClients, result)
	}
}

func linearModel(start linearState) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return start },
		Step: func(state, call, answer any) (bool, any) {
			return state.(linearState).step(call.(linearCall), answer.(linearAnswer))
		},
		DescribeOperation: func(call, answer any) string { return fmt.Sprintf("%+v: %+v", call, answer) },
	}
}

// nextCall is a client's next call. Mostly it writes what it believes to be there.
func nextCall(n int, saw [linearKeys]uint64) linearCall {
	call := linearCall{key: rand.IntN(linearKeys), n: n}
	call.want = saw[call.key]
	switch rand.IntN(10) {
	case 0, 1, 2:
		call.name = "get"
	case 3:
		call.name = "list"
	case 4, 5:
		call.name = "delete"
	default:
		call.name = "put"
	}
	return call
}

// sawAfter is what a client believes of each key after an answer.
func sawAfter(saw [linearKeys]uint64, call linearCall, answer linearAnswer) [linearKeys]uint64 {
	switch {
	case call.name == "list":
		for i, v := range answer.state.keys {
			saw[i] = v.rev
		}
	case call.name == "get":
		saw[call.key] = answer.state.keys[call.key].rev
	case call.name == "put" && answer.err == nil:
		saw[call.key] = answer.rev
	case answer.err == nil, errors.Is(answer.err, store.ErrNotFound):
		saw[call.key] = 0
	case saw[call.key] == 0:
		saw[call.key] = 1 // It exists, at another revision.
	}
	return saw
}

// do makes the call. An error is one that no call may have.
func do(t *testing.T, s store.Store, call linearCall) (answer linearAnswer, err error) {
	key := linearKey(call.key)
	switch call.name {
	case "get":
		var kv store.KV
		if kv, err = s.Get(t.Context(), key); err == nil {
			err = answer.state.set(kv)
		}
	case "list":
		var kvs []store.KV
		kvs, answer.state.rev, err = s.List(t.Context(), linearPrefix)
		for _, kv := range kvs {
			err = errors.Join(err, answer.state.set(kv))
		}
	case "put":
		answer.rev, err = s.Put(t.Context(), key, fmt.Append(nil, call.n), call.want)
	case "delete":
		answer.rev, err = s.Delete(t.Context(), key, call.want)
	}
	for _, known := range []error{store.ErrNotFound, store.ErrExists, store.ErrConflict} {
		if errors.Is(err, known) {
			answer.err, err = known, nil
		}
	}
	return answer, err
}

const linearPrefix = "/linear/"

func linearKey(i int) string { return fmt.Sprint(linearPrefix, i) }

// set fills in a key that was read.
func (s *linearState) set(kv store.KV) error {
	var i int
	if _, err := fmt.Sscanf(kv.Key, linearPrefix+"%d", &i); err != nil {
		return fmt.Errorf("read %q: %w", kv.Key, err)
	}
	_, err := fmt.Sscan(string(kv.Value), &s.keys[i].n)
	s.keys[i].rev = kv.Rev
	return err
}
