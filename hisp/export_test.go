package hisp

import "context"

// ExpireTracks runs one turn of the wait for notices.
func (n *Node) ExpireTracks(ctx context.Context) error { return n.expireTracks(ctx) }
