package twiliosync_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twiliosync/twiliosync-go"
	"github.com/twiliosync/twiliosync-go/twiliosynctest"
)

const streamAnswer = `{"sid":"TO0123456789abcdef0123456789abcdef","unique_name":"orders","account_sid":"AC1","service_sid":"IS1",
	"url":"https://sync.twilio.com/x","links":{"messages":"https://sync.twilio.com/x/Messages"},"date_expires":null,
	"date_created":"2026-01-02T03:04:05Z","date_updated":"2026-01-02T03:04:06Z","created_by":"system","revision":"b"}`

func ttl(d time.Duration) *time.Duration { return &d }

// streamCall is one of the operations, for tests that go through all.
type streamCall struct {
	id, method, path, form string
	success                int
	answer                 string
	repeats                bool // it may be repeated
	proof                  bool // the status alone proves success
	call                   func(context.Context, *twiliosync.StreamService) (*twiliosync.Response, error)
}

var streamCalls = []streamCall{
	{"CreateSyncStream", "POST", "/v1/Services/default/Streams", "Ttl=3600&UniqueName=orders%231", 201, streamAnswer, true, true,
		func(ctx context.Context, s *twiliosync.StreamService) (*twiliosync.Response, error) {
			_, response, err := s.Create(ctx, "default", &twiliosync.CreateSyncStreamParams{UniqueName: "orders#1", TTL: ttl(time.Hour)})
			return response, err
		}},
	{"CreateSyncStream", "POST", "/v1/Services/default/Streams", "", 201, streamAnswer, false, true,
		func(ctx context.Context, s *twiliosync.StreamService) (*twiliosync.Response, error) {
			_, response, err := s.Create(ctx, "default", nil)
			return response, err
		}},
	{"FetchSyncStream", "GET", "/v1/Services/default/Streams/a%2Fb", "", 200, streamAnswer, true, false,
		func(ctx context.Context, s *twiliosync.StreamService) (*twiliosync.Response, error) {
			_, response, err := s.Fetch(ctx, "default", "a/b")
			return response, err
		}},
	{"UpdateSyncStream", "POST", "/v1/Services/default/Streams/orders", "Ttl=0", 200, streamAnswer, true, false,
		func(ctx context.Context, s *twiliosync.StreamService) (*twiliosync.Response, error) {
			_, response, err := s.Update(ctx, "default", "orders", &twiliosync.UpdateSyncStreamParams{TTL: ttl(0)})
			return response, err
		}},
	{"DeleteSyncStream", "DELETE", "/v1/Services/default/Streams/orders", "", 204, "", true, true,
		func(ctx context.Context, s *twiliosync.StreamService) (*twiliosync.Response, error) {
			return s.Delete(ctx, "default", "orders")
		}},
	{"ListSyncStream", "GET", "/v1/Services/default/Streams?Page=2&PageSize=20&PageToken=PT%3D", "", 200, `{"streams":[` + streamAnswer + `],"meta":{"next_page_url":null}}`, true, false,
		func(ctx context.Context, s *twiliosync.StreamService) (*twiliosync.Response, error) {
			_, response, err := s.List(ctx, "default", &twiliosync.ListSyncStreamParams{PageSize: 20, Page: 2, PageToken: "PT="})
			return response, err
		}},
}

func TestStreamOperationsOnTheWire(t *testing.T) {
	for _, test := range streamCalls {
		t.Run(test.id+" "+test.form, func(t *testing.T) {
			var attempts []twiliosync.Attempt
			tr := &tracer{}
			client, server := setup(t, observing(&attempts), twiliosync.WithTracer(tr))
			server.answer = answer(test.success, test.answer)
			response, err := test.call(context.Background(), client.Streams)
			require.NoError(t, err)
			assert.Equal(t, test.success, response.StatusCode)
			require.Len(t, server.all(), 1)
			sent := server.all()[0]
			assert.Equal(t, test.method+" /prefix"+test.path, sent.method+" "+sent.requestURI)
			assert.Equal(t, test.form, sent.body)
			if test.method == http.MethodPost {
				assert.Equal(t, "application/x-www-form-urlencoded", sent.header.Get("Content-Type"))
			} else {
				assert.Empty(t, sent.header["Content-Type"])
			}
			assert.Contains(t, sent.header.Get("Authorization"), "Basic ")
			require.Len(t, attempts, 1)
			assert.Equal(t, test.id, attempts[0].Operation)
			tr.requireBalance(t)
			assert.Equal(t, test.id, tr.calls[0].start.Operation)
			assert.Zero(t, tr.calls[0].start.DataSize)
			assert.Empty(t, tr.calls[0].end.MessageSID)
		})
	}
}

func TestAStreamHasEveryProperty(t *testing.T) {
	client, server := setup(t)
	server.answer = answer(200, streamAnswer)
	stream, _, err := client.Streams.Fetch(context.Background(), "default", "orders")
	require.NoError(t, err)
	assert.Equal(t, &twiliosync.Stream{
		SID: "TO0123456789abcdef0123456789abcdef", UniqueName: "orders", AccountSID: "AC1", ServiceSID: "IS1",
		URL: "https://sync.twilio.com/x", Links: map[string]string{"messages": "https://sync.twilio.com/x/Messages"},
		DateCreated: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), DateUpdated: time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC), CreatedBy: "system",
	}, stream)

	server.answer = answer(200, `{"sid":"TO1","unique_name":null,"account_sid":null,"service_sid":null,"url":null,"links":null,"date_expires":null,"date_created":null,"date_updated":null,"created_by":null}`)
	stream, _, err = client.Streams.Fetch(context.Background(), "default", "orders")
	require.NoError(t, err)
	assert.Equal(t, &twiliosync.Stream{SID: "TO1"}, stream, "null is the zero value")
}

func TestStreamParametersThatAreRefused(t *testing.T) {
	client, server := setup(t)
	streams, ctx := client.Streams, context.Background()
	create := func(params twiliosync.CreateSyncStreamParams) error {
		_, _, err := streams.Create(ctx, "default", &params)
		return err
	}
	update := func(params *twiliosync.UpdateSyncStreamParams) error {
		_, _, err := streams.Update(ctx, "default", "orders", params)
		return err
	}
	list := func(params twiliosync.ListSyncStreamParams) error {
		_, _, err := streams.List(ctx, "default", &params)
		return err
	}
	fetch := func(serviceSID, sid string) error {
		_, _, err := streams.Fetch(ctx, serviceSID, sid)
		return err
	}
	_, _, nilCtx := streams.Fetch(nil, "default", "orders") //nolint:staticcheck // that is the case
	_, _, nilService := (*twiliosync.StreamService)(nil).Fetch(ctx, "default", "orders")
	_, _, zeroClient := new(twiliosync.Client).Streams.Fetch(ctx, "default", "orders")
	_, _, ensure := streams.Ensure(ctx, "default", "", nil)
	_, _, ensureSID := streams.Ensure(ctx, "default", someStream, nil)
	var all error
	for _, err := range streams.All(ctx, "", nil) {
		all = err
	}
	for name, test := range map[string]struct {
		err       error
		parameter string
	}{
		"a TTL below zero":         {create(twiliosync.CreateSyncStreamParams{TTL: ttl(-time.Second)}), "params.TTL"},
		"a TTL above a year":       {create(twiliosync.CreateSyncStreamParams{TTL: ttl(365*24*time.Hour + time.Second)}), "params.TTL"},
		"a TTL in half seconds":    {create(twiliosync.CreateSyncStreamParams{TTL: ttl(1500 * time.Millisecond)}), "params.TTL"},
		"a name with a line break": {create(twiliosync.CreateSyncStreamParams{UniqueName: "orders\n"}), "params.UniqueName"},
		"nothing to update":        {update(nil), "params.TTL"},
		"no TTL to update":         {update(&twiliosync.UpdateSyncStreamParams{}), "params.TTL"},
		"too long a TTL to update": {update(&twiliosync.UpdateSyncStreamParams{TTL: ttl(366 * 24 * time.Hour)}), "params.TTL"},
		"a page of 101":            {list(twiliosync.ListSyncStreamParams{PageSize: 101}), "params.PageSize"},
		"a page of -1":             {list(twiliosync.ListSyncStreamParams{PageSize: -1}), "params.PageSize"},
		"page -1":                  {list(twiliosync.ListSyncStreamParams{Page: -1}), "params.PageSize"},
		"no service":               {fetch("", "orders"), "serviceSID"},
		"no stream":                {fetch("default", ""), "sid"},
		"swapped":                  {fetch(someStream, someService), "serviceSID"},
		"no context":               {nilCtx, "ctx"},
		"a nil service":            {nilService, "client"},
		"a zero Client":            {zeroClient, "client"},
		"no name to ensure":        {ensure, "uniqueName"},
		"a SID as a name":          {create(twiliosync.CreateSyncStreamParams{UniqueName: someStream}), "params.UniqueName"},
		"a SID to ensure":          {ensureSID, "uniqueName"},
		"no service to list":       {all, "serviceSID"},
	} {
		t.Run(name, func(t *testing.T) { assert.Equal(t, test.parameter, refusedParameter(t, test.err).Parameter) })
	}
	assert.Empty(t, server.all())
}

// TestStreamOutcomes is the table of docs/delivery.md: operation by status.
func TestStreamOutcomes(t *testing.T) {
	t.Parallel()
	type row struct {
		status  int
		body    string
		outcome twiliosync.Outcome
		resent  func(streamCall) bool
	}
	always, never := func(streamCall) bool { return true }, func(streamCall) bool { return false }
	repeats := func(call streamCall) bool { return call.repeats }
	own := func(code int) string { return fmt.Sprintf(`{"code":%d,"message":"no"}`, code) }
	for _, call := range streamCalls {
		for _, row := range []row{
			{429, "", twiliosync.OutcomeRejected, always},
			{503, own(20503), twiliosync.OutcomeRejected, always},
			{503, "<html>", twiliosync.OutcomeUnknown, repeats},
			{500, own(20500), twiliosync.OutcomeUnknown, repeats},
			{502, "", twiliosync.OutcomeUnknown, repeats},
			{408, "", twiliosync.OutcomeUnknown, repeats},
			{499, "", twiliosync.OutcomeUnknown, repeats},
			{400, own(54011), twiliosync.OutcomeRejected, never},
			{401, own(20003), twiliosync.OutcomeRejected, never},
			{403, "<html>", twiliosync.OutcomeUnknown, never},
			{404, own(20404), twiliosync.OutcomeRejected, never},
			{409, own(54301), twiliosync.OutcomeRejected, never},
			{307, "", twiliosync.OutcomeRejected, never},
			{302, "", twiliosync.OutcomeUnknown, never},
			{202, "<html>", twiliosync.OutcomeUnknown, never},
			{call.success, call.answer, twiliosync.OutcomeAccepted, never},
		} {
			t.Run(fmt.Sprint(call.id, " ", call.form, ": ", row.status, " ", row.body), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					requests := 0
					client, _ := scripted(t, nil, func(req *http.Request) (*http.Response, error) {
						requests++
						return &http.Response{StatusCode: row.status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(row.body)), Request: req}, nil
					})
					response, err := call.call(t.Context(), client.Streams)
					assert.Equal(t, row.outcome, twiliosync.OutcomeOf(err), "%v", err)
					assert.Equal(t, row.status, response.StatusCode)
					want := 1
					if row.resent(call) {
						want = 3
					}
					assert.Equal(t, want, requests)
					if err != nil && row.outcome == twiliosync.OutcomeUnknown {
						assert.NotContains(t, err.Error(), "message may have been published")
					}
				})
			})
		}
		t.Run(call.id+" "+call.form+": not sent", func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				client, script := scripted(t, nil, unreachable)
				_, err := call.call(t.Context(), client.Streams)
				assert.Equal(t, twiliosync.OutcomeNotSent, twiliosync.OutcomeOf(err))
				assert.Equal(t, 3, script.count())
			})
		})
	}
}

func TestProvisioningFromNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		srv := twiliosynctest.NewServer(t, twiliosynctest.WithStreams())
		client := srv.Client()
		ctx := t.Context()
		require.ErrorIs(t, publishTo(ctx, client, "orders"), twiliosync.ErrNotFound)

		stream, response, err := client.Streams.Create(ctx, "default", &twiliosync.CreateSyncStreamParams{UniqueName: "orders", TTL: ttl(time.Hour)})
		require.NoError(t, err)
		assert.Equal(t, 201, response.StatusCode)
		assert.Equal(t, "orders", stream.UniqueName)
		assert.Equal(t, time.Now().Add(time.Hour).UTC(), stream.DateExpires.UTC())
		require.NoError(t, publishTo(ctx, client, "orders"))
		require.NoError(t, publishTo(ctx, client, stream.SID))

		_, _, err = client.Streams.Create(ctx, "default", &twiliosync.CreateSyncStreamParams{UniqueName: "orders"})
		assert.ErrorIs(t, err, twiliosync.ErrAlreadyExists)
		assert.Equal(t, twiliosync.OutcomeRejected, twiliosync.OutcomeOf(err))

		again, _, err := client.Streams.Fetch(ctx, "default", stream.SID)
		require.NoError(t, err)
		assert.Equal(t, stream.UniqueName, again.UniqueName)

		time.Sleep(time.Minute)
		updated, _, err := client.Streams.Update(ctx, "default", "orders", &twiliosync.UpdateSyncStreamParams{TTL: ttl(time.Hour)})
		require.NoError(t, err)
		assert.Equal(t, stream.DateExpires.Add(time.Minute), updated.DateExpires)
		forever, _, err := client.Streams.Update(ctx, "default", "orders", &twiliosync.UpdateSyncStreamParams{TTL: ttl(0)})
		require.NoError(t, err)
		assert.True(t, forever.DateExpires.IsZero())

		unnamed, _, err := client.Streams.Create(ctx, "default", nil)
		require.NoError(t, err)
		response, err = client.Streams.Delete(ctx, "default", unnamed.SID)
		require.NoError(t, err)
		assert.Equal(t, 204, response.StatusCode)
		_, err = client.Streams.Delete(ctx, "default", unnamed.SID)
		assert.ErrorIs(t, err, twiliosync.ErrNotFound)
	})
}

func TestWhatFollowsAnUnknownAttempt(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		operation string
		call      func(ctx context.Context, client *twiliosync.Client) (*twiliosync.Stream, *twiliosync.Response, error)
		status    int
		requests  []string
	}{
		"a creation whose answer was lost finds its stream": {"CreateSyncStream", func(ctx context.Context, client *twiliosync.Client) (*twiliosync.Stream, *twiliosync.Response, error) {
			return client.Streams.Create(ctx, "default", &twiliosync.CreateSyncStreamParams{UniqueName: "new"})
		}, 200, []string{"POST", "POST", "GET"}},
		"a deletion whose answer was lost finds nothing more": {"DeleteSyncStream", func(ctx context.Context, client *twiliosync.Client) (*twiliosync.Stream, *twiliosync.Response, error) {
			response, err := client.Streams.Delete(ctx, "default", "old")
			return &twiliosync.Stream{UniqueName: "new"}, response, err
		}, 404, []string{"DELETE", "DELETE"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				srv := twiliosynctest.NewServer(t, twiliosynctest.WithStreams("old"))
				srv.Next(1).ToOperation(test.operation).LoseAnswer()
				tr := &tracer{}
				stream, response, err := test.call(t.Context(), srv.Client(twiliosync.WithTracer(tr)))
				require.NoError(t, err)
				assert.Equal(t, "new", stream.UniqueName)
				assert.Equal(t, test.status, response.StatusCode)
				var methods []string
				for _, request := range srv.Requests() {
					methods = append(methods, request.Method)
				}
				assert.Equal(t, test.requests, methods)
				tr.requireBalance(t)
			})
		})
	}
	t.Run("a read has the outcome of its last attempt: those before have changed nothing", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			srv := twiliosynctest.NewServer(t, twiliosynctest.WithStreams())
			srv.Next(1).LoseAnswer()
			_, _, err := srv.Client().Streams.Fetch(t.Context(), "default", "orders")
			assert.ErrorIs(t, err, twiliosync.ErrNotFound)
			assert.Equal(t, twiliosync.OutcomeRejected, twiliosync.OutcomeOf(err))
			assert.Equal(t, 2, asError(t, err).Attempts)
			srv.Next(1).LoseAnswer()
			_, _, err = srv.Client().Streams.Ensure(t.Context(), "default", "orders", nil)
			assert.NoError(t, err)
		})
	})
	t.Run("an unnamed creation is not repeated", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			srv := twiliosynctest.NewServer(t, twiliosynctest.WithStreams())
			srv.Next(1).LoseAnswer()
			_, _, err := srv.Client().Streams.Create(t.Context(), "default", nil)
			assert.Equal(t, twiliosync.OutcomeUnknown, twiliosync.OutcomeOf(err))
			assert.ErrorContains(t, err, "the creation of the stream may have taken effect")
			assert.Len(t, srv.Streams("default"), 1)
		})
	})
	t.Run("a stream that exists but can't be fetched was created, and the error says so", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			srv := twiliosynctest.NewServer(t, twiliosynctest.WithStreams())
			srv.Next(1).ToOperation("CreateSyncStream").LoseAnswer()
			srv.Every().ToOperation("FetchSyncStream").Answer(500, 20500)
			_, _, err := srv.Client().Streams.Create(t.Context(), "default", &twiliosync.CreateSyncStreamParams{UniqueName: "new"})
			assert.Equal(t, twiliosync.OutcomeAccepted, twiliosync.OutcomeOf(err))
		})
	})
}

func TestEnsureByManyAtOnceMakesOneStream(t *testing.T) {
	t.Parallel()
	srv := twiliosynctest.NewServer(t, twiliosynctest.WithStreams())
	script := &seededScript{seed: 1}
	script.line(50, srv.Every().Optional().ToOperation("CreateSyncStream")).LoseAnswer()
	script.line(50, srv.Every().Optional()).Answer(429, 20429)
	script.line(30, srv.Every().Optional().AfterHandling()).Answer(500, 20500)
	var running sync.WaitGroup
	sids := make(chan string, 200)
	for range 10 { // clients, as processes would have
		client := srv.Client(twiliosync.WithRetryPolicy(twiliosync.RetryPolicy{MaxAttempts: 10, BaseDelay: time.Millisecond, MaxDelay: 10 * time.Millisecond}))
		for range 20 {
			running.Go(func() {
				stream, _, err := client.Streams.Ensure(context.Background(), "default", "orders", &twiliosync.UpdateSyncStreamParams{TTL: ttl(time.Hour)})
				if assert.NoError(t, err) {
					sids <- stream.SID
				}
			})
		}
	}
	running.Wait()
	close(sids)
	distinct := map[string]bool{}
	for sid := range sids {
		distinct[sid] = true
	}
	assert.Len(t, distinct, 1)
	assert.Len(t, srv.Streams("default"), 1)
}

func TestEnsureRenewsAndDecidesByTwiliosWordsOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		srv := twiliosynctest.NewServer(t, twiliosynctest.WithStreams())
		client := srv.Client()
		first, _, err := client.Streams.Ensure(t.Context(), "default", "orders", &twiliosync.UpdateSyncStreamParams{TTL: ttl(time.Hour)})
		require.NoError(t, err)
		time.Sleep(30 * time.Minute)
		second, _, err := client.Streams.Ensure(t.Context(), "default", "orders", &twiliosync.UpdateSyncStreamParams{TTL: ttl(time.Hour)})
		require.NoError(t, err)
		assert.Equal(t, first.SID, second.SID)
		assert.Equal(t, first.DateExpires.Add(30*time.Minute), second.DateExpires)
		third, _, err := client.Streams.Ensure(t.Context(), "default", "orders", nil)
		require.NoError(t, err)
		assert.Equal(t, second.DateExpires, third.DateExpires, "without a TTL it is only fetched")

		before := len(srv.Requests())
		srv.Next(1).Respond(404, "<html>not here</html>")
		_, _, err = client.Streams.Ensure(t.Context(), "default", "invoices", nil)
		assert.Equal(t, twiliosync.OutcomeUnknown, twiliosync.OutcomeOf(err))
		assert.Len(t, srv.Requests(), before+1, "nothing is created because of somebody else's page")
	})
}

func TestAllGetsPagesAsTheyAreNeeded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var names []string
		for i := range 45 {
			names = append(names, fmt.Sprintf("stream-%02d", i))
		}
		srv := twiliosynctest.NewServer(t, twiliosynctest.WithStreams(names...))
		client := srv.Client()
		var got []string
		for stream, err := range client.Streams.All(t.Context(), "default", &twiliosync.ListSyncStreamParams{PageSize: 10}) {
			require.NoError(t, err)
			got = append(got, stream.UniqueName)
			assert.Len(t, srv.Requests(), (len(got)+9)/10)
		}
		slices.Sort(got)
		assert.Equal(t, names, got)
		assert.Len(t, srv.Requests(), 5)

		for range client.Streams.All(t.Context(), "default", &twiliosync.ListSyncStreamParams{PageSize: 10}) {
			break
		}
		assert.Len(t, srv.Requests(), 6, "a break gets no further page")

		srv.Next(2).ToOperation("ListSyncStream").Optional().Answer(401, 20003)
		var errs []error
		for _, err := range client.Streams.All(t.Context(), "default", nil) {
			errs = append(errs, err)
		}
		require.Len(t, errs, 1)
		assert.ErrorIs(t, errs[0], twiliosync.ErrUnauthorized)
	})
}

func TestNextPageURLIsReadForItsPageOnly(t *testing.T) {
	foreign := &recorder{answer: answer(200, `{"streams":[]}`)}
	elsewhere := newHTTPServer(t, foreign)
	client, server := setup(t)
	server.answer = func(w http.ResponseWriter, req *http.Request) {
		next := "null"
		if req.URL.Query().Get("PageToken") == "" {
			next = `"` + elsewhere + `/v9/evil?PageSize=7&Page=1&PageToken=PT2&x=y#z"`
		}
		fmt.Fprintf(w, `{"streams":[%s],"meta":{"next_page_url":%s,"key":"streams"}}`, streamAnswer, next)
	}
	n := 0
	for _, err := range client.Streams.All(context.Background(), "default", &twiliosync.ListSyncStreamParams{PageSize: 3}) {
		require.NoError(t, err)
		n++
	}
	assert.Equal(t, 2, n)
	require.Len(t, server.all(), 2)
	assert.Equal(t, "/prefix/v1/Services/default/Streams?Page=1&PageSize=3&PageToken=PT2", server.all()[1].requestURI)
	assert.Empty(t, foreign.all())

	server.answer = answer(200, `{"streams":[`+streamAnswer+`],"meta":{"next_page_url":"https://x.example/?Page=1&PageToken=PT2"}}`)
	n = 0
	var last error
	for _, err := range client.Streams.All(context.Background(), "default", nil) {
		n, last = n+1, err
		require.Less(t, n, 10)
	}
	assert.Equal(t, 3, n)
	assert.ErrorContains(t, last, "leads back")
	asError(t, last)
}

func newHTTPServer(t *testing.T, handler http.Handler) string {
	server := unstartedServer(t, handler)
	server.Start()
	return server.URL
}

// TestStreamOperationsCutAtEveryByte of request and answer end exactly once in
// effect: the first connection breaks, all others carry.
func TestStreamOperationsCutAtEveryByte(t *testing.T) {
	t.Parallel()
	for name, call := range map[string]func(*twiliosync.Client) error{
		"a named creation": func(client *twiliosync.Client) error {
			_, _, err := client.Streams.Create(context.Background(), "default", &twiliosync.CreateSyncStreamParams{UniqueName: "new"})
			return err
		},
		"an update": func(client *twiliosync.Client) error {
			_, _, err := client.Streams.Update(context.Background(), "default", "old", &twiliosync.UpdateSyncStreamParams{TTL: ttl(time.Hour)})
			return err
		},
		"a deletion": func(client *twiliosync.Client) error {
			_, err := client.Streams.Delete(context.Background(), "default", "old")
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for after := 0; ; after++ {
				var tampered, cut atomic.Bool
				srv := twiliosynctest.NewServer(t, twiliosynctest.WithStreams("old"))
				address, err := url.Parse(srv.URL)
				require.NoError(t, err)
				dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
					conn, err := new(net.Dialer).DialContext(ctx, network, address.Host)
					if err == nil && !tampered.Swap(true) {
						return &breakingConn{Conn: conn, left: after, cut: &cut}, nil
					}
					return conn, err
				}
				client := srv.Client(twiliosync.WithHTTPClient(&http.Client{Transport: &http.Transport{DialContext: dial}}),
					twiliosync.WithRetryPolicy(twiliosync.RetryPolicy{BaseDelay: time.Microsecond}))
				require.Equal(t, twiliosync.OutcomeAccepted, twiliosync.OutcomeOf(call(client)), "cut after %d bytes", after)
				client.CloseIdleConnections()
				streams := srv.Streams("default")
				switch name {
				case "a named creation":
					require.Len(t, streams, 2)
				case "an update":
					require.Len(t, streams, 1)
					require.False(t, streams[0].Expires.IsZero())
				default:
					require.Empty(t, streams)
				}
				srv.Close()
				if !cut.Load() {
					require.Greater(t, after, 400, "else nothing was cut")
					return
				}
			}
		})
	}
}

// breakingConn breaks after some bytes, written or read.
type breakingConn struct {
	net.Conn
	mu   sync.Mutex
	left int
	cut  *atomic.Bool
}

func (c *breakingConn) spend(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n = min(n, c.left)
	c.left -= n
	return n
}

func (c *breakingConn) Write(p []byte) (int, error) {
	n := c.spend(len(p))
	if n > 0 {
		if _, err := c.Conn.Write(p[:n]); err != nil {
			return 0, err
		}
	}
	if n < len(p) {
		c.cut.Store(true)
		c.Conn.Close()
		return n, errors.New("the connection broke")
	}
	return n, nil
}

func (c *breakingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if allowed := c.spend(n); allowed < n {
		c.cut.Store(true)
		c.Conn.Close()
		return allowed, io.ErrUnexpectedEOF
	}
	return n, err
}
