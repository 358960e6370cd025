package dnscert

import (
	"errors"
	"strings"
	"time"

	"github.com/hispnode/hisp/hisp"
	"github.com/miekg/dns"
)

// Records renders z as zone-file lines (RFC 1035 §5), one complete record a
// line with absolute names, for an operator whose own name server publishes
// them: SOA first (its serial is now), NS, then the rest; of a zone that is published
// elsewhere only the rest. They are what Server
// would answer. Local parts stand in the owner names: the lines are as public
// as DNS, but nothing for a log.
//
// What cannot be published is left out and is one Malformed error, whose text
// says what, beside the lines of the rest.
func Records(z Zone, now time.Time) ([]string, error) {
	apex, rrs, problems := zoneRecords(z)
	var lines []string
	if apex != "" {
		if !z.Elsewhere {
			soa := soaRecord(z, apex)
			soa.Serial = uint32(now.Unix())
			lines = append(lines, line(soa))
		}
		for _, rr := range rrs {
			lines = append(lines, line(rr))
		}
	}
	if len(problems) == 0 {
		return lines, nil
	}
	causes := make([]error, 0, len(problems))
	for _, p := range problems {
		causes = append(causes, errors.New(p.Text))
	}
	return lines, &hisp.Error{Op: "dnscert.Records", Kind: hisp.Malformed,
		Hint: "some records cannot be published: " + problems[0].Text, Err: errors.Join(causes...)}
}

// line writes rr with blanks instead of tabs; octets that mean something in a
// zone file are escaped in names already, except a leading dollar sign, which
// would start a control entry.
func line(rr dns.RR) string {
	s := strings.ReplaceAll(rr.String(), "\t", " ")
	if strings.HasPrefix(s, "$") {
		s = `\` + s
	}
	return s
}
