package csi

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"k8s.io/apimachinery/pkg/types"

	"github.com/coxswain/cox/internal/atomicfile"
)

// Where things are, as tools and drivers know it of upstream's kubelet:
//
//	plugins/kubernetes.io/csi/DRIVER/SHA256(HANDLE)/globalmount      staged
//	pods/UID/volumes/kubernetes.io~csi/NAME/mount                    published
//	plugins/kubernetes.io/csi/volumeDevices/staging/NAME             staged, block
//	plugins/kubernetes.io/csi/volumeDevices/publish/NAME/UID         published, block
//	pods/UID/volumeDevices/kubernetes.io~csi/NAME                    link to the above
//
// NAME is the persistent volume's, or the pod's own of an inline volume. Beside
// each is a record in a file vol_data.json (for block volumes in
// volumeDevices/NAME/data, one per volume).
const (
	recordFile  = "vol_data.json"
	podPlugin   = "kubernetes.io~csi"
	blockFolder = "volumeDevices"
)

// record is what is remembered of a staged or published volume.
type record struct {
	Name       string `json:"specVolID"`
	Handle     string `json:"volumeHandle"`
	Driver     string `json:"driverName"`
	Node       string `json:"nodeName,omitempty"`
	Attachment string `json:"attachmentID,omitempty"`
	Lifecycle  string `json:"volumeLifecycleMode,omitempty"`
}

func (r *record) id() volumeID { return volumeID{r.Driver, r.Handle} }

// write puts the record into a folder, whole or not at all, and on disk.
func (r *record) write(dir string) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(filepath.Join(dir, recordFile), b, 0o600); err != nil {
		return fmt.Errorf("remember volume %s: %w", r.Name, err)
	}
	return nil
}

// readRecord returns nil where there is none.
func readRecord(dir string) (*record, error) {
	b, err := os.ReadFile(filepath.Join(dir, recordFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var r record
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err == nil && (r.Driver == "" || r.Handle == "") {
		err = errors.New("no driver or volume handle in it")
	}
	if err != nil {
		return nil, fmt.Errorf("record of volume in %s: %w", dir, err)
	}
	return &r, nil
}

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// stage is the folder of a staged volume; the driver gets globalmount in it.
func (m *Manager) stage(id volumeID) string {
	return filepath.Join(m.root(), id.driver, hash(id.handle))
}

// target is the folder of a pod's volume; the driver makes mount in it.
func (m *Manager) target(uid types.UID, name string) string {
	return filepath.Join(m.cfg.PodDir(uid), "volumes", podPlugin, name)
}

func (m *Manager) blockStage(name string) string {
	return filepath.Join(m.root(), blockFolder, "staging", name)
}
func (m *Manager) blockTarget(uid types.UID, name string) string {
	return filepath.Join(m.root(), blockFolder, "publish", name, string(uid))
}
func (m *Manager) blockRecord(name string) string {
	return filepath.Join(m.root(), blockFolder, name, "data")
}
func (m *Manager) blockLink(uid types.UID, name string) string {
	return filepath.Join(m.cfg.PodDir(uid), blockFolder, podPlugin, name)
}

// recall takes up what is on disk: which pods have which volumes, and which
// volumes are staged.
func (m *Manager) recall() {
	bad := func(err error) {
		if err != nil {
			m.cfg.Log.Warn("a volume of an earlier life cannot be told", "error", err)
		}
	}
	pods, _ := filepath.Glob(filepath.Join(m.cfg.PodsDir, "*", "volumes", podPlugin, "*"))
	for _, dir := range pods {
		r, err := readRecord(dir)
		bad(err)
		if r != nil {
			uid := types.UID(filepath.Base(filepath.Dir(filepath.Dir(filepath.Dir(dir)))))
			m.enter(r, uid)
		}
	}
	stages, _ := filepath.Glob(filepath.Join(m.root(), "*", "*", recordFile))
	for _, file := range stages {
		r, err := readRecord(filepath.Dir(file))
		bad(err)
		if r != nil {
			v := m.enter(r, "")
			v.staged, v.recalled = true, true
		}
	}
	blocks, _ := filepath.Glob(filepath.Join(m.root(), blockFolder, "*", "data", recordFile))
	for _, file := range blocks {
		r, err := readRecord(filepath.Dir(file))
		bad(err)
		if r == nil {
			continue
		}
		v := m.enter(r, "")
		v.staged, v.recalled = true, true
		targets, _ := os.ReadDir(filepath.Dir(m.blockTarget("x", r.Name)))
		for _, t := range targets {
			m.enter(r, types.UID(t.Name()))
		}
	}
}

// enter notes a volume, and a pod that uses it if uid is not "". Call with the
// lock held, or before anybody else can.
func (m *Manager) enter(r *record, uid types.UID) *volume {
	v := m.volumes[r.id()]
	if v == nil {
		v = &volume{busy: make(chan struct{}, 1), pods: map[types.UID]*use{}}
		m.volumes[r.id()] = v
	}
	v.attached = v.attached || r.Attachment != ""
	if uid != "" && v.pods[uid] == nil {
		v.pods[uid] = &use{published: map[string]*published{}}
	}
	return v
}
