package route

// Arm returns the arm of r at a point of [0, 100): arms follow each other, each as long as its
// weight. So evenly distributed points make shares that are the weights. Weights that do not
// sum to 100, because nested splits are rounded, are scaled. It is nil if all arms have
// weight 0.
func (r *Route) Arm(point float64) *Arm {
	total := 0.0
	for _, a := range r.Arms {
		total += a.Weight
	}
	point *= total / 100
	var last *Arm
	for _, a := range r.Arms {
		if a.Weight <= 0 {
			continue
		}
		if last = a; point < a.Weight {
			return a
		}
		point -= a.Weight
	}
	return last
}
