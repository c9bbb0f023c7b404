package core

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"k8s.io/apimachinery/pkg/util/uuid"

	"github.com/coxswain/cox/api"
	"github.com/coxswain/cox/api/podspec"
	"github.com/coxswain/cox/api/printing"
)

func limitRange() *api.Kind {
	k := row("LimitRange", "limitranges", "limitrange", true, "limitranges", "limits")
	k.New, k.NewList = api.New[corev1.LimitRange](), api.New[corev1.LimitRangeList]()
	k.Strategy = api.Strategy{
		Default: api.On(defaultLimitRange),
		PrepareCreate: api.On(func(l *corev1.LimitRange) {
			if l.Name == "" { // it may come without a name
				l.Name = string(uuid.NewUUID())
			}
		}),
		Validate:            api.Check(validateLimitRange),
		ValidateUpdate:      api.Check2(func(l, _ *corev1.LimitRange) field.ErrorList { return validateLimitRange(l) }),
		AllowCreateOnUpdate: true,
	}
	k.Columns = []metav1.TableColumnDefinition{
		printing.Name(),
		{Name: "Created At", Type: "date", Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"]},
	}
	k.Cells = api.Cells(func(l *corev1.LimitRange) []any {
		return []any{l.Name, l.CreationTimestamp.UTC().Format(time.RFC3339)}
	})
	return k
}

// defaultLimitRange fills, for containers, defaults from maxima and default
// requests from defaults and then minima.
func defaultLimitRange(l *corev1.LimitRange) {
	for i := range l.Spec.Limits {
		item := &l.Spec.Limits[i]
		for _, list := range []corev1.ResourceList{item.Max, item.Min, item.Default, item.DefaultRequest, item.MaxLimitRequestRatio} {
			podspec.RoundUp(list)
		}
		if item.Type != corev1.LimitTypeContainer {
			continue
		}
		fill(&item.Default, item.Max)
		fill(&item.DefaultRequest, item.Default)
		fill(&item.DefaultRequest, item.Min)
	}
}

// fill makes *to and copies into it what from has and it has not.
func fill(to *corev1.ResourceList, from corev1.ResourceList) {
	if *to == nil {
		*to = corev1.ResourceList{}
	}
	for name, q := range from {
		if _, ok := (*to)[name]; !ok {
			(*to)[name] = q.DeepCopy()
		}
	}
}
