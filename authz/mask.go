package authz

import "strings"

// Masked stands for the user name of a login that failed, unless that name once
// succeeded: people type passwords as user names.
const Masked = "(masked)"

// mask takes out of v what could be a secret: the names of logins that did not
// succeed, but for those that are proved, mechanisms that no server accepted, and the
// free text of answers, or with answers false all of it.
func mask(v *Verdict, proved *names, answers bool) {
	if answers {
		v.Answer = SafeAnswer(v)
	} else {
		v.Answer = ""
	}
	v.Mechanism = mechanismName(v.Mechanism, v.Result)
	if v.Result == Success {
		v.User, v.AuthzID = cut(v.User, UserLimit), cut(v.AuthzID, UserLimit)
	} else {
		v.User, v.AuthzID = proved.masked(v.User), proved.masked(v.AuthzID)
	}
}

// masked returns a name as it was once proved, else Masked.
func (s *names) masked(name string) string {
	if name == "" {
		return ""
	}
	if proved := s.get(cut(name, UserLimit)); proved != "" {
		return proved
	}
	return Masked
}

// SafeAnswer is the server's deciding line without what a client can have put
// into it: servers repeat tags, commands and refused user names, and people
// type passwords into all of these. The tag of IMAP is left out always. The
// text is kept only of a success; of anything else the status and a registered
// response code stay. Applied to its own result it changes nothing. The result
// is raw text: print it through Quote.
func SafeAnswer(v *Verdict) string {
	answer := v.Answer
	if len(answer) > AnswerLimit {
		answer = answer[:AnswerLimit]
	}
	if v.Conn.Service.Protocol == IMAP {
		answer = untagged(answer)
	}
	if v.Result == Success {
		if len(answer) < len(v.Answer) {
			return strings.Clone(answer) // and let go of what was cut off
		}
		return answer
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

// untagged drops the tag of an IMAP response, if it has one still: a status is
// a legal tag too, but then a second status follows.
func untagged(answer string) string {
	first, rest, found := strings.Cut(answer, " ")
	second, _, _ := strings.Cut(rest, " ")
	if registered(first, statuses) != "" && registered(second, statuses) == "" {
		return answer
	}
	if !found {
		return ""
	}
	return rest
}

// mechanismName returns a mechanism that is safe to show: of a success any
// legal name, because the server took it for a mechanism; else a known one.
func mechanismName(name string, r Result) string {
	name = strings.ToUpper(name)
	if known := registered(name, mechanisms); known != "" {
		return known
	}
	if r == Success && len(name) <= 20 && strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") == "" {
		return name // RFC 4422 §3.1
	}
	return ""
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
	"SCRAM-SHA-512", "SCRAM-SHA-512-PLUS", "SCRAM-SHA3-512", "SCRAM-SHA3-512-PLUS", "XOAUTH2", "OAUTHBEARER",
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
