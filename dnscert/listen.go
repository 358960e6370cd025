package dnscert

import (
	"errors"
	"io/fs"
	"syscall"

	"github.com/hispnode/hisp/hisp"
)

// listenError says in the operator's words why the port could not be opened.
func listenError(err error) error {
	e := &hisp.Error{Op: "dnscert.NewServer", Kind: hisp.Internal, Hint: "the DNS address to listen on is not usable; it is host:port", Err: err}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		e.Kind, e.Hint = hisp.Conflict, "the DNS port is in use by another program; stop it or configure another address"
	case errors.Is(err, fs.ErrPermission):
		e.Kind, e.Hint = hisp.Denied, "ports below 1024 need CAP_NET_BIND_SERVICE; grant it or configure a higher port"
	}
	return e
}
