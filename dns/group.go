package dns

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	hedgeAfter  = 250 * time.Millisecond
	maxAttempts = 6
)

// group is the servers that know the same zone, in the order in which they are to be asked.
type group []*upstream

// attempt is how one server was asked.
type attempt struct {
	upstream *upstream
	reply    *dns.Msg
	err      error
	took     time.Duration
}

// order are the servers to ask, those in health first. One that failed a while ago is named by itself too, to be tried beside
// them.
func (g group) order(now time.Time) (servers []*upstream, wake *upstream) {
	states := map[*upstream]health{}
	for _, u := range g {
		if states[u] = u.health(now); states[u] != looping {
			servers = append(servers, u)
		}
	}
	rank := func(u *upstream) int { return min(int(states[u]), int(resting)) }
	slices.SortStableFunc(servers, func(a, b *upstream) int { return rank(a) - rank(b) })
	if len(servers) > 1 && states[servers[0]] == healthy {
		if i := slices.IndexFunc(servers, func(u *upstream) bool { return states[u] == waking }); i >= 0 {
			wake = servers[i]
		}
	}
	return servers, wake
}

// exchange asks servers, which are in the order that is wanted, until one has an answer. One that says nothing for a moment
// does not hold the others up: the next one is asked beside it, and, as a packet may have been lost, each again. SERVFAIL
// and REFUSED count only if nobody knows better. tell hears of each attempt that came to an end.
func exchange(ctx context.Context, servers []*upstream, query *dns.Msg, tell func(attempt)) (*dns.Msg, error) {
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan attempt, maxAttempts) // So that those who come late need not wait for us.
	var asked []*upstream
	ask := func() {
		u := servers[len(asked)%len(servers)]
		asked = append(asked, u)
		start := time.Now()
		running.Go(func() {
			reply, err := u.ask(ctx, query)
			results <- attempt{u, reply, err, time.Since(start)}
		})
	}
	next := time.NewTimer(hedgeAfter)
	defer next.Stop()
	var refusal *dns.Msg
	var err error
	ask()
	for ended := 0; ended < len(asked); {
		select {
		case a := <-results:
			ended++
			tell(a)
			switch {
			case a.err != nil:
				err = fmt.Errorf("ask %v: %w", a.upstream, a.err)
				if ctx.Err() == nil {
					a.upstream.failed(time.Now())
				}
			case a.reply.Rcode == dns.RcodeServerFailure || a.reply.Rcode == dns.RcodeRefused:
				a.upstream.answered()
				refusal = a.reply
			default:
				a.upstream.answered()
				outpaced(asked, a.upstream)
				return a.reply, nil
			}
			if len(asked) < len(servers) && ctx.Err() == nil {
				ask()
			}
		case <-next.C:
			if refusal == nil && len(asked) < maxAttempts {
				ask()
			}
			next.Reset(hedgeAfter * time.Duration(len(asked)))
		}
	}
	if refusal != nil {
		return refusal, nil
	}
	return nil, err
}

// outpaced notes those who were asked before the one that answered, and have not: the next question does not wait for them.
func outpaced(asked []*upstream, winner *upstream) {
	for _, u := range asked[:slices.Index(asked, winner)] {
		u.failed(time.Now())
	}
}

// probe asks a server that failed once more, beside the question that others answer.
func (u *upstream) probe(ctx context.Context, query *dns.Msg) {
	u.mu.Lock()
	if u.probing {
		u.mu.Unlock()
		return
	}
	u.probing = true
	u.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	_, err := u.ask(ctx, query)
	u.mu.Lock()
	u.probing = false
	u.mu.Unlock()
	if err != nil {
		u.failed(time.Now())
		return
	}
	u.answered()
}
