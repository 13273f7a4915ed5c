package bolt

import (
	"encoding/binary"
	"hash/crc32"

	bbolt "go.etcd.io/bbolt"
)

// stamp is what each transaction says of the whole file, so that Open can tell that all of it is there.
type stamp struct {
	rev uint64 // The store's revision.
	sum uint64 // Of the checksums of all entries.
	tx  uint64 // The transaction itself: a page of an older one is found out by it.
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum is an entry's part of the sum. Processors have an instruction for it: 2 KB cost a tenth of a microsecond.
func checksum(key, stored []byte) uint64 {
	return uint64(crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, stored))
}

func (s stamp) write(tx *bbolt.Tx) error {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 24), s.rev)
	b = binary.BigEndian.AppendUint64(b, s.sum)
	b = binary.BigEndian.AppendUint64(b, uint64(tx.ID()))
	return tx.Bucket(metaBucket).Put(stampKey, b)
}

// stampOf is that of the transaction that tx sees.
func stampOf(tx *bbolt.Tx) (stamp, error) { return readStamp(tx.Bucket(metaBucket).Get(stampKey)) }

func readStamp(b []byte) (stamp, error) {
	if len(b) != 24 {
		return stamp{}, damaged("it has no revision")
	}
	return stamp{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:])}, nil
}
