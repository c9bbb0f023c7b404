package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/spf13/pflag"
)

// electionConfig are the times of the leases that controllers and scheduler
// of several servers compete for, by upstream's flags.
type electionConfig struct{ lease, renew, retry time.Duration }

func (e *electionConfig) flags(fs *pflag.FlagSet) {
	// Renewed more rarely than upstream's, since a stop gives the lease up at
	// once and only a machine that dies keeps the others waiting for its end.
	fs.DurationVar(&e.lease, "leader-elect-lease-duration", 40*time.Second, "how long the controllers or scheduler of a server that died keep those of other servers waiting")
	fs.DurationVar(&e.renew, "leader-elect-renew-deadline", 30*time.Second, "how long they try to renew their lease before they stop")
	fs.DurationVar(&e.retry, "leader-elect-retry-period", 10*time.Second, "how often they renew it, and others look whether they still do")
}

// candidate is what a server is called in elections: the same after a restart,
// which then leads on, and another one than that of any other server, although
// it may give its node the same name.
func (c *config) candidate() string {
	hash := sha256.Sum256([]byte(net.JoinHostPort(c.AdvertiseAddress, strconv.Itoa(c.Port))))
	return c.NodeName + "_" + hex.EncodeToString(hash[:4])
}

// complete checks what was given, as the elector would.
func (e *electionConfig) complete() error {
	switch {
	case e.retry <= 0 || e.renew <= e.retry*6/5:
		return fmt.Errorf("--leader-elect-renew-deadline=%v must be more than 1.2 times --leader-elect-retry-period=%v", e.renew, e.retry)
	case e.lease <= e.renew:
		return fmt.Errorf("--leader-elect-lease-duration=%v must be more than --leader-elect-renew-deadline=%v", e.lease, e.renew)
	case e.lease < time.Second:
		return fmt.Errorf("--leader-elect-lease-duration=%v is less than a second", e.lease)
	}
	return nil
}
