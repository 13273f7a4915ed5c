package dns

import (
	"sync"
	"time"

	"github.com/miekg/dns"
)

// maxCache bounds the memory of the cache, in bytes.
const maxCache = 8 << 20

// answerCache keeps answers of upstreams. Nothing sweeps it: what has expired goes when room is needed.
type answerCache struct {
	limit int

	mu       sync.RWMutex
	messages map[string]*message
	size     int
}

func newCache(limit int) *answerCache {
	return &answerCache{limit: limit, messages: map[string]*message{}}
}

// get returns what is kept under key, if it may still be used. It does not allocate.
func (c *answerCache) get(key []byte, now time.Time) (*message, state) {
	c.mu.RLock()
	m := c.messages[string(key)]
	c.mu.RUnlock()
	if m == nil {
		return nil, gone
	}
	s := m.state(now)
	if s == gone {
		return nil, gone
	}
	m.asked.Add(1)
	return m, s
}

// put keeps a message if it may be kept. A failure does not take the place of what is better than nothing.
func (c *answerCache) put(m *message, now time.Time) {
	if m.ttl == 0 || m.size() > c.limit/8 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if before := c.messages[m.key]; before != nil {
		if m.rcode == dns.RcodeServerFailure && before.state(now) == stale {
			return
		}
		c.size -= before.size()
	}
	c.messages[m.key] = m
	c.size += m.size()
	for c.size > c.limit {
		c.evict(m)
	}
}

// evict drops the message that expires first among a few chosen by chance: that is nearly as good as the first of all,
// and needs no order to be kept. The lock is held.
func (c *answerCache) evict(keep *message) {
	const few = 8
	var victim *message
	seen := 0
	for _, m := range c.messages { // In an order of Go's own choice, another one each time.
		if m == keep {
			continue
		}
		if victim == nil || m.stored.Add(m.ttl).Before(victim.stored.Add(victim.ttl)) {
			victim = m
		}
		if seen++; seen == few {
			break
		}
	}
	if victim == nil {
		return
	}
	delete(c.messages, victim.key)
	c.size -= victim.size()
}

// all are the messages kept, in no order.
func (c *answerCache) all() []*message {
	c.mu.RLock()
	defer c.mu.RUnlock()
	messages := make([]*message, 0, len(c.messages))
	for _, m := range c.messages {
		messages = append(messages, m)
	}
	return messages
}
