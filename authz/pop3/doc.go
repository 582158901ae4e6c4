// Package pop3 reads one POP3 connection (RFC 1939, RFC 2449, RFC 5034) and
// says which login the server accepted.
//
// POP3 answers carry no name of their command. All that ties "+OK" to PASS is
// order and number. The client is a stranger who may send any octets, and
// servers differ in where they cut a line. So the package does not ask how the
// server reads a line: it believes only where all servers must read the same.
//
// Chunks come in the order that authz.Chunk tells: an answer that is delivered before
// a line was, was written by a server that had not seen that line. The rules below are
// checked in doubt.go, but for those on single arguments and answers.
//
// # In step
//
// The server owes nothing if every earlier line of the client was complete and
// has had its complete answer, and no further answer has begun. A command that
// begins then is in step. While nothing is released behind it, the next answer
// is the answer to it: there is nothing else to answer. Hence in step
//
//   - a bare LF is believed to end a line once the answer came: a server that
//     waits for CRLF does not answer;
//   - AUTH is allowed at all: there are servers that answer "AUTH" alone with a list;
//   - PASS and APOP may be longer than 255 octets, or hold what some text library takes
//     for a line end. Some server may cut such a line in two. Its first answer is then
//     that to the first part, which begins with the command: if that is positive,
//     somebody is logged in. If it is negative, an answer to the second part may come
//     late and be taken for that to a later command: belief ends. Such a line is called
//     odd;
//   - AUTH and the messages behind it may be longer, too, as tokens are (RFC 7628). The
//     second part of one is base64 and no command, so that its answer can but refuse;
//   - USER, PASS and APOP may hold other eight-bit octets. USER may hold no others,
//     because its positive answer is not yet a login;
//   - unknown commands are understood if refused.
//
// WildDuck loses what it has read of a line that is not complete: the last piece of
// a line in segments is a line to it. So no line, nor a message of a SASL exchange, may
// end with another command that can be answered positively before a login; only a user
// name of one word may, as it is no login yet, and XCLIENT of a trusted proxy. A login may
// that is in step ("APOP testuser" and a digest): it is odd, and counts once a command that
// needs a maildrop was accepted behind it. A line in step that one segment brought is none
// of that, if it has 128 octets at most: every server reads it at once.
//
// Some servers answer one line more than once. nginx before 1.21 refuses what it can see
// to be no command, and the rest of its line again where that comes later. To pop3-n3
// each segment is a line, wherever it begins: it accepts "USER alice" and refuses the line
// end behind it, and of "USER aQUITz" in three segments it accepts two. A client whose
// window is closed keeps the answers back. What is left over is then taken for the answer
// to the next command, and so on, until the +OK to NOOP is taken for that to PASS. But what
// is left over of a line are refusals, and an acceptance at most for each command that it
// holds behind its own, at any place. So these positive answers can be owed:
//
//   - one for each command behind the first line that was refused and that the server may
//     have accepted; and for the first line if it is USER, whose name can begin with USER;
//   - one for each command that a line holds, unless one segment brought it, as above. A
//     name that begins with one does not count, as USER without a name is refused; nor does
//     what a login in step holds that is believed at once, as its answer is that to its
//     beginning.
//
// While any are owed, a login is believed once as many commands that need a maildrop were
// accepted behind it: one positive answer stands in the place of the login, and the
// server's own to the others is none before a login. Of AUTH in two segments such a server
// could answer the first word with a list, whose first line is read as an acceptance: none
// is known that has one.
//
// Clients ask old servers for AUTH and CAPA, though, and both are refused. The
// server's own answer is then a list, of which the second line is no answer: a login
// counts once something else was accepted, as USER is before PASS, and STAT behind
// APOP. And clients try one mechanism after the other (Thunderbird). The server's own
// answer is a challenge at most, unless it lets in anybody (ANONYMOUS), or the mechanism
// is not known and may begin with "+OK". So behind two refusals in a row no challenge is
// believed until something was accepted that is no list.
//
// Others say goodbye with "+OK" behind a refusal, and go: the poppers of UCB and Qualcomm
// behind a wrong password, or when they lose patience. So of what comes right behind a
// refusal the first "+OK" can be a list that is late, or that. A login counts if something
// was accepted before it that is no list, as USER is before PASS, or is a challenge; else
// once something is behind it, as STAT, LIST or QUIT.
//
// Nothing may be released behind an odd or over-long line, an unknown command, STLS, or
// a SASL exchange, before its answer came.
//
// # Pipelines
//
// A command that is released while another answer, or the greeting, is
// outstanding stands in a pipeline. There only plain lines of the table of
// commands are allowed: printable ASCII, at most 128 octets, ended by CRLF. (Or
// the last ones, or all, by LF: a server that waits for CRLF then answers none
// of those, while a CRLF behind them would make it answer all of them at once.)
// Every server cuts such lines alike and answers each once, or it drops input.
//
// nginx before 1.21 drops what it has read behind a line, wherever that ends: the
// end of a dropped line, if it is read later, is a line to it. And what it can see
// to be no command it refuses at once, and the rest of the line again. So there can
// be an answer too few, and a refusal too many. It reads 128 octets at once, so that
// shorter lines are never answered before they are read. WildDuck keeps what it has
// read behind a line, but loses what comes next: of AUTH with an initial response
// "AUTH" alone can remain. A USER that was dropped is not missed where STAT is answered
// in the place of PASS: so none may stand in a pipeline where a name waits for its PASS.
//
// A positive answer in the place of PASS, APOP or AUTH is therefore believed
// only if nothing was refused in the present window but empty lines, and
//
//   - when the window closes: every command was answered in the shape of its
//     positive answer (or refused, if it was an empty line). Had any line been
//     dropped, an answer would be missing, and as nothing but a further line
//     makes a further positive answer, the number stays wrong for good. A further
//     refusal, with which servers also say goodbye, ends the belief;
//   - or at once, if each command behind it needs an open maildrop (STAT, LIST,
//     UIDL, RETR, TOP, DELE, LAST), so that its positive answer would prove a
//     login just as well, or is QUIT in a basic window: one that came in one
//     chunk and holds nothing but USER, PASS, those commands, and QUIT. Some
//     servers lose what was pipelined behind a login (Courier, solid-pop3d,
//     perdition), so that the window never closes.
//
// The last clause, QUIT, is the one place that reads the text of an answer: it
// must be what those servers say to a login and none says to QUIT, as others lose
// PASS and answer QUIT. It is not made any more once the server refused something,
// as what it then does with the next line is not known of every server.
//
// # What taints
//
// An answer to no command, an answer that began before its command ended, an
// answer that is neither "+OK" nor "-ERR" nor an invited "+", a positive answer
// of the wrong shape (STAT), to an empty or unknown command, to a cancelled or
// unfinished SASL exchange, or to one in a mechanism that is not known before the
// server sent a challenge (Exchange invites to NTLM with "+OK", [MS-POP3] §2.2.2; where
// nothing was said yet, it is taken for that, which proves nothing either way),
// to PASS without an accepted USER, to any other login behind one (email-oauth2-proxy
// says goodbye with "+OK" to all that is not PASS then; one that was refused in a
// pipeline counts, as the refusal can be another's that came late), to APOP without a
// time stamp in the greeting, to a name in USER or APOP with a colon (in the ipop3d
// of UW IMAP and in POPFile it names the server that is asked, and that can be the
// client's own), to XCLIENT (the peer is then a proxy, and its
// address not the client's); NUL, TAB, a bare CR and other controls in a client
// line (Courier glues a line with NUL to the next, so that two lines get one
// answer); over-long lines; a line that ends with another command; a bound that
// was hit.
//
// STLS that is accepted with nothing behind it, and TLS from the first octet,
// end the reading as encrypted.
package pop3
