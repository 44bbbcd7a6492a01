package scrape_test

import (
	"reflect"
	"testing"

	"github.com/meshlite-go/meshlite/internal/scrape"
)

// Every figure of several processes is their sum, and there are rates if one has them.
func TestEveryFigureIsAddedUp(t *testing.T) {
	var sum scrape.Figures
	for process := range 2 {
		one := scrape.Figures{Rated: process == 0, Latency: scrape.Histogram{0.1: 1, 1: 2}}
		fields := reflect.ValueOf(&one).Elem()
		for i := range fields.NumField() {
			if f := fields.Field(i); f.Kind() == reflect.Float64 {
				f.SetFloat(float64((i + 1) * (1 + 99*process)))
			}
		}
		sum.Add(one)
	}
	fields, figures := reflect.ValueOf(sum), 0
	for i := range fields.NumField() {
		if f := fields.Field(i); f.Kind() == reflect.Float64 {
			figures++
			if got, want := f.Float(), float64((i+1)*101); got != want {
				t.Errorf("%s is %v, want %v", fields.Type().Field(i).Name, got, want)
			}
		}
	}
	if figures < 6 || !sum.Rated || sum.Latency[0.1] != 2 || sum.Latency[1] != 4 {
		t.Errorf("of %d figures the sum is %+v", figures, sum)
	}
}
