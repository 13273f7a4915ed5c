package apiserver

import "hash/maphash"

// sightings tells what comes again, for a while: to remember a thing costs more than to look at it once, and most that never come
// again would be remembered for nothing. Of each it keeps a number, so that now and then one is taken for another: that
// one is remembered at once.
type sightings struct {
	seed maphash.Seed
	last [1 << 10]uint64
}

// again tells whether the key was seen before.
func (s *sightings) again(key []byte) bool {
	if s.seed == (maphash.Seed{}) {
		s.seed = maphash.MakeSeed()
	}
	number := maphash.Bytes(s.seed, key)
	place := &s.last[number%uint64(len(s.last))]
	seen := *place == number
	*place = number
	return seen
}
