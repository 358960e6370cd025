package hisp

import (
	"context"
	"strings"

	"github.com/hispnode/hisp/hisp/mimetree"
)

var _ Receiver = (*Node)(nil)

// Receive takes a message from another HISP. What is not encrypted S/MIME is
// refused at once, because that says nothing about keys or trust (row BB-05);
// everything else is found out after the peer has been answered.
func (n *Node) Receive(ctx context.Context, env Envelope, msg Message) error {
	if env.ID == "" {
		env.ID = NewID(n.now())
	}
	id, err := n.checkReceived(env, msg)
	if err != nil {
		n.refuse(ctx, AuditReceive, env, err)
		return err
	}
	now := n.now()
	rec := n.auditRecord(AuditReceive, env, OutcomeOK)
	rec.Domain, rec.Private.MessageID = env.From.Domain, id
	err = n.Queue.Commit(ctx, Step{
		Queue: []Item{{ID: NewID(now), Work: WorkOpen, Envelope: env, Message: msg, Created: now, Due: now}},
		Audit: []AuditRecord{rec},
	})
	if err != nil {
		return err
	}
	n.Log.Info("received", "id", env.ID, "domain", env.From.Domain, "recipients", len(env.To), "octets", msg.Size())
	return nil
}

// checkReceived returns the outer Message-ID.
func (n *Node) checkReceived(env Envelope, msg Message) (string, error) {
	if err := n.checkSize(env, msg, MaxSealed(n.MaxMessage)); err != nil {
		return "", err
	}
	h, err := parseHeader(msg.Bytes())
	if err != nil {
		return "", err
	}
	if !isEnveloped(msg.Bytes()) {
		return "", &Error{Op: "hisp.Receive", Kind: Unprotected, Hint: "this host takes only Direct messages: S/MIME, signed and then encrypted (application/pkcs7-mime; smime-type=enveloped-data)"}
	}
	return strings.TrimSpace(h.first(fieldMessageID)), nil
}

// isEnveloped tells whether the whole message is encrypted S/MIME.
func isEnveloped(msg []byte) bool {
	root, err := mimetree.Parse(msg)
	return err == nil && root.Defects == 0 && root.Protection(msg) == mimetree.Enveloped
}
