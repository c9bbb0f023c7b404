package store_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	corev1 "k8s.io/api/core/v1"

	"github.com/coxswain/cox/store"
	"github.com/coxswain/cox/store/etcd"
	"github.com/coxswain/cox/store/storetest"
)

// TestMain also is the process that TestKill kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv("COX_TEST_WRITE"); dir != "" {
		if err := writeForEver(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

const killWriters = 4

// writeForEver reports what it finds ("has writer value", "has+" for each
// object) and then acknowledges each write on standard output ("ack writer
// value").
func writeForEver(dir string) error {
	ctx := context.Background()
	srv, err := etcd.Start(ctx, etcd.Config{Dir: dir, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		return err
	}
	table, err := storetest.Table()
	if err != nil {
		return err
	}
	s, err := store.New(store.Config{Backend: srv, Table: table})
	if err != nil {
		return err
	}
	maps := s.Kind(storetest.ConfigMaps)
	if err := maps.Ready(ctx); err != nil {
		return err
	}
	var mu sync.Mutex
	say := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Printf(format+"\n", args...) // one write, not buffered
	}
	l, err := maps.List(ctx, "", store.ListOptions{})
	if err != nil {
		return err
	}
	for _, e := range l.Entries {
		say("has %s %s", e.Key, e.Object.(*corev1.ConfigMap).Data["value"])
	}
	say("ready")
	errs := make(chan error, killWriters)
	for n := range killWriters {
		go func() { errs <- countUp(ctx, maps, n, say) }()
	}
	return <-errs
}

// countUp counts an object of its own up, and leaves a new one behind now and
// then.
func countUp(ctx context.Context, maps store.Interface, n int, say func(string, ...any)) error {
	key := fmt.Sprint("ns/counter", n)
	for {
		value := 0
		_, err := maps.Update(ctx, key, true, func(cur *store.Entry) (runtime.Object, error) {
			value = 0
			if cur != nil {
				value, _ = strconv.Atoi(cur.Object.(*corev1.ConfigMap).Data["value"])
			}
			value++
			return &corev1.ConfigMap{
				ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: nameOf(key)},
				Data:       map[string]string{"value": strconv.Itoa(value), "ballast": strings.Repeat("x", 500)},
			}, nil
		})
		if err != nil {
			return err
		}
		say("ack %s %d", key, value)
		if value%10 == 0 {
			name := fmt.Sprintf("left-%d-%d", n, value)
			if _, err := maps.Create(ctx, "ns/"+name, storetest.ConfigMap("ns", name, "1")); err != nil {
				return err
			}
			say("ack ns/%s 1", name)
		}
	}
}

func nameOf(key string) string { return key[strings.LastIndexByte(key, '/')+1:] }

// TestKill ends a writing process by SIGKILL, again and again: each time the
// next one finds at least what the last had acknowledged.
func TestKill(t *testing.T) {
	kills := 50
	if testing.Short() {
		kills = 5
	}
	dir := t.TempDir()
	acked := map[string]int{}
	total := 0
	for n := range kills {
		total += writeAndKill(t, dir, acked, 20+7*(n%10))
	}
	t.Logf("%d kills, %d acknowledged writes", kills, total)
}

// writeAndKill runs a writer, holds what it finds against acked, takes down
// what it acknowledges and kills it in the middle of its writes.
func writeAndKill(t *testing.T, dir string, acked map[string]int, writes int) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), "COX_TEST_WRITE="+dir)
	out, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	cmd.Stdout, cmd.Stderr = w, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	defer out.Close()

	found := map[string]int{}
	lines := bufio.NewReader(out)
	n, killed := 0, false
	for {
		line, err := lines.ReadString('\n')
		if err == io.EOF {
			break // a line cut short was not acknowledged
		}
		if err != nil {
			t.Fatal(err)
		}
		f := strings.Fields(line)
		switch f[0] {
		case "ready":
			for key, value := range acked {
				if found[key] < value {
					t.Errorf("%s: %d was acknowledged, %d is there", key, value, found[key])
				}
			}
		default:
			value, err := strconv.Atoi(f[2])
			if err != nil {
				t.Fatal(err)
			}
			if f[0] == "has" {
				found[f[1]] = value
			} else {
				acked[f[1]] = value
				n++
			}
		}
		if n == writes && !killed {
			killed = true
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			// What it has written into the pipe before it died counts too.
		}
	}
	cmd.Wait()
	if !killed {
		t.Fatalf("the writer ended by itself: %s", stderr.String())
	}
	return n
}
