package peers

import (
	"context"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/utils/ptr"

	"github.com/coxswain/cox/client"
)

// published is the name of the Service and of what tells its endpoints.
const published = "kubernetes"

// publish makes the Service's endpoints those servers that live, and says
// which they are. It changes nothing if none does: that is rather a mistake.
func (m *Member) publish(ctx context.Context) ([]netip.AddrPort, error) {
	living, _, err := m.Living(ctx)
	if err != nil || len(living) == 0 {
		return nil, err
	}
	if err := m.publishEndpoints(ctx, living); err != nil {
		return nil, err
	}
	return living, m.publishSlice(ctx, living)
}

// subsets are the endpoints of living, which is sorted by ports.
func subsets(living []netip.AddrPort) []corev1.EndpointSubset {
	var out []corev1.EndpointSubset
	for i, at := range living {
		if i == 0 || at.Port() != living[i-1].Port() {
			out = append(out, corev1.EndpointSubset{Ports: []corev1.EndpointPort{{Name: "https", Port: int32(at.Port()), Protocol: corev1.ProtocolTCP}}})
		}
		s := &out[len(out)-1]
		s.Addresses = append(s.Addresses, corev1.EndpointAddress{IP: at.Addr().String()})
	}
	return out
}

func (m *Member) publishEndpoints(ctx context.Context, living []netip.AddrPort) error {
	want := subsets(living)
	return ensured(ctx, client.Endpoints.In(m.cfg.Door, metav1.NamespaceDefault),
		&corev1.Endpoints{
			ObjectMeta: metav1.ObjectMeta{Name: published, Labels: map[string]string{discoveryv1.LabelSkipMirror: "true"}}, Subsets: want,
		},
		func(e *corev1.Endpoints) bool {
			if apiequality.Semantic.DeepEqual(e.Subsets, want) && e.Labels[discoveryv1.LabelSkipMirror] == "true" {
				return false
			}
			metav1.SetMetaDataLabel(&e.ObjectMeta, discoveryv1.LabelSkipMirror, "true")
			e.Subsets = want
			return true
		})
}

// publishSlice publishes those servers that have the first one's port and
// address family: a slice has one of each.
func (m *Member) publishSlice(ctx context.Context, living []netip.AddrPort) error {
	first := living[0]
	family := discoveryv1.AddressTypeIPv4
	if first.Addr().Is6() {
		family = discoveryv1.AddressTypeIPv6
	}
	ports := []discoveryv1.EndpointPort{{Name: ptr.To("https"), Port: ptr.To(int32(first.Port())), Protocol: ptr.To(corev1.ProtocolTCP)}}
	var endpoints []discoveryv1.Endpoint
	for _, at := range living {
		if at.Port() == first.Port() && at.Addr().Is6() == first.Addr().Is6() {
			endpoints = append(endpoints, discoveryv1.Endpoint{Addresses: []string{at.Addr().String()}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)}})
		}
	}
	slices := client.EndpointSlices.In(m.cfg.Door, metav1.NamespaceDefault)
	want := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: published, Labels: map[string]string{discoveryv1.LabelServiceName: published}},
		AddressType: family, Endpoints: endpoints, Ports: ports,
	}
	if have, err := slices.Get(ctx, published); err == nil && have.AddressType != family { // which cannot be changed
		if err := slices.Delete(ctx, published, client.Options{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return ensured(ctx, slices, want, func(s *discoveryv1.EndpointSlice) bool {
		if apiequality.Semantic.DeepEqual(s.Endpoints, endpoints) && apiequality.Semantic.DeepEqual(s.Ports, ports) &&
			s.Labels[discoveryv1.LabelServiceName] == published {
			return false
		}
		metav1.SetMetaDataLabel(&s.ObjectMeta, discoveryv1.LabelServiceName, published)
		s.Endpoints, s.Ports = endpoints, ports
		return true
	})
}

// ensured creates obj if it is absent, and else changes it.
func ensured[T client.Object](ctx context.Context, r client.Resource[T], obj T, change func(T) bool) error {
	name := obj.GetName()
	if _, err := r.Get(ctx, name); apierrors.IsNotFound(err) {
		if _, err = r.Create(ctx, obj); !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	_, err := r.Mutate(ctx, name, "", func(cur T) (bool, error) { return change(cur), nil })
	if apierrors.IsNotFound(err) {
		return nil // deleted this very moment, of which a watch tells
	}
	return err
}

// followNamed tells of changes of the published object until its watch ends.
func followNamed[T client.Object](ctx context.Context, r client.Resource[T], changed chan<- struct{}) error {
	w, err := r.Watch(ctx, client.Options{FieldSelector: fields.OneTermEqualSelector("metadata.name", published)})
	if err != nil {
		return err
	}
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case _, ok := <-w.ResultChan():
			if !ok {
				return nil
			}
			tell(changed)
		}
	}
}
