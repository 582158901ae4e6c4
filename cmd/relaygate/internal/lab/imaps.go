package lab

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"relaygate/bpf/netns"
)

// IMAPSPort is that of IMAP in TLS from the first byte (RFC 8314 §3.2).
const IMAPSPort = 993

// OpenSSL is the program whose TLS library IMAPS uses.
const OpenSSL = "openssl"

// IMAPS is the built-in IMAP server behind OpenSSL's own server program: the TLS
// of a Go program is built in, where no agent can read it. It takes one
// connection.
type IMAPS struct {
	cmd    *exec.Cmd
	said   bytes.Buffer
	served chan struct{}
}

// StartIMAPS listens on all addresses of a namespace. The key is in dir.
func StartIMAPS(ns *netns.Namespace, dir string) (*IMAPS, error) {
	cert, key, err := Certificate()
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "imaps.pem")
	if err := os.WriteFile(file, append(key, cert...), 0o600); err != nil {
		return nil, fmt.Errorf("write the key: %w", err)
	}
	s := &IMAPS{served: make(chan struct{})}
	s.cmd = exec.Command(OpenSSL, "s_server", "-quiet", "-naccept", "1",
		"-accept", strconv.Itoa(IMAPSPort), "-cert", file, "-key", file)
	s.cmd.Stderr = &s.said
	in, err := s.cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", OpenSSL, err)
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", OpenSSL, err)
	}
	if err := ns.Do(s.cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s: %w", OpenSSL, err)
	}
	go func() {
		defer close(s.served)
		serveIMAP(bufio.NewReadWriter(bufio.NewReader(out), bufio.NewWriter(in)))
	}()
	return s, nil
}

// Close ends the server.
func (s *IMAPS) Close() error {
	err := s.cmd.Process.Kill()
	<-s.served
	if exit := (*exec.ExitError)(nil); !errors.As(s.cmd.Wait(), &exit) && err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end %s: %w; it said:\n%s", OpenSSL, err, s.said.String())
	}
	return nil
}

// Certificate makes a certificate that nobody vouches for, and its key, both in PEM.
func Certificate() (cert, key []byte, err error) {
	secret, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	const name = "mail.example.org"
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	public, err := x509.CreateCertificate(rand.Reader, c, c, secret.Public(), secret)
	if err != nil {
		return nil, nil, fmt.Errorf("make a certificate: %w", err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(secret)
	if err != nil {
		return nil, nil, fmt.Errorf("encode a key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: public}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), nil
}

// IMAPSLogin is IMAPLogin for LoginTLS.
func IMAPSLogin(server netip.Addr, password string) Script {
	s := IMAPLogin(server, password)
	s.Server, s.Protocol = netip.AddrPortFrom(server, IMAPSPort), "IMAPS"
	return s
}

// LoginTLS is Login in TLS. It says which version of TLS was spoken.
func (h *Host) LoginTLS(ctx context.Context, s Script) (answer, version string, ok bool, err error) {
	raw, err := h.Dial(ctx, s.Server)
	if err != nil {
		return "", "", false, fmt.Errorf("connect to %s: %w", s.Server, err)
	}
	// The key was made a moment ago, and nothing secret is sent.
	conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // see above
	defer raw.Close()
	if answer, err = s.play(conn); err != nil {
		return "", "", false, err
	}
	version = tls.VersionName(conn.ConnectionState().Version)
	return strings.TrimSpace(answer), version, strings.HasPrefix(answer, s.positive), nil
}
