package core

import (
	"fmt"
	"net"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/printing"
)

func endpoints() *api.Kind {
	k := row("Endpoints", "endpoints", "endpoints", true, "services/endpoints", "ep")
	k.New, k.NewList = api.New[corev1.Endpoints](), api.New[corev1.EndpointsList]()
	k.Strategy = api.Strategy{
		Default:             api.On(defaultEndpoints),
		Validate:            api.Check(validateEndpoints),
		ValidateUpdate:      api.Check2(validateEndpointsUpdate),
		Warnings:            warnings(endpointsWarnings),
		AllowCreateOnUpdate: true,
	}
	k.Views[0].Deprecated = "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"
	k.Columns = []metav1.TableColumnDefinition{
		printing.Name(),
		printing.String("Endpoints", corev1.Endpoints{}.SwaggerDoc()["subsets"]),
		printing.AgeColumn(),
	}
	k.Cells = api.Cells(func(e *corev1.Endpoints) []any {
		return []any{e.Name, formatEndpoints(e), printing.Age(e.CreationTimestamp)}
	})
	return k
}

func defaultEndpoints(e *corev1.Endpoints) {
	for i := range e.Subsets {
		for j := range e.Subsets[i].Ports {
			def(&e.Subsets[i].Ports[j].Protocol, corev1.ProtocolTCP)
		}
	}
}

// formatEndpoints shows the first three endpoints and counts the others.
func formatEndpoints(e *corev1.Endpoints) string {
	const shown = 3
	var list []string
	n := 0
	add := func(s string) {
		if n++; n <= shown {
			list = append(list, s)
		}
	}
	for _, s := range e.Subsets {
		if len(s.Ports) == 0 {
			for _, a := range s.Addresses {
				add(a.IP)
			}
		}
		for _, p := range s.Ports {
			for _, a := range s.Addresses {
				add(net.JoinHostPort(a.IP, strconv.Itoa(int(p.Port))))
			}
		}
	}
	out := strings.Join(list, ",")
	if n > shown {
		out += fmt.Sprintf(" + %d more...", n-shown)
	}
	if len(e.Subsets) == 0 {
		return printing.None
	}
	return out
}
