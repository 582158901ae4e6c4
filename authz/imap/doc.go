// Package imap reads one IMAP connection.
package imap
