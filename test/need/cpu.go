package need

import (
	"testing"
	"time"
)

// raceFactor is how much slower code may be under the race detector.
const raceFactor = 15

// CPU runs fn and fails the test if that took more processor time than limit,
// or 15 times that under the race detector. It is for inputs made to burn
// time: unlike the clock on the wall it does not depend on what else the
// machine does. Tests that use it must not run in parallel with others of
// their package.
func CPU(t testing.TB, limit time.Duration, fn func()) {
	t.Helper()
	if raceEnabled {
		limit *= raceFactor
	}
	before, ok := processTime()
	fn()
	after, _ := processTime()
	if used := after - before; ok && used > limit {
		t.Errorf("used %v of processor time, want at most %v", used, limit)
	}
}

// CPUTime is the processor time this process has used so far; 0 where that is
// not known.
func CPUTime() time.Duration {
	used, _ := processTime()
	return used
}
