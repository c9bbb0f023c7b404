package devices

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
)

// classes are the device classes, by name and by the extended resource that
// they stand for. It implements structured.DeviceClassLister.
type classes struct {
	byName map[string]*resourcev1.DeviceClass
	// byResource is made anew after each change: classes are few and change
	// seldom.
	byResource map[corev1.ResourceName]string
}

func newClasses() classes {
	return classes{byName: map[string]*resourcev1.DeviceClass{}, byResource: map[corev1.ResourceName]string{}}
}

// SetClass takes in a device class.
func (l *Ledger) SetClass(c *resourcev1.DeviceClass) {
	l.classes.byName[c.Name] = c
	l.classes.index()
	l.changed()
}

// RemoveClass forgets a device class.
func (l *Ledger) RemoveClass(name string) {
	delete(l.classes.byName, name)
	l.classes.index()
	l.changed()
}

// index notes which class serves which extended resource: of several the one
// made last, and of those the first by name; and every class the name that is
// made of its own (KEP-5004).
func (c *classes) index() {
	c.byResource = make(map[corev1.ResourceName]string, 2*len(c.byName))
	for _, class := range c.byName {
		c.byResource[corev1.ResourceName(resourcev1.ResourceDeviceClassPrefix+class.Name)] = class.Name
	}
	for _, class := range c.byName {
		if class.Spec.ExtendedResourceName == nil {
			continue
		}
		name := corev1.ResourceName(*class.Spec.ExtendedResourceName)
		have := c.byName[c.byResource[name]]
		if have == nil || have.CreationTimestamp.Before(&class.CreationTimestamp) ||
			have.CreationTimestamp.Equal(&class.CreationTimestamp) && class.Name < have.Name {
			c.byResource[name] = class.Name
		}
	}
}

// ClassFor returns the class whose devices serve an extended resource; ""
// where none does.
func (l *Ledger) ClassFor(resource corev1.ResourceName) string { return l.classes.byResource[resource] }

// List implements structured.DeviceClassLister.
func (c *classes) List() ([]*resourcev1.DeviceClass, error) {
	out := make([]*resourcev1.DeviceClass, 0, len(c.byName))
	for _, class := range c.byName {
		out = append(out, class)
	}
	return out, nil
}

// Get implements structured.DeviceClassLister.
func (c *classes) Get(name string) (*resourcev1.DeviceClass, error) {
	if class := c.byName[name]; class != nil {
		return class, nil
	}
	return nil, apierrors.NewNotFound(resourcev1.Resource("deviceclasses"), name)
}

// ClaimsOf lists the claims that name a class in a request.
func (l *Ledger) ClaimsOf(class string) []types.NamespacedName {
	var out []types.NamespacedName
	for key, c := range l.claims {
		if slices.ContainsFunc(c.Spec.Devices.Requests, func(r resourcev1.DeviceRequest) bool {
			return r.Exactly != nil && r.Exactly.DeviceClassName == class ||
				slices.ContainsFunc(r.FirstAvailable, func(s resourcev1.DeviceSubRequest) bool { return s.DeviceClassName == class })
		}) {
			out = append(out, key)
		}
	}
	return out
}
