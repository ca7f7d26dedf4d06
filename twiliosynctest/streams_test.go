package twiliosynctest_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twiliosync/twiliosync-go/twiliosynctest"
)

const streams = "/v1/Services/" + service + "/Streams"

// call sends a request with these form fields, or without a body if there are none.
func call(srv *twiliosynctest.Server, method, path string, fields url.Values) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(fields.Encode()))
	r.SetBasicAuth(srv.Credentials())
	if fields != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	return serve(srv, r)
}

func createStream(srv *twiliosynctest.Server, fields url.Values) *httptest.ResponseRecorder {
	return call(srv, http.MethodPost, streams, fields)
}

func fetch(srv *twiliosynctest.Server, stream string) *httptest.ResponseRecorder {
	return call(srv, http.MethodGet, streams+"/"+stream, nil)
}

// stream is the resource, with each property that the service describes and no other.
type stream struct {
	SID         string            `json:"sid"`
	UniqueName  *string           `json:"unique_name"`
	AccountSID  string            `json:"account_sid"`
	ServiceSID  string            `json:"service_sid"`
	URL         string            `json:"url"`
	Links       map[string]string `json:"links"`
	DateExpires *string           `json:"date_expires"`
	DateCreated string            `json:"date_created"`
	DateUpdated string            `json:"date_updated"`
	CreatedBy   string            `json:"created_by"`
}

func streamIn(t *testing.T, w *httptest.ResponseRecorder) stream {
	t.Helper()
	var s stream
	decoder := json.NewDecoder(w.Body)
	decoder.DisallowUnknownFields()
	require.NoError(t, decoder.Decode(&s))
	return s
}

func TestCreatedStreamHasAllProperties(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newFake()
		time.Sleep(1500 * time.Millisecond)
		w := createStream(srv, url.Values{"UniqueName": {"orders"}, "Ttl": {"60"}})
		require.Equal(t, 201, w.Code)
		assert.Equal(t, "application/json", w.Header().Get("Content-Type"))

		sid := srv.StreamSID("orders")
		assert.JSONEq(t, `{
			"sid": "`+sid+`",
			"unique_name": "orders",
			"account_sid": "AC00000000000000000000000000000000",
			"service_sid": "`+service+`",
			"url": "http://example.com`+streams+`/`+sid+`",
			"links": {"messages": "http://example.com`+streams+`/`+sid+`/Messages"},
			"date_expires": "2000-01-01T00:01:01Z",
			"date_created": "2000-01-01T00:00:01Z",
			"date_updated": "2000-01-01T00:00:01Z",
			"created_by": "system"
		}`, w.Body.String())
		assert.JSONEq(t, w.Body.String(), fetch(srv, "orders").Body.String())
		assert.JSONEq(t, w.Body.String(), fetch(srv, sid).Body.String())
		assert.True(t, srv.Requests()[0].Handled)

		created := time.Date(2000, 1, 1, 0, 0, 1, 5e8, time.UTC)
		require.Len(t, srv.Streams(service), 1)
		got := srv.Streams(service)[0]
		assert.Equal(t, []string{service, sid, "orders"}, []string{got.ServiceSID, got.SID, got.UniqueName})
		assert.True(t, got.Created.Equal(created))
		assert.True(t, got.Expires.Equal(created.Add(time.Minute)))
	})
}

func TestCreatedStreamWithoutNameIsNew(t *testing.T) {
	srv := newFake(twiliosynctest.WithStreams())
	first, second := streamIn(t, createStream(srv, nil)), streamIn(t, createStream(srv, url.Values{}))
	assert.Regexp(t, `^TO[0-9a-f]{32}$`, first.SID)
	assert.NotEqual(t, first.SID, second.SID)
	assert.Nil(t, first.UniqueName)
	assert.Nil(t, first.DateExpires)
	assert.Equal(t, 200, fetch(srv, first.SID).Code)
	assert.Equal(t, 201, publish(srv, streams+"/"+first.SID+"/Messages", `{}`).Code)
	assert.Len(t, srv.Streams(service), 2)
}

func TestAccountOfAStreamIsTheOneOfTheCredentials(t *testing.T) {
	const account = "AC0123456789abcdef0123456789abcdef"
	assert.Equal(t, account, streamIn(t, createStream(newFake(twiliosynctest.WithCredentials(account, "x")), nil)).AccountSID)
	assert.Equal(t, "AC00000000000000000000000000000000",
		streamIn(t, createStream(newFake(twiliosynctest.WithCredentials("SK0123456789abcdef0123456789abcdef", "x")), nil)).AccountSID)
}

func TestURLsLeadToWhereTheServerIs(t *testing.T) {
	srv := newFake()
	host := httptest.NewTLSServer(srv)
	defer host.Close()
	r, err := http.NewRequest(http.MethodPost, host.URL+streams, nil)
	require.NoError(t, err)
	r.SetBasicAuth(srv.Credentials())
	response, err := host.Client().Do(r)
	require.NoError(t, err)
	defer response.Body.Close()
	var created stream
	require.NoError(t, json.NewDecoder(response.Body).Decode(&created))
	assert.Equal(t, host.URL+streams+"/"+created.SID, created.URL)
}

func TestStreamOperationsRefuse(t *testing.T) {
	name := func(name string) url.Values { return url.Values{"UniqueName": {name}} }
	ttl := func(ttl string) url.Values { return url.Values{"Ttl": {ttl}} }
	const other = "/v1/Services/" + service + "/Streams/bills"

	for _, tt := range []struct {
		name         string
		method, path string
		fields       url.Values
		status, code int
	}{
		{"fetching a missing stream", "GET", other, nil, 404, 20404},
		{"updating a missing stream", "POST", other, ttl("1"), 404, 20404},
		{"updating a missing stream to nonsense", "POST", other, ttl("x"), 404, 20404},
		{"deleting a missing stream", "DELETE", other, nil, 404, 20404},
		{"a service that is a stream", "GET", "/v1/Services/TO00000000000000000000000000000001/Streams", nil, 404, 20404},
		{"a stream that is a service", "GET", streams + "/" + service, nil, 404, 20404},
		{"a trailing slash", "GET", streams + "/", nil, 404, 20404},
		{"an empty service", "POST", "/v1/Services//Streams", nil, 404, 20404},
		{"deleting all streams", "DELETE", streams, nil, 405, 20004},
		{"putting a stream", "PUT", streams + "/orders", nil, 405, 20004},

		{"creating a name that exists", "POST", streams, name("orders"), 409, 54301},
		{"creating an empty name", "POST", streams, name(""), 400, 54302},
		{"creating a name of 321 characters", "POST", streams, name(strings.Repeat("ä", 321)), 400, 54302},
		{"creating a name in the form of a SID", "POST", streams, name("TO00000000000000000000000000000001"), 400, 54302},
		{"creating a name in the form of another SID", "POST", streams, name("ZZ00000000000000000000000000000001"), 400, 54302},
		{"creating a name that is not UTF-8", "POST", streams, name("\xff"), 400, 54302},
		{"creating a name that no path can have", "POST", streams, name(".."), 400, 54302},

		{"a TTL that is negative", "POST", streams, ttl("-1"), 400, 54011},
		{"a TTL above a year", "POST", streams, ttl("31536001"), 400, 54011},
		{"a TTL beyond all numbers", "POST", streams, ttl("99999999999999999999"), 400, 54011},
		{"a TTL that is not whole", "POST", streams, ttl("1.5"), 400, 54011},
		{"a TTL that is no number", "POST", streams, ttl("1h"), 400, 54011},
		{"updating to a TTL that is negative", "POST", streams + "/orders", ttl("-1"), 400, 54011},
		{"updating nothing", "POST", streams + "/orders", url.Values{}, 400, 54010},
		{"updating with a message, as after an unencoded #", "POST", streams + "/orders", url.Values{"Data": {"{}"}}, 400, 54010},

		{"a page of none", "GET", streams + "?PageSize=0", nil, 400, 54454},
		{"a page of 101", "GET", streams + "?PageSize=101", nil, 400, 54454},
		{"a page of no number", "GET", streams + "?PageSize=", nil, 400, 54454},
		{"a page below zero", "GET", streams + "?Page=-1", nil, 400, 54453},
		{"a page that is no number", "GET", streams + "?Page=x", nil, 400, 54453},
		{"a page token that was never given", "GET", streams + "?PageToken=next", nil, 400, 54453},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := newFake(twiliosynctest.WithStreams("orders"))
			before := srv.Streams(service)
			w := call(srv, tt.method, tt.path, tt.fields)
			assertTwilioError(t, w, tt.status, tt.code)
			assert.Equal(t, before, srv.Streams(service))
			assert.False(t, srv.Requests()[0].Handled)
			assert.Equal(t, tt.code, srv.Requests()[0].Code)
		})
	}
}

func TestStreamOperationsNeedCredentialsAndAForm(t *testing.T) {
	srv := newFake()
	r := httptest.NewRequest(http.MethodGet, streams, nil)
	assertTwilioError(t, serve(srv, r), 401, 20003)

	for _, path := range []string{streams, streams + "/orders"} {
		publish(srv, orders, `{}`)
		r := httptest.NewRequest(http.MethodPost, path, strings.NewReader("Ttl=%"))
		r.SetBasicAuth(srv.Credentials())
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		assertTwilioError(t, serve(srv, r), 400, 20001)
	}
}

func TestAllowNamesTheMethodsOfThePath(t *testing.T) {
	srv := newFake()
	for path, methods := range map[string]string{streams: "POST, GET", streams + "/orders": "GET, POST, DELETE", orders: "POST"} {
		assert.Equal(t, methods, call(srv, "PATCH", path, nil).Header().Get("Allow"))
	}
}

func TestStreamsAcceptTheLongestNamesAndLives(t *testing.T) {
	for _, fields := range []url.Values{
		{"UniqueName": {strings.Repeat("ä", 320)}},
		{"UniqueName": {"a/b?c#d e;f"}},
		{"Ttl": {"31536000"}},
		{"Ttl": {"0"}},
		{"Ttl": {""}},
	} {
		srv := newFake()
		created := createStream(srv, fields)
		require.Equal(t, 201, created.Code, fields)
		if name := fields.Get("UniqueName"); name != "" {
			assert.Equal(t, 200, fetch(srv, url.PathEscape(name)).Code)
			assert.Equal(t, name, srv.Streams(service)[0].UniqueName)
		}
	}
}

func TestAStreamLivesAsLongAsItsTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newFake(twiliosynctest.WithStreams())
		fields := url.Values{"UniqueName": {"orders"}, "Ttl": {"60"}}
		require.Equal(t, 201, createStream(srv, fields).Code)
		created := streamIn(t, fetch(srv, "orders"))

		time.Sleep(time.Minute - 1)
		assertTwilioError(t, createStream(srv, fields), 409, 54301)
		assert.Equal(t, 201, publish(srv, orders, `{}`).Code, "which does not renew it")
		time.Sleep(1)
		assert.Empty(t, srv.Streams(service))
		assertTwilioError(t, publish(srv, orders, `{}`), 404, 20404)
		assertTwilioError(t, fetch(srv, "orders"), 404, 20404)
		assertTwilioError(t, call(srv, "POST", streams+"/orders", url.Values{"Ttl": {"0"}}), 404, 20404)
		assertTwilioError(t, call(srv, "DELETE", streams+"/orders", nil), 404, 20404)

		again := createStream(srv, fields)
		require.Equal(t, 201, again.Code)
		assert.Equal(t, created.SID, streamIn(t, again).SID)
		assert.Equal(t, 201, publish(srv, orders, `{}`).Code)
		assert.Len(t, srv.Messages("orders"), 2)
	})
}

func TestUpdatingAStreamMovesItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newFake(twiliosynctest.WithStreams())
		require.Equal(t, 201, createStream(srv, url.Values{"UniqueName": {"orders"}, "Ttl": {"60"}}).Code)
		time.Sleep(59 * time.Second)
		w := call(srv, "POST", streams+"/orders", url.Values{"Ttl": {"60"}})
		require.Equal(t, 200, w.Code)
		updated := streamIn(t, w)
		assert.Equal(t, "2000-01-01T00:00:00Z", updated.DateCreated)
		assert.Equal(t, "2000-01-01T00:00:59Z", updated.DateUpdated)
		assert.Equal(t, "2000-01-01T00:01:59Z", *updated.DateExpires)

		time.Sleep(59 * time.Second)
		w = call(srv, "POST", streams+"/"+updated.SID, url.Values{"Ttl": {"0"}})
		require.Equal(t, 200, w.Code)
		assert.Nil(t, streamIn(t, w).DateExpires)
		time.Sleep(1000 * time.Hour)
		assert.Equal(t, 200, fetch(srv, "orders").Code)
	})
}

func TestADeletedStreamIsGone(t *testing.T) {
	for name, srv := range map[string]*twiliosynctest.Server{
		"created": newFake(twiliosynctest.WithStreams()),
		"given":   newFake(twiliosynctest.WithStreams("orders")),
	} {
		t.Run(name, func(t *testing.T) {
			if name == "created" {
				require.Equal(t, 201, createStream(srv, url.Values{"UniqueName": {"orders"}}).Code)
			}
			require.Equal(t, 201, publish(srv, orders, `{}`).Code)
			w := call(srv, "DELETE", streams+"/"+srv.StreamSID("orders"), nil)
			assert.Equal(t, 204, w.Code)
			assert.Empty(t, w.Body.String())
			assert.Empty(t, w.Header().Get("Content-Type"))

			assertTwilioError(t, call(srv, "DELETE", streams+"/orders", nil), 404, 20404)
			assertTwilioError(t, publish(srv, orders, `{}`), 404, 20404)
			assert.Empty(t, srv.Streams(service))
			assert.Len(t, srv.Messages("orders"), 1, "messages stay")
			assert.Equal(t, 201, createStream(srv, url.Values{"UniqueName": {"orders"}}).Code)
		})
	}
}

func TestPublishingMakesAStreamUnlessStreamsAreStrict(t *testing.T) {
	srv := newFake()
	publish(srv, orders, `null`)
	assert.Empty(t, srv.Streams(service), "a refused message makes none")

	sid := srv.StreamSID("orders")
	require.Equal(t, 201, publish(srv, streams+"/"+sid+"/Messages", `{}`).Code)
	assert.Nil(t, streamIn(t, fetch(srv, sid)).UniqueName, "it is not known yet")
	require.Equal(t, 201, publish(srv, orders, `{}`).Code)
	assert.Equal(t, "orders", *streamIn(t, fetch(srv, sid)).UniqueName)
	assertTwilioError(t, createStream(srv, url.Values{"UniqueName": {"orders"}}), 409, 54301)

	require.Equal(t, 204, call(srv, "DELETE", streams+"/orders", nil).Code)
	require.Equal(t, 201, publish(srv, orders, `{}`).Code)
	assert.Len(t, srv.Streams(service), 1)
}

func TestEachServiceHasItsStreams(t *testing.T) {
	srv := newFake(twiliosynctest.WithStreams("given", newFake().StreamSID("given")))
	inDefault := "/v1/Services/default/Streams"
	require.Equal(t, 201, createStream(srv, url.Values{"UniqueName": {"orders"}}).Code)
	assertTwilioError(t, call(srv, "GET", inDefault+"/orders", nil), 404, 20404)
	require.Equal(t, 201, call(srv, "POST", inDefault, url.Values{"UniqueName": {"orders"}}).Code)
	require.Equal(t, 204, call(srv, "DELETE", streams+"/given", nil).Code)

	inOther := srv.Streams("default")
	require.Len(t, inOther, 2)
	assert.Equal(t, "given", inOther[0].UniqueName)
	assert.Equal(t, "orders", inOther[1].UniqueName)
	assert.Regexp(t, `^IS[0-9a-f]{32}$`, inOther[1].ServiceSID)
	assert.Equal(t, inOther, srv.Streams(inOther[1].ServiceSID), "the SID of a service is its name's")
	require.Len(t, srv.Streams(service), 1)
	assert.Equal(t, srv.StreamSID("orders"), srv.Streams(service)[0].SID, "as in every service")
}

// list is a page of streams, with each property that the service describes and no other.
type list struct {
	Streams []stream `json:"streams"`
	Meta    struct {
		Key             string  `json:"key"`
		Page            int     `json:"page"`
		PageSize        int     `json:"page_size"`
		FirstPageURL    string  `json:"first_page_url"`
		PreviousPageURL *string `json:"previous_page_url"`
		URL             string  `json:"url"`
		NextPageURL     *string `json:"next_page_url"`
	} `json:"meta"`
}

func pageAt(t *testing.T, srv *twiliosynctest.Server, url string) (page list, names []string) {
	t.Helper()
	w := call(srv, http.MethodGet, strings.TrimPrefix(url, "http://example.com"), nil)
	require.Equal(t, 200, w.Code, w.Body)
	decoder := json.NewDecoder(w.Body)
	decoder.DisallowUnknownFields()
	require.NoError(t, decoder.Decode(&page))
	for _, stream := range page.Streams {
		names = append(names, *stream.UniqueName)
	}
	return page, names
}

func TestPagesOfStreams(t *testing.T) {
	const base = "http://example.com" + streams
	srv := newFake(twiliosynctest.WithStreams("a", "b", "c", "d", "e"))
	first, names := pageAt(t, srv, streams+"?PageSize=2")
	assert.Equal(t, []string{"a", "b"}, names)
	assert.Equal(t, "streams", first.Meta.Key)
	assert.Equal(t, 0, first.Meta.Page)
	assert.Equal(t, 2, first.Meta.PageSize)
	assert.Equal(t, base+"?PageSize=2&Page=0", first.Meta.URL)
	assert.Equal(t, base+"?PageSize=2&Page=0", first.Meta.FirstPageURL)
	assert.Nil(t, first.Meta.PreviousPageURL)

	second, names := pageAt(t, srv, *first.Meta.NextPageURL)
	assert.Equal(t, []string{"c", "d"}, names)
	assert.Equal(t, 1, second.Meta.Page)
	assert.Equal(t, *first.Meta.NextPageURL, second.Meta.URL)
	assert.Regexp(t, `\?PageSize=2&Page=1&PageToken=PA[0-9a-f]{8}$`, second.Meta.URL)

	third, names := pageAt(t, srv, *second.Meta.NextPageURL)
	assert.Equal(t, []string{"e"}, names)
	assert.Nil(t, third.Meta.NextPageURL)
	assert.Equal(t, 2, third.Meta.Page)

	back, names := pageAt(t, srv, *third.Meta.PreviousPageURL)
	assert.Equal(t, []string{"c", "d"}, names)
	assert.Equal(t, 1, back.Meta.Page)
	back, names = pageAt(t, srv, *back.Meta.PreviousPageURL)
	assert.Equal(t, []string{"a", "b"}, names)
	assert.Nil(t, back.Meta.PreviousPageURL)

	t.Run("stay where they are when streams come and go", func(t *testing.T) {
		require.Equal(t, 204, call(srv, "DELETE", streams+"/b", nil).Code)
		require.Equal(t, 204, call(srv, "DELETE", streams+"/c", nil).Code)
		require.Equal(t, 201, createStream(srv, url.Values{"UniqueName": {"f"}}).Code)
		_, names := pageAt(t, srv, *first.Meta.NextPageURL)
		assert.Equal(t, []string{"d", "e"}, names)
	})
	t.Run("end after the last", func(t *testing.T) {
		for _, name := range []string{"d", "e", "f"} {
			require.Equal(t, 204, call(srv, "DELETE", streams+"/"+name, nil).Code)
		}
		page, names := pageAt(t, srv, *first.Meta.NextPageURL)
		assert.Empty(t, names)
		assert.NotNil(t, page.Streams, "an empty list, not null")
		assert.Nil(t, page.Meta.NextPageURL)
		_, names = pageAt(t, srv, *page.Meta.PreviousPageURL)
		assert.Equal(t, []string{"a"}, names)
	})
	t.Run("depend on the token, not on the index", func(t *testing.T) {
		page, names := pageAt(t, srv, streams+"?Page=7")
		assert.Equal(t, []string{"a"}, names)
		assert.Equal(t, 7, page.Meta.Page)
		assert.Equal(t, 50, page.Meta.PageSize)
	})
	t.Run("of exactly what there is are the last", func(t *testing.T) {
		page, _ := pageAt(t, srv, streams+"?PageSize=1")
		assert.Nil(t, page.Meta.NextPageURL)
	})
}

func TestPagesHoldEachStreamOnce(t *testing.T) {
	srv := newFake()
	for i := range 250 {
		createStream(srv, url.Values{"UniqueName": {fmt.Sprint(i)}})
	}
	for _, size := range []int{1, 7, 50, 100} {
		var all []string
		for next := fmt.Sprintf("%s?PageSize=%d", streams, size); next != ""; {
			page, names := pageAt(t, srv, next)
			all = append(all, names...)
			if next = ""; page.Meta.NextPageURL != nil {
				next = *page.Meta.NextPageURL
			}
		}
		require.Len(t, all, 250)
		for i, name := range all {
			assert.Equal(t, fmt.Sprint(i), name)
		}
	}
}

func TestFaultsMeetStreamOperations(t *testing.T) {
	for _, tt := range []struct {
		id           string
		method, path string
		fields       url.Values
		status       int
	}{
		{"CreateSyncStream", "POST", streams, url.Values{"UniqueName": {"bills"}}, 201},
		{"ListSyncStream", "GET", streams, nil, 200},
		{"FetchSyncStream", "GET", streams + "/orders", nil, 200},
		{"UpdateSyncStream", "POST", streams + "/orders", url.Values{"Ttl": {"60"}}, 200},
		{"DeleteSyncStream", "DELETE", streams + "/orders", nil, 204},
	} {
		t.Run(tt.id, func(t *testing.T) {
			srv := newFake(twiliosynctest.WithStreams("orders"))
			srv.Next(1).ToOperation(tt.id).Answer(503, 20503)
			srv.Next(1).ToOperation(tt.id).AfterHandling().Answer(500, 20500)
			require.Equal(t, 201, publish(srv, orders, `{}`).Code, "another operation")
			before := srv.Streams(service)

			assertTwilioError(t, call(srv, tt.method, tt.path, tt.fields), 503, 20503)
			assert.Equal(t, before, srv.Streams(service))
			assertTwilioError(t, call(srv, tt.method, tt.path, tt.fields), 500, 20500)
			if tt.method != http.MethodGet {
				assert.NotEqual(t, before, srv.Streams(service))
			}
			requests := srv.Requests()
			assert.Equal(t, tt.id, requests[1].Operation)
			assert.Equal(t, []bool{false, true}, []bool{requests[1].Handled, requests[2].Handled})
			assert.Empty(t, srv.Faults())

			fresh := newFake(twiliosynctest.WithStreams("orders"))
			assert.Equal(t, tt.status, call(fresh, tt.method, tt.path, tt.fields).Code)
		})
	}
}

func TestCutAnswersToStreamOperations(t *testing.T) {
	srv := twiliosynctest.NewServer(t, twiliosynctest.WithStreams("orders"))
	send := func(method, path string) (status int, err error) {
		r, err := http.NewRequestWithContext(t.Context(), method, srv.URL+path, nil)
		require.NoError(t, err)
		r.SetBasicAuth(srv.Credentials())
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		response, err := client.Do(r)
		if err != nil {
			return 0, err
		}
		defer response.Body.Close()
		_, err = io.ReadAll(response.Body)
		return response.StatusCode, err
	}

	srv.Every().CutBody()
	status, err := send("POST", streams)
	assert.Equal(t, 201, status)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	status, err = send("GET", streams)
	assert.Equal(t, 200, status)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	status, err = send("DELETE", streams+"/orders")
	assert.Equal(t, 204, status)
	require.NoError(t, err, "there is no body to cut")
	assert.Len(t, srv.Streams(service), 1, "one was made, one deleted")

	srv.Recover()
	srv.Next(1).LoseAnswer()
	status, err = send("POST", streams)
	assert.Zero(t, status)
	require.Error(t, err)
	assert.Len(t, srv.Streams(service), 2)
}

func TestFaultsToAStreamMeetWhatNamesItInItsPath(t *testing.T) {
	srv := newFake(twiliosynctest.WithStreams("orders", "bills"))
	srv.Every().ToStream("orders").Answer(503, 20503)
	for path, status := range map[string]int{
		streams + "/orders":                        503,
		streams + "/" + srv.StreamSID("orders"):    503,
		streams + "/bills":                         200,
		streams:                                    200,
		"/v1/Services/default/Streams/orders":      503,
		"/v1/Services/default/Streams/orders/more": 404,
	} {
		assert.Equal(t, status, call(srv, "GET", path, nil).Code, path)
	}
}

func TestOneOfManyCreatesTheStream(t *testing.T) {
	srv := newFake()
	var created, existed atomic.Int32
	var running sync.WaitGroup
	for range 200 {
		running.Go(func() {
			switch createStream(srv, url.Values{"UniqueName": {"orders"}}).Code {
			case 201:
				created.Add(1)
			case 409:
				existed.Add(1)
			}
		})
	}
	running.Wait()
	assert.EqualValues(t, 1, created.Load())
	assert.EqualValues(t, 199, existed.Load())
}
