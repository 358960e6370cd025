package mdn

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// Rows DN-01, DN-02, DN-07, MDN-11; ETT MT 39 and MT 40.
func TestRequested(t *testing.T) {
	many := make([]string, 50)
	for i := range many {
		many[i] = fmt.Sprintf("a%d@b.example", i)
	}
	for _, tt := range []struct {
		name, header string
		want         Request
	}{
		{"nothing", "From: a@b.example\n", Request{}},
		{"MT 39", "Disposition-Notification-To: a@b.example\nDisposition-Notification-Options: X-DIRECT-FINAL-DESTINATION-DELIVERY=optional,true\n",
			Request{To: []string{"a@b.example"}, FinalDestination: true}},
		{"option without address", "Disposition-Notification-Options: X-DIRECT-FINAL-DESTINATION-DELIVERY=optional,true\n", Request{FinalDestination: true}},
		{"MT 40, malformed", "Disposition-Notification-Options: X-XXXX-FINAL-X-DELXXXX=optioXXX,tXX\n", Request{}},
		{"value malformed", "Disposition-Notification-Options: X-DIRECT-FINAL-DESTINATION-DELIVERY=optional,tXX\n", Request{}},
		{"importance malformed", "Disposition-Notification-Options: X-DIRECT-FINAL-DESTINATION-DELIVERY=optioXXX,true\n", Request{}},
		{"no value", "Disposition-Notification-Options: X-DIRECT-FINAL-DESTINATION-DELIVERY\n", Request{}},
		{"false", "Disposition-Notification-Options: X-DIRECT-FINAL-DESTINATION-DELIVERY=optional,false\n", Request{}},
		{"only part of a name", "Disposition-Notification-Options: Y-X-DIRECT-FINAL-DESTINATION-DELIVERY=optional,true\n", Request{}},
		{"case, blanks, folding", "disposition-notification-OPTIONS :\n x-direct-final-destination-delivery = Optional ,\n TRUE\n", Request{FinalDestination: true}},
		{"required", "Disposition-Notification-Options: X-DIRECT-FINAL-DESTINATION-DELIVERY=required,true\n", Request{FinalDestination: true}},
		{"among others", "Disposition-Notification-Options: signed-receipt-protocol=optional,pkcs7-signature; X-DIRECT-FINAL-DESTINATION-DELIVERY=optional,true\n",
			Request{FinalDestination: true}},
		{"names, doubles, case", "Disposition-Notification-To: \"B, A\" <a@b.example>, A@B.example (again), <c@D.example>\nDisposition-Notification-To: c@d.example\n",
			Request{To: []string{"a@b.example", "c@d.example"}}},
		{"unreadable addresses", "Disposition-Notification-To: a@b.example, nobody, <x@, c@d.example\n", Request{To: []string{"a@b.example"}}},
		{"in the body", "From: a@b.example\n\nDisposition-Notification-To: a@b.example\n", Request{}},
		{"amplification", "Disposition-Notification-To: " + strings.Join(many, ",") + "\n", Request{To: many[:maxNotifyTo]}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, header := range []string{tt.header, crlf(tt.header)} {
				if got := Requested([]byte(header)); !reflect.DeepEqual(got, tt.want) {
					t.Errorf("Requested = %+v, want %+v", got, tt.want)
				}
			}
		})
	}
}

// Rows BB-16 and MDN-10: in doubt it is a report and gets no answer.
func TestIsReport(t *testing.T) {
	for _, tt := range []struct {
		header string
		want   bool
	}{
		{"Content-Type: multipart/report; report-type=disposition-notification; boundary=b\n", true},
		{"Content-Type: multipart/report; report-type=delivery-status; boundary=b\n", true},
		{"Content-Type: multipart/report; report-type=\"Delivery-Status\"\n", true},
		{"content-TYPE\t: MULTIPART/Report;\n\treport-type = disposition-notification\n", true},
		{"Content-Type: multipart/report\n", true},
		{"Content-Type: multipart/report; report-type=\n", true},
		{"Content-Type: multipart/report; ; ;x\n", true},
		{"Content-Type: multipart / report; report-type=delivery-status; report-type=other\n", true},
		{"Content-Type: multipart/report (comment; x); report-type=(c) delivery-status\n", true},
		{"Content-Type: message/disposition-notification\n", true},
		{"Content-Type: message/global-delivery-status\n", true},
		{"Content-Type: text/plain\nContent-Type: message/delivery-status\n", true},
		{"Content-Type: multipart/report; report-type=feedback-report\n", false},
		{"Content-Type: multipart/mixed; x=\"multipart/report; report-type=delivery-status\"\n", false},
		{"Content-Type: text/plain\n\nContent-Type: message/delivery-status\n", false},
		{"X-Content-Type: message/delivery-status\n", false},
		{"Subject: Processed: x\n", false},
		{"", false},
	} {
		if got := IsReport([]byte(tt.header)); got != tt.want {
			t.Errorf("IsReport(%q) = %v, want %v", tt.header, got, tt.want)
		}
	}
}
