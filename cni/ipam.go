package cni

import (
	"bufio"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// errFull says that every address of a range is taken.
var errFull = errors.New("all addresses are taken")

// ipam keeps one file per address that is taken, named after the address and
// holding whose it is. Everything is done under one file lock.
type ipam struct {
	dir  string
	lock *os.File
}

// lease is one taken address.
type lease struct {
	addr netip.Addr
	// owner is the attachment: container ID and interface name.
	owner owner
	// ports says that host ports lead to the address.
	ports bool
}

type owner struct{ container, ifName string }

// openIPAM locks the state; close unlocks it.
func openIPAM(dir string) (*ipam, error) {
	f, err := lockFile(dir, "lock")
	if err != nil {
		return nil, fmt.Errorf("lock the address state: %w", err)
	}
	return &ipam{dir, f}, nil
}

// lockFile waits until no other process has the file of this name locked.
// Closing it unlocks it, and so does the end of the process.
func lockFile(dir, name string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if err == nil {
			return f, nil
		}
		if err != unix.EINTR {
			f.Close()
			return nil, err
		}
	}
}

func (i *ipam) close() { i.lock.Close() }

// leases lists what is taken. A file that cannot be read as a lease was cut
// off by a crash and counts as a lease of nobody.
func (i *ipam) leases() ([]lease, error) {
	entries, err := os.ReadDir(i.dir)
	if err != nil {
		return nil, fmt.Errorf("address state: %w", err)
	}
	var out []lease
	for _, e := range entries {
		addr, err := netip.ParseAddr(e.Name())
		if err != nil {
			continue
		}
		f, err := os.Open(filepath.Join(i.dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("address state: %w", err)
		}
		l := lease{addr: addr}
		s := bufio.NewScanner(f)
		if s.Scan() {
			l.owner.container = s.Text()
		}
		if s.Scan() {
			l.owner.ifName = s.Text()
		}
		l.ports = s.Scan() && s.Text() == "ports"
		f.Close()
		out = append(out, l)
	}
	return out, nil
}

// take gives the owner one address of each range: the ones it has already,
// else the next free one after the last that was given, so that an address
// rests before it is used again.
func (i *ipam) take(ranges []netip.Prefix, who owner, ports bool) ([]netip.Addr, error) {
	taken, err := i.leases()
	if err != nil {
		return nil, err
	}
	used := map[netip.Addr]bool{}
	for _, l := range taken {
		// A repeated ADD starts over, possibly with other ranges.
		if l.owner == who {
			if err := i.release(l.addr); err != nil {
				return nil, err
			}
			continue
		}
		used[l.addr] = true
	}
	var out []netip.Addr
	for _, r := range ranges {
		a, err := i.next(r, used)
		if err == nil {
			err = i.write(a, who, ports)
		}
		if err != nil {
			for _, o := range out {
				err = errors.Join(err, i.release(o))
			}
			return nil, fmt.Errorf("pod address from %v: %w", r, err)
		}
		out = append(out, a)
	}
	return out, nil
}

// next finds a free address between the gateway's and the range's last, which
// is IPv4's broadcast address.
func (i *ipam) next(r netip.Prefix, used map[netip.Addr]bool) (netip.Addr, error) {
	r = r.Masked()
	first := Gateway(r).Next()
	start := first
	if b, err := os.ReadFile(i.lastFile(r)); err == nil {
		if a, err := netip.ParseAddr(strings.TrimSpace(string(b))); err == nil && r.Contains(a) {
			start = a.Next()
		}
	}
	// used bounds the search: among len(used)+1 addresses one is free, plus
	// the one that is skipped, unless the range is shorter.
	a := start
	for n := 0; n <= len(used)+2; n++ {
		if !r.Contains(a) || (a.Is4() && !r.Contains(a.Next())) {
			a = first
		}
		if !used[a] {
			return a, nil
		}
		if a = a.Next(); a == start {
			break
		}
	}
	return netip.Addr{}, errFull
}

func (i *ipam) lastFile(r netip.Prefix) string {
	family := "4"
	if r.Addr().Is6() {
		family = "6"
	}
	return filepath.Join(i.dir, "last"+family)
}

// write makes the lease appear whole.
func (i *ipam) write(a netip.Addr, who owner, ports bool) error {
	text := who.container + "\n" + who.ifName + "\n"
	if ports {
		text += "ports\n"
	}
	tmp := filepath.Join(i.dir, "new")
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		return err
	}
	if err := os.Rename(tmp, filepath.Join(i.dir, a.String())); err != nil {
		return err
	}
	return os.WriteFile(i.lastFile(netip.PrefixFrom(a, a.BitLen())), []byte(a.String()+"\n"), 0o600)
}

// release frees an address; a free one is no error.
func (i *ipam) release(a netip.Addr) error {
	if err := os.Remove(filepath.Join(i.dir, a.String())); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
