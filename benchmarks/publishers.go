package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-resty/resty/v2"
	twilio "github.com/twilio/twilio-go/client"
	sync "github.com/twilio/twilio-go/rest/sync/v1"
	"github.com/twiliosync/twiliosync-go"
	"github.com/twiliosync/twiliosync-go/benchmarks/results"
)

const (
	username  = "AC0123456789abcdef0123456789abcdef"
	password  = "0123456789abcdef0123456789abcdef"
	streamSID = "TO0123456789abcdef0123456789abcdef"
)

// job is what every publisher does: send this payload there, once per call.
type job struct {
	baseURL    string
	serviceSID string // tells the server how to answer, see service.go
	payload    json.RawMessage
	transport  http.RoundTripper // nil: the one the publisher uses by default
}

func (j job) url() string { return messagesURL(j.baseURL, j.serviceSID, streamSID) }

func messagesURL(base, service, stream string) string {
	return base + "/v1/Services/" + service + "/Streams/" + stream + "/Messages"
}

// publisher is one way to publish a message.
type publisher struct {
	name    string
	publish func() error // an answer other than 201 is an error
	close   func()       // closes the idle connections
}

// publishers are what is measured, in this order: twilio-go last, since it
// leaves goroutines behind until its timeout, which would disturb the others.
var publishers = []func(job) publisher{leanest, fullJob, handWritten, restyClient, sdk, twilioGo}

// leanest prepares all that can be prepared, and leaves out all that net/http
// can do without: no http.Client, no timeout, no decoding.
func leanest(j job) publisher {
	target, err := url.Parse(j.url())
	must(err)
	request := http.Request{Header: http.Header{
		"Accept":       {"application/json"},
		"Content-Type": {"application/x-www-form-urlencoded"},
		"User-Agent":   {"leanest"},
	}}
	request.SetBasicAuth(username, password)
	header := request.Header
	form := "Data=" + url.QueryEscape(string(j.payload))
	own := &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true}
	transport := j.transport
	if transport == nil {
		transport = own
	}
	return publisher{results.Leanest, func() error {
		res, err := transport.RoundTrip(&http.Request{
			Method: http.MethodPost, URL: target, Header: header,
			Body: io.NopCloser(strings.NewReader(form)), ContentLength: int64(len(form)),
		})
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			return err
		}
		return created(res.StatusCode)
	}, own.CloseIdleConnections}
}

// message is the answer, for those who have to bring their own type.
type message struct {
	SID  string          `json:"sid"`
	Data json.RawMessage `json:"data"`
}

// fullJob is the least that the standard library needs for the same job: the
// data is checked, the form escaped, there is a timeout, and the answer is read
// and decoded. It has no retries and proves nothing.
func fullJob(j job) publisher {
	target, err := url.Parse(j.url())
	must(err)
	own := &http.Transport{MaxIdleConns: 256, MaxIdleConnsPerHost: 256, DisableCompression: true, WriteBufferSize: 16 << 10}
	transport := j.transport
	if transport == nil {
		transport = own
	}
	return publisher{results.FullJob, func() error {
		if !json.Valid(j.payload) {
			return errors.New("not JSON")
		}
		form := url.Values{"Data": {string(j.payload)}}.Encode()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		request := (&http.Request{
			Method: http.MethodPost, URL: target, Body: io.NopCloser(strings.NewReader(form)), ContentLength: int64(len(form)),
			Header: http.Header{"Accept": {"application/json"}, "Content-Type": {"application/x-www-form-urlencoded"}, "User-Agent": {"full-job"}},
		}).WithContext(ctx)
		request.SetBasicAuth(username, password)
		res, err := transport.RoundTrip(request)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if err := created(res.StatusCode); err != nil {
			return err
		}
		body, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
		if err != nil {
			return err
		}
		var message message
		return json.Unmarshal(body, &message)
	}, own.CloseIdleConnections}
}

// handWritten is what one writes without thinking of speed.
func handWritten(j job) publisher {
	client := &http.Client{Timeout: 10 * time.Second, Transport: orDefault(j.transport)}
	return publisher{results.HandWritten, func() error {
		return post(context.Background(), client, j.url(), j.payload)
	}, client.CloseIdleConnections}
}

func post(ctx context.Context, client *http.Client, target string, data json.RawMessage) error {
	form := url.Values{"Data": {string(data)}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, strings.NewReader(form.Encode()))
	if err != nil {
		return err
	}
	req.SetBasicAuth(username, password)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if err := created(res.StatusCode); err != nil {
		return err
	}
	var message message
	return json.NewDecoder(res.Body).Decode(&message)
}

// twilioGo has no setting for the base URL: a RoundTripper turns its requests
// to the loopback server. The http.Client is otherwise its default one.
func twilioGo(j job) publisher {
	target, err := url.Parse(j.baseURL)
	must(err)
	httpClient := &http.Client{
		Transport:     redirect{target, orDefault(j.transport)},
		Timeout:       10 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	client := &twilio.Client{Credentials: twilio.NewCredentials(username, password), HTTPClient: httpClient}
	api := sync.NewApiServiceWithClient(client)
	return publisher{results.TwilioGo, func() error {
		params := (&sync.CreateStreamMessageParams{}).SetData(j.payload)
		_, err := api.CreateStreamMessage(j.serviceSID, streamSID, params)
		return err
	}, httpClient.CloseIdleConnections}
}

// redirect sends requests to another server.
type redirect struct {
	to *url.URL
	http.RoundTripper
}

func (r redirect) RoundTrip(req *http.Request) (*http.Response, error) {
	req.URL.Scheme, req.URL.Host = r.to.Scheme, r.to.Host
	return r.RoundTripper.RoundTrip(req)
}

func (r redirect) CloseIdleConnections() {
	(&http.Client{Transport: r.RoundTripper}).CloseIdleConnections()
}

func restyClient(j job) publisher {
	client := resty.New().SetBaseURL(j.baseURL).SetBasicAuth(username, password).SetTimeout(10 * time.Second)
	if j.transport != nil {
		client.SetTransport(j.transport)
	}
	client.SetDisableWarn(true) // of credentials over plain http
	path := strings.TrimPrefix(j.url(), j.baseURL)
	return publisher{results.Resty, func() error {
		var message message
		res, err := client.R().SetFormData(map[string]string{"Data": string(j.payload)}).SetResult(&message).Post(path)
		if err != nil {
			return err
		}
		return created(res.StatusCode())
	}, client.GetClient().CloseIdleConnections}
}

// sdk is this SDK with its defaults, except that it gives up after one attempt,
// as the others do.
func sdk(j job) publisher {
	options := []twiliosync.Option{
		twiliosync.WithBaseURL(j.baseURL),
		twiliosync.WithRetryPolicy(twiliosync.RetryPolicy{MaxAttempts: 1}),
	}
	if j.transport != nil {
		options = append(options, twiliosync.WithHTTPClient(&http.Client{Transport: j.transport}))
	}
	client, err := twiliosync.NewClient(twiliosync.BasicAuth(username, password), options...)
	must(err)
	var data any = j.payload
	return publisher{results.SDK, func() error {
		_, _, err := client.StreamMessages.Create(context.Background(), j.serviceSID, streamSID, data)
		return err
	}, client.CloseIdleConnections}
}

// orDefault returns a copy of net/http's default transport, with connections of
// its own, unless there is a transport.
func orDefault(transport http.RoundTripper) http.RoundTripper {
	if transport != nil {
		return transport
	}
	return http.DefaultTransport.(*http.Transport).Clone()
}

func created(status int) error {
	if status != http.StatusCreated {
		return fmt.Errorf("status %d", status)
	}
	return nil
}

// inMemory answers without a network: it reads the request's body and returns
// the same answer each time.
type inMemory struct{ answer []byte }

func (m inMemory) RoundTrip(req *http.Request) (*http.Response, error) {
	if _, err := io.Copy(io.Discard, req.Body); err != nil {
		return nil, err
	}
	return &http.Response{
		Status: "201 Created", StatusCode: http.StatusCreated, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: answerHeader, Body: io.NopCloser(bytes.NewReader(m.answer)), ContentLength: int64(len(m.answer)), Request: req,
	}, req.Body.Close()
}

var answerHeader = http.Header{"Content-Type": {"application/json"}}

// payload makes a JSON object of exactly size bytes that looks like what is
// published: records of a few fields.
func payload(size int) json.RawMessage {
	const record = `{"id":"order-4711","state":"paid","amount":129.95,"items":3}`
	var records []string
	for len(records) < (size-40)/(len(record)+1) {
		records = append(records, record)
	}
	object := `{"records":[` + strings.Join(records, ",") + `],"note":"`
	return json.RawMessage(object + strings.Repeat("x", size-len(object)-2) + `"}`)
}
