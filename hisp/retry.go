package hisp

import "time"

// RetryPolicy is the schedule of tries for what failed for the time being
// (RFC 5321 §4.5.4.1; row BB-15). Zero fields mean the defaults.
type RetryPolicy struct {
	First  time.Duration // before the second try, 30 s
	Factor float64       // each further delay is longer by this, 2
	Max    time.Duration // no delay is longer, 1 h
	MaxAge time.Duration // after this the item is given up, 24 h
}

func (p *RetryPolicy) setDefaults() {
	setDefault(&p.First, 30*time.Second)
	setDefault(&p.Factor, 2)
	setDefault(&p.Max, time.Hour)
	setDefault(&p.MaxAge, 24*time.Hour)
}

// delay is the time to wait after the given number of earlier failures.
func (p RetryPolicy) delay(attempt int) time.Duration {
	d := p.First
	for range attempt {
		d = time.Duration(float64(d) * p.Factor)
		if d >= p.Max || d <= 0 {
			return p.Max
		}
	}
	return min(d, p.Max)
}

// expired tells whether an item created then is too old to try again.
func (p RetryPolicy) expired(created, now time.Time) bool {
	return now.Sub(created) >= p.MaxAge
}
