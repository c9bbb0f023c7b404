package main

import (
	"bytes"
	"context"
	"fmt"
	"regexp"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// uidOf finds the versions of random UIDs, in which copies differ.
var uidOf = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-`)

// copied is what a key or a stored value of the population is in a copy of it,
// from 1 to 9: names, addresses and UIDs are others of the same length, so that
// the encoding stays what it is.
func copied(b []byte, n int) []byte {
	for _, name := range []string{"app-00", "node-00", "cron-00"} {
		b = bytes.ReplaceAll(b, []byte(name), fmt.Appendf(nil, "%s%d", name[:len(name)-1], n))
	}
	b = bytes.ReplaceAll(b, []byte("10.128."), fmt.Appendf(nil, "10.%d.", 128+n))
	return uidOf.ReplaceAllFunc(b, func(uid []byte) []byte {
		uid = bytes.Clone(uid)
		uid[14] = "456789abcd"[n]
		return uid
	})
}

// tenfold makes a population of up to 1,000 Deployments and CronJobs and 100
// nodes ten times as large, in etcd itself: that takes seconds where the API
// server takes minutes. Nothing else may use the data meanwhile.
func tenfold(ctx context.Context, endpoint string) {
	const batch = 100 // below etcd's bound of the operations of a transaction
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}})
	check(err)
	defer c.Close()
	begin, made := time.Now(), 0
	for _, kind := range []string{"minions", "cronjobs", "deployments", "replicasets", "pods"} {
		have, err := c.Get(ctx, "/registry/"+kind+"/", clientv3.WithPrefix())
		check(err)
		for n := 1; n < 10; n++ {
			var ops []clientv3.Op
			for _, kv := range have.Kvs {
				if key := copied(kv.Key, n); !bytes.Equal(key, kv.Key) { // else not of the population
					ops = append(ops, clientv3.OpPut(string(key), string(copied(kv.Value, n))))
				}
			}
			for some := range slices.Chunk(ops, batch) {
				_, err := c.Txn(ctx).Then(some...).Commit()
				check(err)
			}
			made += len(ops)
		}
	}
	fmt.Printf("resident.tenfold %d objects, %.1f s\n", made, time.Since(begin).Seconds())
}
