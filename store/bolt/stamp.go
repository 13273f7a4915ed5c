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

// write has tx stamp the file.
func (s *stamp) write(tx *bbolt.Tx) error {
	s.tx = uint64(tx.ID())
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 24), s.rev)
	b = binary.BigEndian.AppendUint64(b, s.sum)
	b = binary.BigEndian.AppendUint64(b, s.tx)
	return tx.Bucket(metaBucket).Put(stampKey, b)
}

// alone stamps the file in a transaction that does nothing else.
func (s *stamp) alone(db *bbolt.DB) error {
	tx, err := db.Begin(true)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // After a commit it does nothing.
	if err := s.write(tx); err != nil {
		return err
	}
	return commitTx(tx)
}

// stampOf is that of the transaction that tx sees.
func stampOf(tx *bbolt.Tx) (stamp, error) { return readStamp(tx.Bucket(metaBucket).Get(stampKey)) }

func readStamp(b []byte) (stamp, error) {
	if len(b) != 24 {
		return stamp{}, damaged("it has no revision")
	}
	return stamp{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:])}, nil
}
