package twiliosynctest_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twiliosync/twiliosync-go/twiliosynctest"
)

const (
	service = "IS00000000000000000000000000000001"
	orders  = "/v1/Services/" + service + "/Streams/orders/Messages"
)

// newFake returns a server without a network.
func newFake(opts ...twiliosynctest.Option) *twiliosynctest.Server {
	return twiliosynctest.New(opts...)
}

// newRequest returns a request that srv accepts as it is.
func newRequest(srv *twiliosynctest.Server, path, data string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(url.Values{"Data": {data}}.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.SetBasicAuth(srv.Credentials())
	return r
}

func serve(srv *twiliosynctest.Server, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	srv.ServeHTTP(w, r)
	return w
}

func publish(srv *twiliosynctest.Server, path, data string) *httptest.ResponseRecorder {
	return serve(srv, newRequest(srv, path, data))
}

func objectOf(bytes int) string { return `{"a":"` + strings.Repeat("a", bytes-8) + `"}` }

func TestServerAcceptsWhatTheServiceAccepts(t *testing.T) {
	for _, tt := range []struct {
		name, path, data string
		stream           string
	}{
		{"an object", orders, `{"id":1}`, "orders"},
		{"an empty object", orders, `{}`, "orders"},
		{"an object with space around and inside", orders, " \r\n\t{ \"id\" : 1 }\n", "orders"},
		{"a semicolon", orders, `{"a":"b;c"}`, "orders"},
		{"characters that HTML escapes", orders, `{"a":"<b>&amp;"}`, "orders"},
		{"characters of all planes", orders, `{"a":"äλ漢😀"}`, "orders"},
		{"numbers that float64 would change", orders, `{"n":12345678901234567890.10}`, "orders"},
		{"exactly 4096 bytes", orders, objectOf(4096), "orders"},
		{"4096 bytes that are more when percent-encoded", orders, `{"a":"` + strings.Repeat("ä", 2044) + `"}`, "orders"},
		{"a service by unique name", "/v1/Services/default/Streams/orders/Messages", `{}`, "orders"},
		{"a name with a slash", "/v1/Services/default/Streams/a%2Fb/Messages", `{}`, "a/b"},
		{"a name with a percent sign, decoded once", "/v1/Services/default/Streams/a%252Fb/Messages", `{}`, "a%2Fb"},
		{"a name with ? # and space", "/v1/Services/default/Streams/a%3F%23%20b/Messages", `{}`, "a?# b"},
		{"a name with a plus sign", "/v1/Services/default/Streams/a+b/Messages", `{}`, "a+b"},
		{"a name that ends in dots", "/v1/Services/default/Streams/.../Messages", `{}`, "..."},
		{"a name of 320 characters", "/v1/Services/default/Streams/" + strings.Repeat("%C3%A4", 320) + "/Messages", `{}`, strings.Repeat("ä", 320)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := newFake()
			w := publish(srv, tt.path, tt.data)

			require.Equal(t, http.StatusCreated, w.Code, w.Body)
			messages := srv.Messages(tt.stream)
			require.Len(t, messages, 1)
			assert.Regexp(t, `^TZ[0-9a-f]{32}$`, messages[0].SID)
			assert.Equal(t, `{"sid":"`+messages[0].SID+`","data":`+tt.data+`}`, w.Body.String())
			assert.Equal(t, tt.data, string(messages[0].Data))
			assert.Equal(t, tt.stream, messages[0].Stream)
		})
	}
}

func TestServerRefusesWhatTheServiceRefuses(t *testing.T) {
	as := func(method string) func(*http.Request) { return func(r *http.Request) { r.Method = method } }
	contentType := func(value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set("Content-Type", value) }
	}
	form := func(body string) func(*http.Request) {
		return func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader(body)) }
	}
	credentials := func(username, password string) func(*http.Request) {
		return func(r *http.Request) { r.SetBasicAuth(username, password) }
	}
	inStream := func(segment string) string { return "/v1/Services/" + service + "/Streams/" + segment + "/Messages" }
	username, _ := newFake().Credentials()

	for _, tt := range []struct {
		name       string
		path, data string
		change     func(*http.Request)
		status     int
		code       int
	}{
		{"no credentials", orders, `{}`, func(r *http.Request) { r.Header.Del("Authorization") }, 401, 20003},
		{"a wrong user name", orders, `{}`, credentials("AC1", "auth-token"), 401, 20003},
		{"a wrong password", orders, `{}`, credentials(username, "wrong"), 401, 20003},
		{"a bearer token", orders, `{}`, func(r *http.Request) { r.Header.Set("Authorization", "Bearer x") }, 401, 20003},

		{"the root", "/", `{}`, nil, 404, 20404},
		{"another version", strings.Replace(orders, "/v1/", "/v2/", 1), `{}`, nil, 404, 20404},
		{"another resource", strings.Replace(orders, "Streams", "Documents", 1), `{}`, nil, 404, 20404},
		{"a stream that is missing, as after an unencoded #", "/v1/Services/" + service + "/Streams/orders", `{}`, nil, 404, 20404},
		{"a trailing slash", orders + "/", `{}`, nil, 404, 20404},
		{"a prefix", "/api" + orders, `{}`, nil, 404, 20404},
		{"an unencoded slash in a name", inStream("a/b"), `{}`, nil, 404, 20404},
		{"an empty service", "/v1/Services//Streams/orders/Messages", `{}`, nil, 404, 20404},
		{"an empty stream", inStream(""), `{}`, nil, 404, 20404},
		{"encoded literals in other segments are taken as they are", strings.Replace(orders, "Streams", "Stream%73", 1), `{}`, nil, 404, 20404},

		{"GET", orders, `{}`, as(http.MethodGet), 405, 20004},
		{"PUT", orders, `{}`, as(http.MethodPut), 405, 20004},
		{"DELETE", orders, `{}`, as(http.MethodDelete), 405, 20004},

		{"swapped SIDs", "/v1/Services/TO00000000000000000000000000000001/Streams/" + service + "/Messages", `{}`, nil, 404, 20404},
		{"a stream's SID as the service", strings.Replace(orders, service, "TO00000000000000000000000000000001", 1), `{}`, nil, 404, 20404},
		{"a service's SID as the stream", inStream(service), `{}`, nil, 404, 20404},
		{"a name of 321 characters", inStream(strings.Repeat("a", 321)), `{}`, nil, 404, 20404},
		{"a name that is not UTF-8", inStream("%FF"), `{}`, nil, 404, 20404},
		{"a dot as the name", inStream("."), `{}`, nil, 404, 20404},
		{"two dots as the name", inStream("%2E%2E"), `{}`, nil, 404, 20404},

		{"no content type", orders, `{}`, contentType(""), 400, 20001},
		{"a JSON body", orders, `{}`, contentType("application/json"), 400, 20001},
		{"an empty body", orders, `{}`, form(""), 400, 20001},
		{"a form without Data", orders, `{}`, form("data={}"), 400, 20001},
		{"Data in the query string only", orders + "?Data={}", `{}`, form(""), 400, 20001},

		{"an empty Data", orders, ``, nil, 400, 54008},
		{"unquoted keys", orders, `{id:1}`, nil, 400, 54008},
		{"two objects", orders, `{}{}`, nil, 400, 54008},
		{"an object cut short", orders, `{"a":`, nil, 400, 54008},
		{"JSON that is not UTF-8", orders, "{\"a\":\"\xff\"}", nil, 400, 54008},
		{"a form that is not percent-encoded", orders, `{}`, form(`Data={"a":"100%"}`), 400, 54008},

		{"null", orders, `null`, nil, 400, 54251},
		{"an array", orders, `[{}]`, nil, 400, 54251},
		{"a string", orders, `"{}"`, nil, 400, 54251},
		{"a number", orders, `1`, nil, 400, 54251},

		{"4097 bytes", orders, objectOf(4097), nil, 413, 54006},
		{"4097 bytes of which one is a space", orders, " " + objectOf(4096), nil, 413, 54006},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := newFake()
			r := newRequest(srv, tt.path, tt.data)
			if tt.change != nil {
				tt.change(r)
			}
			w := serve(srv, r)

			assertTwilioError(t, w, tt.status, tt.code)
			requests := srv.Requests()
			require.Len(t, requests, 1)
			assert.Equal(t, tt.status, requests[0].Status)
			assert.False(t, requests[0].Handled)
			assert.Empty(t, srv.Messages("orders"))
		})
	}
}

func assertTwilioError(t *testing.T, w *httptest.ResponseRecorder, status, code int) {
	t.Helper()
	assert.Equal(t, status, w.Code, w.Body)
	var body struct {
		Code     int    `json:"code"`
		Message  string `json:"message"`
		MoreInfo string `json:"more_info"`
		Status   int    `json:"status"`
	}
	decoder := json.NewDecoder(w.Body)
	decoder.DisallowUnknownFields()
	require.NoError(t, decoder.Decode(&body))
	assert.Equal(t, code, body.Code)
	assert.Equal(t, status, body.Status)
	assert.NotEmpty(t, body.Message)
	assert.Equal(t, "https://www.twilio.com/docs/errors/"+strconv.Itoa(code), body.MoreInfo)
}

func TestASemicolonInAFormIsData(t *testing.T) {
	for _, body := range []string{`Data={"note":"a;b"}`, `Data={"note":"a;b"}&note=a;b`, `note=a;b&Data={"note":"a;b"}`} {
		srv := newFake()
		r := newRequest(srv, orders, "")
		r.Body = io.NopCloser(strings.NewReader(body))
		assert.Equal(t, 201, serve(srv, r).Code, body)
		require.Len(t, srv.Messages("orders"), 1)
		assert.Equal(t, `{"note":"a;b"}`, string(srv.Messages("orders")[0].Data))
	}
}

func TestABodyBeyondTheBoundOfTheHostIsTooLarge(t *testing.T) {
	srv := newFake()
	w := httptest.NewRecorder()
	http.MaxBytesHandler(srv, 8192).ServeHTTP(w, newRequest(srv, orders, objectOf(9000)))
	assertTwilioError(t, w, 413, 54006)
	assert.Empty(t, srv.Requests()[0].Body)
}

func TestServerAnswersTheFirstObjection(t *testing.T) {
	flaws := []struct {
		name  string
		apply func(*http.Request) *http.Request
		code  int
	}{
		{"credentials", func(r *http.Request) *http.Request { r.Header.Del("Authorization"); return r }, 20003},
		{"path", func(r *http.Request) *http.Request { r.URL.Path = "/"; return r }, 20404},
		{"method", func(r *http.Request) *http.Request { r.Method = "PUT"; return r }, 20004},
		{"stream", func(r *http.Request) *http.Request {
			r.URL.Path = strings.Replace(r.URL.Path, "orders", "missing", 1)
			return r
		}, 20404},
		{"content type", func(r *http.Request) *http.Request { r.Header.Set("Content-Type", "text/plain"); return r }, 20001},
	}
	srv := newFake(twiliosynctest.WithStreams("orders"))
	for i, first := range flaws {
		r := newRequest(srv, orders, strings.Repeat("x", 5000))
		for _, flaw := range flaws[i:] {
			r = flaw.apply(r)
		}
		var body struct{ Code int }
		require.NoError(t, json.Unmarshal(serve(srv, r).Body.Bytes(), &body))
		assert.Equal(t, first.code, body.Code, first.name)
	}
	assertTwilioError(t, publish(srv, orders, strings.Repeat("x", 5000)), 400, 54008)
	assertTwilioError(t, publish(srv, orders, "["+strings.Repeat("1,", 3000)+"1]"), 400, 54251)
}

func TestServerSendsTheHeadersOfTwilio(t *testing.T) {
	srv := newFake()
	for name, w := range map[string]*httptest.ResponseRecorder{
		"a success": publish(srv, orders, `{}`),
		"an error":  publish(srv, orders, `null`),
	} {
		t.Run(name, func(t *testing.T) {
			assert.Equal(t, "application/json", w.Header().Get("Content-Type"))
			assert.Regexp(t, `^RQ[0-9a-f]{32}$`, w.Header().Get("Twilio-Request-Id"))
			assert.Regexp(t, `^\d+\.\d{3}$`, w.Header().Get("Twilio-Request-Duration"))
			assert.Equal(t, "1", w.Header().Get("Twilio-Concurrent-Requests"))
		})
	}
	r := newRequest(srv, orders, `{}`)
	r.Method = http.MethodGet
	assert.Equal(t, "POST", serve(srv, r).Header().Get("Allow"))
	r.SetBasicAuth("x", "y")
	assert.Equal(t, `Basic realm="Twilio API"`, serve(srv, r).Header().Get("WWW-Authenticate"))
}

func TestServerNamesTheMissingResource(t *testing.T) {
	w := publish(newFake(twiliosynctest.WithStreams()), orders, `{}`)
	assert.Contains(t, w.Body.String(), `"The requested resource /Services/`+service+`/Streams/orders/Messages was not found"`)
}

func TestWithStreamsMakesOnlyTheseExist(t *testing.T) {
	byName := newFake(twiliosynctest.WithStreams("orders", "bills"), twiliosynctest.WithStreams("more"))
	bySID := newFake(twiliosynctest.WithStreams(byName.StreamSID("orders")))

	for _, tt := range []struct {
		name   string
		srv    *twiliosynctest.Server
		stream string
		status int
	}{
		{"a given name", byName, "orders", 201},
		{"another given name", byName, "bills", 201},
		{"a name given by another option", byName, "more", 201},
		{"the SID of a given name", byName, byName.StreamSID("orders"), 201},
		{"a given SID", bySID, byName.StreamSID("orders"), 201},
		{"the name of a given SID", bySID, "orders", 201},
		{"another name", byName, "order", 404},
		{"a name in other case", byName, "Orders", 404},
		{"another SID", byName, "TO00000000000000000000000000000001", 404},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := publish(tt.srv, "/v1/Services/default/Streams/"+tt.stream+"/Messages", `{}`)
			assert.Equal(t, tt.status, w.Code)
		})
	}
}

func TestWithCredentialsReplacesTheAcceptedPair(t *testing.T) {
	srv := newFake(twiliosynctest.WithCredentials("SK1", "secret"))
	assert.Equal(t, 201, publish(srv, orders, `{}`).Code)

	r := newRequest(srv, orders, `{}`)
	r.SetBasicAuth(newFake().Credentials())
	assertTwilioError(t, serve(srv, r), 401, 20003)
}

func TestMessagesOfANameAndItsSIDAreTheSame(t *testing.T) {
	srv := newFake()
	sid := srv.StreamSID("orders")
	assert.Regexp(t, `^TO[0-9a-f]{32}$`, sid)

	publish(srv, orders, `{"n":1}`)
	publish(srv, "/v1/Services/"+service+"/Streams/"+sid+"/Messages", `{"n":2}`)
	publish(srv, "/v1/Services/"+service+"/Streams/bills/Messages", `{"n":3}`)
	publish(srv, "/v1/Services/default/Streams/orders/Messages", `{"n":4}`)

	messages := srv.Messages("orders")
	require.Len(t, messages, 3)
	assert.Equal(t, messages, srv.Messages(sid))
	for i, want := range []struct{ service, stream, data string }{
		{service, "orders", `{"n":1}`}, {service, sid, `{"n":2}`}, {"default", "orders", `{"n":4}`},
	} {
		assert.Equal(t, want.service, messages[i].ServiceSID)
		assert.Equal(t, want.stream, messages[i].Stream)
		assert.Equal(t, want.data, string(messages[i].Data))
		assert.Equal(t, sid, messages[i].StreamSID)
	}
	assert.Len(t, srv.Messages("bills"), 1)
	assert.Empty(t, srv.Messages("nothing"))

	messages[0] = twiliosynctest.Message{}
	assert.Equal(t, "orders", srv.Messages("orders")[0].Stream, "the slice is the caller's")
}

func TestRequestsHoldsAllThatArrived(t *testing.T) {
	srv := newFake()
	publish(srv, "/v1/Services/default/Streams/a%2Fb/Messages?x=1", `{"n":1}`)
	publish(srv, "/nowhere", `null`)

	requests := srv.Requests()
	require.Len(t, requests, 2)
	first, second := requests[0], requests[1]
	assert.Equal(t, "POST", first.Method)
	assert.Equal(t, "/v1/Services/default/Streams/a%2Fb/Messages?x=1", first.Path)
	assert.Equal(t, "default", first.ServiceSID)
	assert.Equal(t, "a/b", first.Stream)
	assert.Equal(t, "Data=%7B%22n%22%3A1%7D", first.Body)
	assert.Equal(t, `{"n":1}`, string(first.Data))
	assert.Equal(t, "application/x-www-form-urlencoded", first.Header.Get("Content-Type"))
	assert.Equal(t, 201, first.Status)
	assert.True(t, first.Handled)
	assert.False(t, first.Time.IsZero())

	assert.Equal(t, "CreateStreamMessage", first.Operation)
	assert.Zero(t, first.Code)

	assert.Equal(t, "/nowhere", second.Path)
	assert.Empty(t, second.Operation)
	assert.Equal(t, 404, second.Status)
	assert.Equal(t, 20404, second.Code)
	assert.Equal(t, "The requested resource /nowhere was not found", second.Message)
	assert.Equal(t, `null`, string(second.Data))
	assert.Empty(t, second.Stream)
	assert.False(t, second.Handled)
}

func TestCredentialsAreMasked(t *testing.T) {
	srv := newFake()
	r := newRequest(srv, orders, `{}`)
	secret := r.Header.Get("Authorization")
	serve(srv, r)

	assert.Equal(t, "[masked]", srv.Requests()[0].Header.Get("Authorization"))
	assert.Equal(t, "[masked]", srv.Messages("orders")[0].Header.Get("Authorization"))
	assert.Equal(t, secret, r.Header.Get("Authorization"), "of the request itself")
}

func TestOnMessageSeesAcceptedMessagesOnly(t *testing.T) {
	var seen []twiliosynctest.Message
	srv := newFake(twiliosynctest.OnMessage(func(m twiliosynctest.Message) { seen = append(seen, m) }))
	publish(srv, orders, `{"n":1}`)
	publish(srv, orders, `null`)
	assert.Equal(t, srv.Messages("orders"), seen)
}

func TestOnRequestSeesEachRequestAsItEnds(t *testing.T) {
	var srv *twiliosynctest.Server
	var seen []twiliosynctest.Request
	srv = newFake(twiliosynctest.OnRequest(func(r twiliosynctest.Request) {
		assert.Equal(t, r, srv.Requests()[len(seen)], "observers may use the server")
		seen = append(seen, r)
	}))
	publish(srv, orders, `{}`)
	publish(srv, orders, `null`)
	srv.Next(2).Answer(429, 54009)
	srv.Next(1).LoseAnswer()
	publish(srv, orders, `{}`)
	publish(srv, orders, `{}`)
	assert.Panics(t, func() { publish(srv, orders, `{}`) }, "for net/http, which cuts the connection")

	type end struct {
		status, code int
		message      string
		fault        string
		handled      bool
	}
	var ends []end
	for _, r := range seen {
		ends = append(ends, end{r.Status, r.Code, r.Message, r.Fault, r.Handled})
	}
	assert.Equal(t, []end{
		{201, 0, "", "", true},
		{400, 54251, "Invalid Message Stream Message data", "", false},
		{429, 54009, "Rate limit exceeded", "Next(2).Answer(429, 54009)", false},
		{429, 54009, "Rate limit exceeded", "Next(2).Answer(429, 54009)", false},
		{0, 0, "", "Next(1).LoseAnswer()", true},
	}, ends)
}

func TestOptionsRefuseNonsense(t *testing.T) {
	assert.PanicsWithValue(t, "twiliosynctest: WithStreamRateLimit(-1, 10ns): both values must be positive, or the number 0 for no limit",
		func() { twiliosynctest.WithStreamRateLimit(-1, 10) })
	assert.Panics(t, func() { twiliosynctest.WithStreamRateLimit(1, 0) })
	assert.Panics(t, func() { twiliosynctest.WithRetention(0) })
	assert.Panics(t, func() { twiliosynctest.WithConcurrencyLimit(0) })
	assert.PanicsWithValue(t, "twiliosynctest: Client needs the server's URL: use NewServer, or set URL to where the handler is mounted",
		func() { newFake().Client() })
}

func TestHandlerCanBeMountedAnywhere(t *testing.T) {
	srv := twiliosynctest.New()
	host := httptest.NewServer(srv)
	defer host.Close()
	srv.URL = host.URL

	client := srv.Client()
	defer client.CloseIdleConnections()
	_, _, err := client.StreamMessages.Create(t.Context(), service, "orders", map[string]int{"n": 1})
	require.NoError(t, err)
	assert.Len(t, srv.Messages("orders"), 1)
}
