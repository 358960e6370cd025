package mdn

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hispnode/hisp/hisp/mimetree"
)

// Parse reads a notice from a whole message. A message that is no report is
// ErrNotReport (and IsReport is false for it), one that cannot be read, or that
// two readers could read in two ways, ErrMalformed. A Notice without Disposition
// is returned with "": it is no success. So is one without a
// readable Final-Recipient. All values come back as one line of valid UTF-8.
func Parse(msg []byte) (Report, error) {
	if !IsReport(msg) {
		return Report{}, ErrNotReport
	}
	root, err := mimetree.Parse(msg)
	if err != nil {
		return Report{}, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	header := readHeader(msg)
	if !header.agree(fieldContentType) || root.Defects&mimetree.DuplicateParam != 0 {
		return Report{}, fmt.Errorf("%w: ambiguous content type", ErrMalformed)
	}
	kind, part := findReport(root, header.first(fieldContentType))
	if part == nil {
		return Report{}, fmt.Errorf("%w: not exactly one report part", ErrMalformed)
	}
	body, err := part.Decode(msg)
	if err != nil || len(body) > maxReport {
		return Report{}, fmt.Errorf("%w: encoding or size of the report part", ErrMalformed)
	}
	if kind == noticeReport {
		n, err := parseNotice(body, header)
		if err != nil {
			return Report{}, err
		}
		return Report{Notice: &n}, nil
	}
	s, err := parseStatus(body, originalID(msg, root, header))
	if err != nil {
		return Report{}, err
	}
	return Report{Status: &s}, nil
}

// findReport returns the one part that holds the fields, which is the message
// itself or a part right below it: a notice that a person forwards as an
// attachment is deeper and is not meant for us.
func findReport(root *mimetree.Part, contentType string) (reportKind, *mimetree.Part) {
	if root.MediaType != typeReport {
		if kind := kindOf(contentTypeOf(root)); kind != notReport {
			return kind, root
		}
		return notReport, nil
	}
	declared := kindOf(parseContentType(contentType))
	var found *mimetree.Part
	var foundKind reportKind
	for _, p := range root.Parts {
		kind := kindOf(contentTypeOf(p))
		if kind == notReport || kind == anyReport || declared != anyReport && kind != declared {
			continue
		}
		if found != nil {
			return notReport, nil
		}
		found, foundKind = p, kind
	}
	return foundKind, found
}

func contentTypeOf(p *mimetree.Part) contentType { return contentType{p.MediaType, p.Params} }

// parseNotice reads the fields of a disposition notification. They are one
// group; senders that separate them by empty lines are forgiven, two values
// for one field that decides are not.
func parseNotice(body []byte, header fields) (Notice, error) {
	fs := slices.Concat(readGroups(body)...)
	for _, name := range []string{fieldDisposition, fieldFinalRecipient, fieldOriginalMessageID} {
		if !fs.agree(name) {
			return Notice{}, fmt.Errorf("%w: two values of one field", ErrMalformed)
		}
	}
	n := Notice{
		ReportingUA:       clean(fs.first(fieldReportingUA)),
		Gateway:           clean(withoutType(fs.first(fieldGateway))),
		OriginalRecipient: address(fs.first(fieldOriginalRecipient)),
		FinalRecipient:    address(fs.first(fieldFinalRecipient)),
		OriginalMessageID: messageID(fs.first(fieldOriginalMessageID)),
		Error:             cleanAll(fs.all(fieldError)),
		Failure:           cleanAll(fs.all(fieldFailure)),
		Warning:           cleanAll(fs.all(fieldWarning)),
		FinalDestination:  fs.has(fieldFinalDestination),
	}
	if n.OriginalMessageID == "" {
		n.OriginalMessageID = messageID(header.first(fieldInReplyTo))
	}
	n.Disposition, n.Modifiers = parseDisposition(fs.first(fieldDisposition))
	return n, nil
}

// parseDisposition reads "mode/mode; type/modifier,…" (RFC 8098 §3.2.6). Case and
// white space do not matter; "failure" is what ETT takes for failed. Without a
// type it returns "".
func parseDisposition(value string) (Disposition, []string) {
	_, what, found := strings.Cut(strings.ToLower(stripComments(value)), ";")
	if !found {
		return "", nil
	}
	kind, modifiers, _ := strings.Cut(what, "/")
	d := Disposition(strings.TrimSpace(kind))
	if !isToken(string(d)) {
		return "", nil
	}
	if d == modifierFailure {
		d = Failed
	}
	var list []string
	for m := range strings.SplitSeq(modifiers, ",") {
		if m = strings.TrimSpace(m); isToken(m) {
			list = append(list, m)
		}
	}
	return d, list
}

// parseStatus reads a delivery status: a group of fields about the message and
// one for each recipient (RFC 3464 §2.1). A sender that forgot the empty line
// between the first two is forgiven.
func parseStatus(body []byte, fallbackID string) (Status, error) {
	var s Status
	groups := readGroups(body)
	for _, fs := range groups {
		if s.ReportingMTA == "" {
			s.ReportingMTA = clean(withoutType(fs.first(fieldReportingMTA)))
		}
		for _, name := range []string{fieldXOriginalID, fieldOriginalMessageID} {
			if s.OriginalMessageID == "" {
				s.OriginalMessageID = messageID(fs.first(name))
			}
		}
		if r, ok := parseRecipient(fs); ok {
			s.Recipients = append(s.Recipients, r)
		}
	}
	if len(s.Recipients) == 0 || len(s.Recipients) > maxRecipients {
		return Status{}, fmt.Errorf("%w: no recipient, or too many", ErrMalformed)
	}
	if s.OriginalMessageID == "" {
		s.OriginalMessageID = fallbackID
	}
	return s, nil
}

func parseRecipient(fs fields) (RecipientStatus, bool) {
	r := RecipientStatus{
		OriginalRecipient: address(fs.first(fieldOriginalRecipient)),
		FinalRecipient:    address(fs.first(fieldFinalRecipient)),
		Action:            Action(strings.ToLower(clean(stripComments(fs.first(fieldAction))))),
		Status:            clean(stripComments(fs.first(fieldStatus))),
		Diagnostic:        clean(withoutType(fs.first(fieldDiagnostic))),
	}
	if r.FinalRecipient == "" {
		r.FinalRecipient = r.OriginalRecipient
	}
	return r, r.FinalRecipient != "" && fs.agree(fieldFinalRecipient) && fs.agree(fieldAction)
}

// originalID finds the Message-ID of the original of a DSN without
// X-Original-Message-ID: In-Reply-To, else the header that was returned.
func originalID(msg []byte, root *mimetree.Part, header fields) string {
	if id := messageID(header.first(fieldInReplyTo)); id != "" {
		return id
	}
	for _, p := range root.Parts {
		switch {
		case p.MediaType == typeHeaders:
			if body, err := p.Decode(msg); err == nil {
				return messageID(readHeader(body).first(fieldMessageID))
			}
		case len(p.Parts) == 1: // message/rfc822
			text, _ := p.Parts[0].Get(msg, fieldMessageID)
			return messageID(clean(text))
		}
	}
	return ""
}

// agree tells whether all fields called name have the same value.
func (fs fields) agree(name string) bool {
	values := fs.all(name)
	for i := range values {
		if !strings.EqualFold(values[i], values[0]) {
			return false
		}
	}
	return true
}

// withoutType removes "dns;" or "smtp;" from a typed value.
func withoutType(value string) string {
	if kind, rest, found := strings.Cut(value, ";"); found && isToken(strings.TrimSpace(kind)) {
		return rest
	}
	return value
}

func cleanAll(values []string) []string {
	var out []string
	for _, v := range values {
		if v = clean(v); v != "" {
			out = append(out, v)
		}
	}
	return out
}
