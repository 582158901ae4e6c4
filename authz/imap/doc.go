// Package imap reads one IMAP connection (RFC 9051, RFC 3501) and says which
// login the server accepted.
//
// A tagged answer names its command by a tag that the client chose. A stranger
// chooses tags and octets so that the server's honest answer to one command
// reads like the answer to another: he hides a LOGIN in a literal that the
// server takes as text, or lets the server run as a command what a reader takes
// as a literal. Servers differ in what they take for a literal, a tag, a line.
// So the package does not ask how the server reads the octets: it believes only
// where all servers must read the same.
//
// Chunks come in the order that authz.Chunk tells: an answer that is delivered before
// a line was, was written by a server that had not seen that line. The rules below are
// checked in doubt.go, but for those on single arguments and answers.
//
// # In step
//
// The server owes nothing if every earlier command was complete and has had its
// tagged answer, and no further server line has begun. A command that begins
// then is in step. While nothing is released behind it, the next tagged answer
// is the answer to it: there is nothing else to answer. It must still bear the
// tag, which may have been used before. Hence in step
//
//   - a bare LF is believed to end a line once the answer came: a server that
//     waits for CRLF does not answer;
//   - a synchronising literal is a literal if the server sends its "+" before
//     the first octet is released; if it refuses the command instead, belief ends;
//   - LOGIN may be over-long, hold TAB, what some text library takes for a line
//     end, and literals that the server was not asked for ("{5+}", RFC 7888), if no
//     word of them is or ends with a command. Some server may cut such a command in
//     several. Its first answer is then that to the first part, which begins with the
//     tag and LOGIN: if that is OK, somebody is logged in. Anything else ends the
//     belief, because answers to the other parts may come late. Such a command is
//     called odd, and so is LOGIN or AUTHENTICATE with too few or too many arguments,
//     as the last of them may be a command. Capabilities do not help: go-imap 1 names
//     LITERAL+, but sees no literal behind a bracket, and runs its octets. LOGIN with
//     other eight-bit octets is odd if it ends with any other command;
//   - AUTHENTICATE and the messages behind it may be over-long, as tokens are (RFC 7628).
//     The second part of one is a single word and no command: its answer can but refuse;
//   - unknown commands are understood if refused.
//
// A server may lose what it has read of a line that is not complete, as WildDuck does
// in POP3: the last piece of a line in segments is a line to it. So LOGIN and
// AUTHENTICATE may not end with another command that can be answered positively
// before a login and would bear their tag, nor LOGIN hold one in a literal that the server
// was not asked for, and other commands end with none at all.
//
// Some servers answer one line more than once: Citadel refuses a LOGIN three times;
// nginx before 1.21 and Stalwart refuse what they can see to be no command, and the
// rest of its line again where that comes later. To one that takes each segment for a
// line, any can be a command that it accepts: so a word that begins with one is one, if
// that needs no argument. A client whose window is closed keeps the answers back. What is
// left over is then taken for the answer to the next command, and so on, until the OK
// to NOOP is taken for that to LOGIN. But what is left over are refusals, and so the
// first to be taken for another answer is one, behind the first line, and so are the
// others while nothing but refusals is left. So from the first of them to a command
// that is no login, or one for which the server may wait for more, it can owe answers:
// its own answer can be anything else. That command and all behind it then are a
// pipeline to the rules below, although the client waits, and only tags tell what was
// answered. What is left are refusals, and the answers to commands of that pipeline:
// an OK with a tag that no other of them bears is none of these, and shows that
// nothing is left. So octets above 0x7f and long tokens may stand in such a pipeline if no
// word is or ends with a command, and literals, if they do not hold the tag either: a "+"
// can be a challenge that is left, and the literal a line, so that its LOGIN is odd.
// Clients that try one mechanism after the other are still believed so. A LOGIN or
// AUTHENTICATE that is refused may not hold another command, whatever its tag would be;
// right behind a refusal no word of it may end with one.
//
// Nothing may be released behind an odd or over-long command, an unknown one, the "{5}" of a
// synchronising literal, STARTTLS, or a SASL exchange that was not cancelled, before its
// answer came.
//
// # Pipelines
//
// A command that is released while another answer, or the greeting, is
// outstanding stands in a pipeline. There only plain lines with known commands
// are allowed: a legal tag, printable ASCII, at most 1000 octets, closed quoted
// strings, no brace outside of them, ended by CRLF. (Or the last ones, or all,
// by LF: a server that waits for CRLF then answers none of those, while a CRLF
// behind them would glue them together.) Every server cuts such lines alike.
// Answers must come in the order of the commands and bear their tags.
//
// nginx before 1.21 drops what it has read behind a line, wherever that ends: the
// end of a dropped line, if it is read later, is a line to it. So no line may end
// with another command that can be answered positively before a login. And what
// it can see to be no command it refuses at once, and the rest of the line again.
// One that loses the middle of a line could run the end of a word with the line's tag,
// so that no word of LOGIN and AUTHENTICATE may end with such a command.
//
// LOGIN or AUTHENTICATE is then believed at its own tagged OK, if no other command
// since the server last owed nothing has its tag, or one of which one ends with the
// other, nor can a line that has begun: only one line begins with that tag. Without an
// initial response AUTHENTICATE must come when each command before it had an answer. If
// the tag is used twice, order and number must tell, as in POP3: it is believed when
// every command released so far was answered, and none refused. Had a line been dropped,
// an answer would be missing for good.
//
// # Frames
//
// Dovecot 2.4 answers the ID of a trusted proxy that asks for it with "* MULTIPLEX 0", and
// frames what it sends from then on: of its channels that of IMAP is read. To others, and
// to any other command, that line is data, and frames behind it are in doubt.
//
// # What taints
//
// A tagged answer with another tag than that of the oldest open command (nginx
// answers without a tag), an answer that began before its command ended, "* BAD" (the
// server could not make out a command), PREAUTH, OK after BYE, OK to an unknown or
// mode-changing command, OK that says "Unable to authenticate" (a server of Microsoft's),
// ID with another client's address, if it is accepted from a peer that is no trusted proxy
// (it is one all the same, and its address not the client's), a literal from the server,
// which could hold lines that look like answers; a line that ends with another command;
// lines without a legal tag, blank lines (nginx answers them with the previous tag);
// controls in lines, quoted strings and literals (servers exist that repeat a literal in
// their refusal, line breaks included); every brace that some server takes for a literal
// and another does not ("{+5}", "~{5}", "{05}", "{5-}", a brace in an unclosed quoted
// string); a bound that was hit.
//
// STARTTLS that is accepted with nothing behind it, and TLS from the first
// octet, end the reading as encrypted.
package imap
