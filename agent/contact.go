package agent

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// The API may be away, for an hour say. What is known of the pods is then all that there is to go by, and it is enough: they are kept
// running, restarted, probed and stopped as before. Only what would be told waits. Nobody tries again pod by pod, or waits for an answer
// that does not come: the node's own look ([Agent.runNode]) finds out when the API is back, and then every pod is looked at.

// patience is how long the agent waits for an answer of the API, as the kubelet does with its node's status.
const patience = 10 * time.Second

// errAway is what was not asked: the API does not answer anybody.
var errAway = errors.New("the API server does not answer")

// contact knows whether the API answers.
type contact struct {
	away  atomic.Bool
	doubt chan struct{} // Somebody got no answer.
}

// ask makes a call to the API, unless it is known to be away.
func (c *contact) ask(ctx context.Context, call func(ctx context.Context) error) error {
	if c.away.Load() {
		return errAway
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := call(ctx)
	if unanswered(err) {
		select {
		case c.doubt <- struct{}{}:
		default:
		}
	}
	return err
}

// learn notes whether the API answered, and says whether it is back.
func (c *contact) learn(err error) (back bool) {
	away := unanswered(err)
	return c.away.Swap(away) && !away
}

// unanswered says that an error is not the API's own word, or one that it says when it is not itself.
func unanswered(err error) bool {
	var status apierrors.APIStatus
	if err == nil {
		return false
	}
	return !errors.As(err, &status) || status.Status().Code >= http.StatusInternalServerError
}

// later drops what was not asked: all of it is looked at again when the API is back.
func later(err error) error {
	if errors.Is(err, errAway) {
		return nil
	}
	return err
}
