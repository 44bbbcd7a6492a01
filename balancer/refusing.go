package balancer

import "slices"

// setApart takes the endpoints out of Ready that refuse more than others, unless all do.
// Policies look at load and latency, and who refuses at once seems to have little of both.
func (v *View) setApart() {
	var sound []Ready
	var all, apart uint64
	for _, r := range v.Ready {
		all += uint64(r.Weight)
		if r.standing.capped() {
			apart += uint64(r.Weight)
			v.refusing = append(v.refusing, r)
		} else {
			sound = append(sound, r)
		}
	}
	if len(v.refusing) == 0 || len(sound) == 0 {
		v.refusing = nil
		return
	}
	v.Ready = sound
	v.refusals = apart << 32 / all
}

// fair is best, which the policy has chosen, or one of those that refuse, as often as their
// weights say and if it has no more load.
func (v *View) fair(best *Ready) *Ready {
	if v.refusals == 0 {
		return best
	}
	random := v.Random()
	if random>>32 >= v.refusals {
		return best
	}
	r := v.drawRefusing(uint32(random))
	if r.Load()*int64(best.Weight) > best.Load()*int64(r.Weight) {
		return best
	}
	return r
}

// drawRefusing draws by weight.
func (v *View) drawRefusing(random uint32) *Ready {
	var all uint64
	for i := range v.refusing {
		all += uint64(v.refusing[i].Weight)
	}
	left := uint64(random) * all >> 32
	for i := range v.refusing {
		if weight := uint64(v.refusing[i].Weight); left < weight {
			return &v.refusing[i]
		} else {
			left -= weight
		}
	}
	return &v.refusing[0]
}

// inRotation are the endpoints that calls go to.
func (v *View) inRotation() []Ready { return slices.Concat(v.Ready, v.refusing) }
