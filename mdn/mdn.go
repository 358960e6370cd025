// Package mdn composes and parses the notices about a message: disposition
// notifications (MDN, RFC 8098 and RFC 3798 before it, with the processed,
// dispatched and failed dispositions of the Direct Implementation Guide for
// Delivery Notification) and delivery status notifications (DSN, RFC 3464 in
// the multipart/report of RFC 6522).
//
// What it composes is exact, because receivers compare strings; what it parses
// may be odd, because senders are. It is bytes in and values out: it does not
// seal, send, keep track or decide whether a notice is to be believed. Values
// it returns are PHI and never part of its errors.
package mdn

import (
	"errors"
	"slices"
	"time"
)

// Errors of this package. None of them repeats a value.
var (
	// ErrNotReport means that the message is neither an MDN nor a DSN.
	ErrNotReport = errors.New("mdn: not a disposition or delivery status report")
	// ErrMalformed means that the message says it is a report and cannot be
	// read as one.
	ErrMalformed = errors.New("mdn: malformed report")
	// ErrUnsafe means that a value to be written holds a control character,
	// or is not what its field takes; nothing was composed.
	ErrUnsafe = errors.New("mdn: value not safe in a header field")
)

// Disposition is the disposition-type of an MDN in lower case (RFC 8098
// §3.2.6.2; Direct delivery notification guide §1.2).
type Disposition string

const (
	Processed  Disposition = "processed"  // decrypted, verified, trusted, in custody of the receiving HISP
	Dispatched Disposition = "dispatched" // at its final destination
	Displayed  Disposition = "displayed"  // a read receipt and nothing else
	Failed     Disposition = "failed"     // will not be delivered
	Denied     Disposition = "denied"     // read only: RFC 2298
	Deleted    Disposition = "deleted"    // read only: undefined in Direct (row MDN-06)
	Error      Disposition = "error"      // read only: written by some as a type
)

// IsFailure tells whether d says that the message will not be delivered.
// Deleted does not: its meaning is undefined (row MDN-06).
func (d Disposition) IsFailure() bool { return d == Failed || d == Denied || d == Error }

// IsFailure tells whether n says that the message was not or will not be
// handled: by its disposition or by the modifier error or failure (NHIN Direct proposal,
// MDN).
func (n Notice) IsFailure() bool {
	return n.Disposition.IsFailure() ||
		slices.Contains(n.Modifiers, modifierError) || slices.Contains(n.Modifiers, modifierFailure)
}

// Header is the header of a notice to compose. Addresses are addr-specs
// without display name or brackets, Message-IDs have their angle brackets.
type Header struct {
	From      string
	To        string
	Subject   string // subject of the original; "" writes only the outcome
	MessageID string // of the notice itself
	InReplyTo string // "" writes none
	Date      time.Time
}

// Notice is the content of a disposition notification.
type Notice struct {
	ReportingUA       string // "host; product", the product may be missing
	Gateway           string // name of the MDN-Gateway, "" if none
	OriginalRecipient string // addr-spec, "" if not known
	FinalRecipient    string // addr-spec; as parsed with its domain in lower case
	OriginalMessageID string // with angle brackets; as parsed from In-Reply-To when the field is missing
	Disposition       Disposition
	Modifiers         []string // "error", "failure", "warning", lower case
	Error             []string
	Failure           []string
	Warning           []string
	FinalDestination  bool // field X-DIRECT-FINAL-DESTINATION-DELIVERY is present (row DN-03)
}

// Status is the content of a delivery status notification.
type Status struct {
	ReportingMTA      string // host name
	OriginalMessageID string // with angle brackets: X-Original-Message-ID; as parsed else In-Reply-To
	Recipients        []RecipientStatus
}

// Action is the action field of a DSN in lower case (RFC 3464 §2.3.3).
type Action string

const (
	ActionFailed    Action = "failed"    // will not be delivered
	ActionDelayed   Action = "delayed"   // still tried
	ActionDelivered Action = "delivered" // at its destination
	ActionRelayed   Action = "relayed"   // handed to a system that sends no notices
	ActionExpanded  Action = "expanded"  // handed to several, as a list does
)

// RecipientStatus is the fate of one recipient in a Status.
type RecipientStatus struct {
	OriginalRecipient string // addr-spec, "" if not known
	FinalRecipient    string // addr-spec
	Action            Action
	Status            string // enhanced status code such as "5.1.1" (RFC 3463)
	Diagnostic        string // text after "smtp;", "" if none
}

// Report is what Parse found: one of its fields is set.
type Report struct {
	Notice *Notice
	Status *Status
}

// Request is what a message asks its receiver to notify.
type Request struct {
	// To are the addr-specs of Disposition-Notification-To, each once. The
	// receiver uses From when there is none (row MDN-11).
	To []string
	// FinalDestination asks for a dispatched or failed notice
	// (X-DIRECT-FINAL-DESTINATION-DELIVERY=optional,true; row DN-01).
	FinalDestination bool
}
