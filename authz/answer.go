package authz

import "strings"

// SafeAnswer is the server's deciding line without what a client can have put
// into it: servers repeat tags, commands and refused user names, and people
// type passwords into all of these. The tag of IMAP is left out always. The
// text is kept only of a success; of anything else the status and a registered
// response code stay. The result is raw text: print it through Quote.
func SafeAnswer(v Verdict) string {
	answer := v.Answer
	if len(answer) > AnswerLimit {
		answer = answer[:AnswerLimit]
	}
	if v.Conn.Service.Protocol == IMAP {
		_, rest, found := strings.Cut(answer, " ")
		if !found {
			return ""
		}
		answer = rest
	}
	if v.Result == Success {
		return strings.Clone(answer)
	}
	status, text, _ := strings.Cut(answer, " ")
	status = registered(strings.ToUpper(status), statuses)
	code, _, closed := strings.Cut(strings.TrimPrefix(text, "["), "]")
	if status == "" || !strings.HasPrefix(text, "[") || !closed {
		return status
	}
	if code = registered(strings.ToUpper(code), codes); code == "" {
		return status
	}
	return status + " [" + code + "]"
}

// statuses of RFC 1939 §3 and RFC 9051 §7.1.
var statuses = []string{"+OK", "-ERR", "OK", "NO", "BAD", "BYE", "PREAUTH"}

// codes are the response codes without arguments that answer a login: RFC 2449
// §8.1, RFC 3206, RFC 5530 §3 and RFC 9051 §7.1.
var codes = []string{
	"LOGIN-DELAY", "IN-USE", "SYS/TEMP", "SYS/PERM", "AUTH",
	"UNAVAILABLE", "AUTHENTICATIONFAILED", "AUTHORIZATIONFAILED", "EXPIRED",
	"PRIVACYREQUIRED", "CONTACTADMIN", "INUSE", "SERVERBUG", "CLIENTBUG",
	"LIMIT", "ALERT",
}

// mechanisms are those that a dialogue names: the commands USER, APOP and LOGIN
// and the SASL mechanisms in use (IANA registry).
var mechanisms = []string{
	"USER", "APOP", "LOGIN", "PLAIN", "CRAM-MD5", "DIGEST-MD5",
	"SCRAM-SHA-1", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS",
	"SCRAM-SHA-512", "SCRAM-SHA-512-PLUS", "XOAUTH2", "OAUTHBEARER",
	"GSSAPI", "GSS-SPNEGO", "NTLM", "EXTERNAL", "ANONYMOUS", "OTP", "SKEY",
}

// registered returns the member of list that equals s, else "", so that
// nothing of s itself is kept.
func registered(s string, list []string) string {
	for _, known := range list {
		if s == known {
			return known
		}
	}
	return ""
}
