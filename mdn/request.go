package mdn

import (
	"slices"
	"strings"
)

// Parameter of Disposition-Notification-Options by which a sender asks for a
// notice at the final destination, with the importances and the value that
// count (RFC 8098 §2.2; Direct delivery notification guide §1.3; row DN-01).
const (
	optionFinalDestination = fieldFinalDestination
	importanceOptional     = "optional"
	importanceRequired     = "required"
	optionTrue             = "true"
)

// Requested reads what the header of a message, or the whole message, asks for. A
// malformed option counts as not given (row DN-07). More than ten addresses are
// an attempt at amplification and cut off there.
func Requested(msg []byte) Request {
	header := readHeader(msg)
	var r Request
	for _, value := range header.all(fieldNotifyTo) {
		for _, item := range split(value, ',') {
			if addr := address(item); addr != "" && len(r.To) < maxNotifyTo && !containsFold(r.To, addr) {
				r.To = append(r.To, addr)
			}
		}
	}
	for _, value := range header.all(fieldNotifyOptions) {
		r.FinalDestination = r.FinalDestination || asksFinalDestination(value)
	}
	return r
}

func containsFold(list []string, s string) bool {
	return slices.ContainsFunc(list, func(e string) bool { return strings.EqualFold(e, s) })
}

// asksFinalDestination reads "attribute=importance,value[,value]; …".
func asksFinalDestination(options string) bool {
	for _, option := range split(stripComments(options), ';') {
		name, value, _ := strings.Cut(option, "=")
		if !strings.EqualFold(strings.TrimSpace(name), optionFinalDestination) {
			continue
		}
		importance, choice, _ := strings.Cut(value, ",")
		importance = strings.ToLower(strings.TrimSpace(importance))
		if (importance == importanceOptional || importance == importanceRequired) &&
			strings.EqualFold(strings.TrimSpace(choice), optionTrue) {
			return true
		}
	}
	return false
}

// IsReport tells from the header of a message, or from the whole message, whether
// it is an MDN or a DSN, which must never be answered by a notice (row BB-16). It
// looks at the header only, and when in doubt says yes: a multipart/report
// without report-type, or one of several Content-Type fields, is enough.
func IsReport(msg []byte) bool {
	for _, value := range readHeader(msg).all(fieldContentType) {
		if kindOf(parseContentType(value)) != notReport {
			return true
		}
	}
	return false
}

func readHeader(msg []byte) fields {
	fs, _ := readGroup(msg[:min(len(msg), maxHeader)])
	return fs
}

// globalPrefix stands before a report type for addresses beyond ASCII, RFC 6533
// §4 to §6; some senders also write it in report-type.
const globalPrefix = "global-"

// reportKind says what a media type announces.
type reportKind uint8

const (
	notReport reportKind = iota
	anyReport            // multipart/report that does not say which
	noticeReport
	statusReport
)

func kindOf(c contentType) reportKind {
	switch c.mediaType {
	case typeNotice, typeNoticeGlobal:
		return noticeReport
	case typeStatus, typeStatusGlobal:
		return statusReport
	case typeReport:
		switch strings.ToLower(c.params[paramReportType]) {
		case reportDisposition, globalPrefix + reportDisposition:
			return noticeReport
		case reportStatus, globalPrefix + reportStatus:
			return statusReport
		case "":
			return anyReport
		}
	}
	return notReport
}

// contentType is a media type in lower case with its parameters.
type contentType struct {
	mediaType string
	params    map[string]string // names in lower case; the first of a name counts
}

// parseContentType forgives what mime.ParseMediaType does not: doubled and
// broken parameters, because a sender must not get an answer to a notice by
// writing it badly.
func parseContentType(value string) contentType {
	items := split(stripComments(value), ';')
	c := contentType{strings.ToLower(strings.Join(strings.Fields(items[0]), "")), map[string]string{}}
	for _, item := range items[1:] {
		name, v, found := strings.Cut(item, "=")
		name = strings.ToLower(strings.TrimSpace(name))
		if _, known := c.params[name]; known || !found {
			continue
		}
		v = strings.TrimSpace(v)
		if len(v) >= 2 && v[0] == '"' && v[len(v)-1] == '"' {
			v = unescape(v[1 : len(v)-1])
		}
		c.params[name] = v
	}
	return c
}

// unescape removes the backslashes of a quoted-string.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
