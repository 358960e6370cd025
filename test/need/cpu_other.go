//go:build !unix

package need

import "time"

// processTime is not known here; CPU then only runs its function.
func processTime() (time.Duration, bool) { return 0, false }
