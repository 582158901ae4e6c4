// Package pop3 reads one POP3 connection.
package pop3
