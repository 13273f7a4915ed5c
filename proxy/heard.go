package proxy

import (
	"strconv"

	discoveryv1 "k8s.io/api/discovery/v1"
)

// heardOf notes the revision of an EndpointSlice once touched has noted its Service, so that no revision is called taken
// whose Service was not looked at.
func (p *Proxy) heardOf(touched func(obj any) []string) func(obj any) []string {
	return func(obj any) []string {
		keys := touched(obj)
		if slice, ok := obj.(*discoveryv1.EndpointSlice); ok {
			p.mu.Lock()
			defer p.mu.Unlock()
			if revision, err := strconv.ParseUint(slice.ResourceVersion, 10, 64); err == nil {
				p.heard = max(p.heard, revision)
			}
		}
		return keys
	}
}
