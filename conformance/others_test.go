package conformance

import (
	"context"
	"net/http"
	"net/url"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	messagesPath = "/v1/Services/default/Streams/orders/Messages"
	formType     = "application/x-www-form-urlencoded"
)

// TestErrorAnswersToOthers sends what the SDK never sends. Whatever the
// description refuses, the fake has to refuse, too.
func TestErrorAnswersToOthers(t *testing.T) {
	t.Parallel()
	contract := readContract(t)
	tally := newTally(t)
	for _, test := range []struct {
		name                            string
		method, path, contentType, body string // by default a message that is accepted
		authorization                   string // by default the right one
		described                       bool   // by Twilio's OpenAPI description
		want                            answer
	}{
		{name: "as described", described: true, want: answer{201, 0}},
		{name: "a charset in the content type", contentType: formType + "; charset=UTF-8", described: true, want: answer{201, 0}},
		{name: "a field more than needed", body: "Ttl=10&Data=%7B%7D", described: true, want: answer{201, 0}},
		{name: "a query", path: messagesPath + "?Data=null", described: true, want: answer{201, 0}},

		{name: "no credentials", authorization: "none", want: answer{401, 20003}},
		{name: "credentials of another kind", authorization: "Bearer abc", want: answer{401, 20003}},
		{name: "wrong credentials", authorization: "Basic QUMxOndyb25n", described: true, want: answer{401, 20003}},

		{name: "an update of a stream that is not there", path: "/v1/Services/default/Streams/orders", body: "Ttl=60", described: true, want: answer{404, 20404}},
		{name: "another version", path: "/v2/Services/default/Streams/orders/Messages", want: answer{404, 20404}},
		{name: "the root", path: "/", want: answer{404, 20404}},
		{name: "a slash at the end", path: messagesPath + "/", want: answer{404, 20404}},
		{name: "an empty service", path: "/v1/Services//Streams/orders/Messages", want: answer{404, 20404}},
		{name: "a name with a slash that is not encoded", path: "/v1/Services/default/Streams/orders/2024/Messages", want: answer{404, 20404}},
		{name: "small letters", path: strings.ToLower(messagesPath), want: answer{404, 20404}},
		{name: "a name that is not UTF-8", path: "/v1/Services/default/Streams/%FF/Messages", described: true, want: answer{404, 20404}},
		{name: "a name of two dots", path: "/v1/Services/default/Streams/%2E%2E/Messages", described: true, want: answer{404, 20404}},
		{name: "a name of 321 characters", path: "/v1/Services/default/Streams/" + strings.Repeat("n", 321) + "/Messages", described: true, want: answer{404, 20404}},
		{name: "a service SID for the stream", path: "/v1/Services/default/Streams/IS0123456789abcdef0123456789abcdef/Messages", described: true, want: answer{404, 20404}},

		{name: "GET", method: "GET", want: answer{405, 20004}},
		{name: "PUT", method: "PUT", want: answer{405, 20004}},
		{name: "PATCH", method: "PATCH", want: answer{405, 20004}},
		{name: "DELETE", method: "DELETE", want: answer{405, 20004}},
		{name: "OPTIONS", method: "OPTIONS", want: answer{405, 20004}},

		{name: "no body", body: "none", want: answer{400, 20001}},
		{name: "no Data", body: "Message=%7B%7D", want: answer{400, 20001}},
		{name: "Data in small letters", body: "data=%7B%7D", want: answer{400, 20001}},
		{name: "Data in the query only", path: messagesPath + "?Data=%7B%7D", body: "none", want: answer{400, 20001}},
		{name: "a JSON body", contentType: "application/json", body: `{"Data":{}}`, want: answer{400, 20001}},
		{name: "a multipart body", contentType: "multipart/form-data; boundary=b", body: "--b\r\nContent-Disposition: form-data; name=\"Data\"\r\n\r\n{}\r\n--b--\r\n", want: answer{400, 20001}},
		{name: "no content type", contentType: "none", want: answer{400, 20001}},

		{name: "a form that is not percent-encoded properly", body: "Data=%7", want: answer{400, 54008}},
		{name: "bad JSON", body: "Data=%7B", described: true, want: answer{400, 54008}},
		{name: "two JSON values", body: "Data=%7B%7D%7B%7D", described: true, want: answer{400, 54008}},
		{name: "JSON that is not UTF-8", body: "Data=%7B%22a%22%3A%22%FF%22%7D", described: true, want: answer{400, 54008}},
		{name: "null", body: "Data=null", described: true, want: answer{400, 54251}},
		{name: "an array", body: "Data=%5B%7B%7D%5D", described: true, want: answer{400, 54251}},
		{name: "a string", body: "Data=%22%7B%7D%22", described: true, want: answer{400, 54251}},
		{name: "a number", body: "Data=1", described: true, want: answer{400, 54251}},
		{name: "4097 bytes", body: "Data=%7B%7D" + strings.Repeat("+", 4095), described: true, want: answer{413, 54006}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			fake, proxy := setup(t, contract, tally)
			or := func(value, byDefault string) string {
				if value == "" {
					return byDefault
				}
				return value
			}
			req, err := http.NewRequest(or(test.method, "POST"), proxy.URL+or(test.path, messagesPath), nil)
			require.NoError(t, err)
			if body := or(test.body, "Data=%7B%7D"); body != "none" {
				req, err = http.NewRequest(req.Method, req.URL.String(), strings.NewReader(body))
				require.NoError(t, err)
			}
			if contentType := or(test.contentType, formType); contentType != "none" {
				req.Header.Set("Content-Type", contentType)
			}
			switch test.authorization {
			case "":
				req.SetBasicAuth(fake.Credentials())
			case "none":
			default:
				req.Header.Set("Authorization", test.authorization)
			}
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			res, err := client.Do(req)
			require.NoError(t, err)
			require.NoError(t, res.Body.Close())

			x, got := proxy.last(t)
			assert.Equal(t, test.want, got)
			assertDescribed(t, test.described, x)
		})
	}
}

func assertDescribed(t *testing.T, want bool, x exchange) {
	t.Helper()
	if want {
		assert.NoError(t, x.requestErr)
	} else {
		assert.Error(t, x.requestErr, "the description allows this request")
	}
}

// TestCurl publishes with a client that knows nothing of the SDK.
func TestCurl(t *testing.T) {
	t.Parallel()
	contract := readContract(t)
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Skipf("curl is not installed: %v", err)
	}
	tally := newTally(t)
	for _, test := range []struct {
		name      string
		path      string   // by default that of the stream orders
		user      string   // by default the right one
		args      []string // what the person types
		stdin     string
		described bool
		want      answer
	}{
		{name: "publish", args: []string{"--data-urlencode", `Data={"hello":"world & <all>"}`}, described: true, want: answer{201, 0}},
		{name: "publish without encoding what needs none", args: []string{"-d", `Data={"n":1}`}, described: true, want: answer{201, 0}},
		{name: "publish a file of 4096 bytes", args: []string{"--data-urlencode", "Data@-"}, stdin: `{"a":"` + strings.Repeat("é", 2044) + `"}`, described: true, want: answer{201, 0}},
		{name: "publish to a name with a slash", path: "/v1/Services/default/Streams/orders%2F2024/Messages", args: []string{"--data-urlencode", "Data={}"}, described: true, want: answer{201, 0}},
		{name: "publish to a SID", path: "/v1/Services/IS0123456789abcdef0123456789abcdef/Streams/TO0123456789abcdef0123456789abcdef/Messages", args: []string{"--data-urlencode", "Data={}"}, described: true, want: answer{201, 0}},
		{name: "wrong credentials", user: "AC1:wrong", args: []string{"--data-urlencode", "Data={}"}, described: true, want: answer{401, 20003}},
		{name: "no password", user: "AC1:", args: []string{"--data-urlencode", "Data={}"}, want: answer{401, 20003}},
		{name: "no body", args: []string{"-X", "POST"}, want: answer{400, 20001}},
		{name: "missing Data", args: []string{"--data-urlencode", "Body={}"}, want: answer{400, 20001}},
		{name: "a JSON body", args: []string{"-H", "Content-Type: application/json", "-d", `{"Data":{"n":1}}`}, want: answer{400, 20001}},
		{name: "a multipart form", args: []string{"-F", "Data={}"}, want: answer{400, 20001}},
		{name: "bad JSON", args: []string{"--data-urlencode", `Data={id:"bob"}`}, described: true, want: answer{400, 54008}},
		{name: "JSON that is no object", args: []string{"--data-urlencode", "Data=[1]"}, described: true, want: answer{400, 54251}},
		{name: "too much", args: []string{"--data-urlencode", "Data@-"}, stdin: `{"a":"` + strings.Repeat("x", 100_000) + `"}`, described: true, want: answer{413, 54006}},
		{name: "an unknown path", path: "/v1/Services/default/Streams/orders/Message", args: []string{"--data-urlencode", "Data={}"}, want: answer{404, 20404}},
		{name: "a dot segment as it is", path: "/v1/Services/default/Streams/../Messages", args: []string{"--path-as-is", "--data-urlencode", "Data={}"}, described: true, want: answer{404, 20404}},
		{name: "GET", want: answer{405, 20004}},
		{name: "DELETE", args: []string{"-X", "DELETE"}, want: answer{405, 20004}},
		{name: "PUT", args: []string{"-X", "PUT", "--data-urlencode", "Data={}"}, want: answer{405, 20004}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			fake, proxy := setup(t, contract, tally)
			username, password := fake.Credentials()
			if test.user != "" {
				username, password, _ = strings.Cut(test.user, ":")
			}
			if test.path == "" {
				test.path = messagesPath
			}
			// -q: without the configuration of whoever runs the test.
			args := []string{"-q", "-sS", "--noproxy", "*", "--max-time", "60", "-u", username + ":" + password, "-w", "\n%{http_code} %{content_type}"}
			args = append(append(args, test.args...), proxy.URL+test.path)
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
			defer cancel()
			command := exec.CommandContext(ctx, curl, args...)
			command.Stdin = strings.NewReader(test.stdin)
			var complaints strings.Builder
			command.Stderr = &complaints
			output, err := command.Output()
			require.NoError(t, err, complaints.String())

			x, got := proxy.last(t)
			assert.Equal(t, test.want, got)
			assertDescribed(t, test.described, x)
			assert.Equal(t, string(x.answer)+"\n"+strconv.Itoa(x.status)+" application/json", string(output), "what curl printed")
			if got.status == http.StatusCreated {
				form, err := url.ParseQuery(x.body)
				require.NoError(t, err)
				published := fake.Messages(x.streamSID)
				require.Len(t, published, 1)
				assert.Equal(t, form.Get("Data"), string(published[0].Data))
			}
		})
	}
}
