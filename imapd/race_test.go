//go:build race

package imapd

// raceEnabled: the race detector's memory is not the edge's.
const raceEnabled = true
