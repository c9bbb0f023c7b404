package etcd

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"
)

// clearUnbegun removes what a member left that was killed in its very first
// start, before its log said who the members are: etcd would take it for one of
// a cluster of nobody and wait for a leader for ever. Nothing can have been
// acknowledged by it. It says whether there was such a one.
func clearUnbegun(dir string) (bool, error) {
	member := filepath.Join(dir, "member")
	logs, _ := filepath.Glob(filepath.Join(member, "wal", "*.wal"))
	snapshots, _ := filepath.Glob(filepath.Join(member, "snap", "*.snap"))
	if len(logs) != 1 || len(snapshots) > 0 || filepath.Base(logs[0]) != "0000000000000000-0000000000000000.wal" {
		return false, nil
	}
	f, err := os.Open(logs[0])
	if err != nil {
		return false, fmt.Errorf("open etcd log: %w", err)
	}
	begun := hasBegun(wal.NewDecoder(fileutil.NewFileReader(f)))
	f.Close()
	if begun {
		return false, nil
	}
	if err := os.RemoveAll(member); err != nil {
		return false, fmt.Errorf("remove what an interrupted first start left: %w", err)
	}
	return true, nil
}

// hasBegun says that a log holds anything that somebody may have been told of,
// or anything that is not understood: that is for etcd to judge. All of that
// comes after the members, so few records are read.
func hasBegun(log wal.Decoder) bool {
	whose := false // the log's own head is there, which is written as a whole
	for {
		var rec walpb.Record
		switch err := log.Decode(&rec); {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return !whose
		case err != nil:
			return true
		}
		switch rec.Type {
		case wal.CrcType:
			log.UpdateCRC(rec.Crc)
		case wal.MetadataType:
			whose = true
		case wal.EntryType:
			var e raftpb.Entry
			if e.Unmarshal(rec.Data) != nil || e.Type == raftpb.EntryNormal {
				return true
			}
		case wal.StateType:
			var st raftpb.HardState
			if st.Unmarshal(rec.Data) != nil || st.Commit > 0 {
				return true
			}
		case wal.SnapshotType:
			var s walpb.Snapshot
			if s.Unmarshal(rec.Data) != nil || s.Index > 0 {
				return true
			}
		default:
			return true
		}
	}
}
