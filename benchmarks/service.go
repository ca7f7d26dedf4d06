package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"sync/atomic"
	"time"
)

// The service "SIDs" that tell the server how to answer. Otherwise it is 201
// with the echo, at once.
const (
	answersNow     = "now"
	answersLate    = "20ms"
	answersChunked = "chunked" // 201 without Content-Length
	answersError   = "error"   // 429 without Content-Length
)

// service is a server in a process of its own, so that its work doesn't count
// as the client's.
type service struct {
	Plain, TLS, Control string // base URLs
	Certificate         string // PEM
	stop                func()
}

// startService runs this program again as the server.
func startService() (*service, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	command := exec.Command(program, "serve")
	command.Stderr = os.Stderr
	stdin, err := command.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := command.Start(); err != nil {
		return nil, err
	}
	s := &service{stop: func() { stdin.Close(); _ = command.Wait() }}
	return s, json.NewDecoder(stdout).Decode(s)
}

// connections is how many the server has accepted.
func (s *service) connections() int {
	res, err := http.Get(s.Control)
	must(err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	must(err)
	n, err := strconv.Atoi(string(text))
	must(err)
	return n
}

// serve is the other process. It ends when its standard input does.
func serve() error {
	certificate, encoded, err := selfSigned()
	if err != nil {
		return err
	}
	var accepted atomic.Int64
	messages := &http.Server{
		Handler:           handler(),
		ReadHeaderTimeout: time.Minute,
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12},
		Protocols:         new(http.Protocols),
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				accepted.Add(1)
			}
		},
	}
	messages.Protocols.SetHTTP1(true)
	control := &http.Server{
		ReadHeaderTimeout: time.Minute,
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, accepted.Load()) }),
	}
	var addresses []string
	for _, serve := range []func(net.Listener) error{
		messages.Serve,
		func(l net.Listener) error { return messages.ServeTLS(l, "", "") },
		control.Serve,
	} {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		addresses = append(addresses, listener.Addr().String())
		go func() { must(serve(listener)) }()
	}
	err = json.NewEncoder(os.Stdout).Encode(service{
		Plain: "http://" + addresses[0], TLS: "https://" + addresses[1], Control: "http://" + addresses[2], Certificate: encoded,
	})
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/Services/{service}/Streams/{stream}/Messages", answer)
	return mux
}

// answer does the least that makes sure that all publishers do the same job.
func answer(w http.ResponseWriter, r *http.Request) {
	data := r.PostFormValue("Data")
	user, secret, _ := r.BasicAuth()
	if data == "" || user != username || secret != password {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	status, body := http.StatusCreated, echo(data)
	chunked := false
	switch r.PathValue("service") {
	case answersLate:
		time.Sleep(20 * time.Millisecond)
	case answersChunked:
		chunked = true
	case answersError:
		chunked = true
		status, body = http.StatusTooManyRequests, []byte(`{"code":20429,"message":"Too Many Requests","more_info":"https://www.twilio.com/docs/errors/20429","status":429}`)
	}
	if !chunked {
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	}
	w.WriteHeader(status)
	_, _ = w.Write(body)
	if chunked {
		_ = http.NewResponseController(w).Flush() // the end of the body comes in another packet
	}
}

func echo(data string) []byte {
	return fmt.Appendf(nil, `{"sid":"TZ0123456789abcdef0123456789abcdef","data":%s}`, data)
}

func selfSigned() (certificate tls.Certificate, encoded string, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return certificate, "", err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:         true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return certificate, "", err
	}
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, string(block), nil
}
