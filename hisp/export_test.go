package hisp

import "context"

// ExpireTracks runs one turn of the wait for notices.
func (n *Node) ExpireTracks(ctx context.Context) error { return n.expireTracks(ctx) }

// ForgetTracks drops what need not be remembered any longer.
func (n *Node) ForgetTracks(ctx context.Context) error { return n.forget(ctx) }
