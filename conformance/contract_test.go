package conformance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
	"github.com/stretchr/testify/require"
)

// operations are those of the SDK.
var operations = []string{operationID, "CreateSyncStream", "FetchSyncStream", "UpdateSyncStream", "DeleteSyncStream", "ListSyncStream"}

const (
	specFile    = "../../shared/spec/twilio_sync_v1.json"
	operationID = "CreateStreamMessage"
)

// contract is the six operations of the SDK as Twilio describes them, and
// for what the description leaves out, the error format that the Twilio
// libraries read.
type contract struct {
	router     routers.Router
	server     *url.URL
	errorShape *openapi3.Schema
}

// readContract reads the description, or skips the test. A file that is named
// explicitly has to be there.
func readContract(t *testing.T) *contract {
	t.Helper()
	file := os.Getenv("TWILIO_SYNC_SPEC")
	if file == "" {
		file = specFile
		if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
			place, _ := filepath.Abs(file)
			t.Skipf("Twilio's OpenAPI description is not there; looked for %s (%s), set TWILIO_SYNC_SPEC to its place", file, place)
		}
	}
	doc, err := openapi3.NewLoader().LoadFromFile(file)
	require.NoError(t, err)
	// Examples of other operations break their own schemas ("true" for a boolean). Those of ours are checked by the
	// SDK's own tests.
	require.NoError(t, doc.Validate(context.Background(), openapi3.DisableExamplesValidation()))
	server, err := url.Parse(doc.Servers[0].URL)
	require.NoError(t, err)

	body := operationOf(t, doc).RequestBody.Value
	// The field Data is required, but the body that holds it isn't marked so, and an absent body would pass.
	body.Required = true
	// The field has no type; kin-openapi would decode it to nil. It is described as "a JSON string", and any form field
	// is a string.
	form := body.Content.Get("application/x-www-form-urlencoded")
	require.NotNil(t, form)
	data := form.Schema.Value.Properties["Data"]
	require.NotNil(t, data)
	require.Nil(t, data.Value.Type, "the description gives Data a type now; take that one")
	data.Value.Type = &openapi3.Types{openapi3.TypeString}

	router, err := gorillamux.NewRouter(doc)
	require.NoError(t, err)
	c := &contract{router: router, server: server, errorShape: new(openapi3.Schema)}
	require.NoError(t, json.Unmarshal([]byte(errorShape), c.errorShape))
	return c
}

func operationOf(t *testing.T, doc *openapi3.T) *openapi3.Operation {
	t.Helper()
	for _, item := range doc.Paths.Map() {
		for _, operation := range item.Operations() {
			if operation.OperationID == operationID {
				return operation
			}
		}
	}
	require.Fail(t, "the description has no operation "+operationID)
	return nil
}

// errorShape is Twilio's classic error body. The description of Sync declares
// no errors at all.
const errorShape = `{
	"type": "object",
	"required": ["message", "status"],
	"additionalProperties": false,
	"properties": {
		"code": {"type": "integer", "minimum": 10000, "maximum": 99999},
		"message": {"type": "string", "minLength": 1},
		"more_info": {"type": "string", "pattern": "^https://www\\.twilio\\.com/docs/errors/[0-9]{5}$"},
		"status": {"type": "integer", "minimum": 400, "maximum": 599},
		"detail": {"type": "string"},
		"details": {"type": "object"}
	}
}`

// exchange is one request as it came over the wire, the answer to it, and what
// the contract says about both.
type exchange struct {
	operation             string
	method, requestURI    string
	header                http.Header
	body                  string
	serviceSID, streamSID string // decoded
	input                 *openapi3filter.RequestValidationInput
	requestErr            error // nil: the request is what Twilio describes

	status       int // 0: there was no answer
	answerHeader http.Header
	answer       []byte
	answerErr    error
}

// checkRequest fills in what the contract says about a request.
func (c *contract) checkRequest(x *exchange) {
	x.requestErr = func() error {
		// The proxy stands where Twilio's server is, and the target is parsed as any server would.
		req, err := http.NewRequest(x.method, c.server.String()+x.requestURI, strings.NewReader(x.body))
		if err != nil {
			return err
		}
		req.Header = x.header
		if written, _, _ := strings.Cut(x.requestURI, "?"); req.URL.EscapedPath() != written {
			return fmt.Errorf("the path %q is not percent-encoded properly", written)
		}
		route, raw, err := c.router.FindRoute(req)
		if err != nil {
			return err
		}
		if x.operation = route.Operation.OperationID; !slices.Contains(operations, x.operation) {
			return fmt.Errorf("this is the operation %s", x.operation)
		}
		parameters, err := pathParameters(route.Path, x.requestURI)
		if err != nil {
			return err
		}
		x.serviceSID, x.streamSID = parameters["ServiceSid"], parameters["StreamSid"]
		for name, value := range raw {
			if decoded, err := url.PathUnescape(value); err != nil || decoded != parameters[name] {
				return fmt.Errorf("the router reads %s as %q", name, value)
			}
		}
		x.input = &openapi3filter.RequestValidationInput{
			Request: req, PathParams: parameters, Route: route,
			Options: &openapi3filter.Options{AuthenticationFunc: authenticated, MultiError: true},
		}
		return openapi3filter.ValidateRequest(context.Background(), x.input)
	}()
}

// pathParameters reads the parameters from the target as it was written,
// apart from kin-openapi, whose router leaves them encoded.
func pathParameters(template, requestURI string) (map[string]string, error) {
	path, _, _ := strings.Cut(requestURI, "?")
	names, values := strings.Split(template, "/"), strings.Split(path, "/")
	if len(names) != len(values) {
		return nil, fmt.Errorf("the path has %d segments, not %d", len(values)-1, len(names)-1)
	}
	parameters := map[string]string{}
	for i, name := range names {
		value, err := url.PathUnescape(values[i])
		switch {
		case err != nil:
			return nil, err
		case strings.HasPrefix(name, "{"):
			parameters[strings.Trim(name, "{}")] = value
		case name != values[i]:
			return nil, fmt.Errorf("segment %d of the path is %q, not %q", i, values[i], name)
		}
	}
	return parameters, nil
}

func authenticated(_ context.Context, input *openapi3filter.AuthenticationInput) error {
	scheme := input.SecurityScheme
	if scheme.Type != "http" || scheme.Scheme != "basic" {
		return fmt.Errorf("the description asks for %s %s authentication now", scheme.Type, scheme.Scheme)
	}
	username, password, ok := input.RequestValidationInput.Request.BasicAuth()
	if !ok || username == "" || password == "" {
		return errors.New("no credentials of HTTP Basic authentication")
	}
	return nil
}

var (
	requestIDPattern = regexp.MustCompile(`^RQ[0-9a-f]{32}$`)
	countPattern     = regexp.MustCompile(`^[1-9][0-9]*$`)
	secondsPattern   = regexp.MustCompile(`^[0-9]+\.[0-9]{3}$`)
)

// checkAnswer fills in what the contract says about the answer.
func (c *contract) checkAnswer(x *exchange) {
	x.answerErr = func() error {
		for name, pattern := range map[string]*regexp.Regexp{
			"Twilio-Request-Id":          requestIDPattern,
			"Twilio-Concurrent-Requests": countPattern,
			"Twilio-Request-Duration":    secondsPattern,
		} {
			if values := x.answerHeader[name]; len(values) != 1 || !pattern.MatchString(values[0]) {
				return fmt.Errorf("header %s is %q", name, values)
			}
		}
		if x.status != http.StatusNoContent && x.answerHeader.Get("Content-Type") != "application/json" {
			return fmt.Errorf("header Content-Type is %q", x.answerHeader["Content-Type"])
		}
		switch {
		case isSuccess(x.status):
			return checkSuccess(x)
		case x.status >= 400:
			return c.checkError(x)
		}
		return fmt.Errorf("status %d is neither the success that is described nor an error", x.status)
	}()
}

func isSuccess(status int) bool {
	return status == http.StatusOK || status == http.StatusCreated || status == http.StatusNoContent
}

func checkSuccess(x *exchange) error {
	if x.requestErr != nil {
		return fmt.Errorf("status %d for a request that is not as described: %w", x.status, x.requestErr)
	}
	input := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: x.input,
		Status:                 x.status,
		Header:                 x.answerHeader,
		Options:                &openapi3filter.Options{IncludeResponseStatus: true, MultiError: true},
	}
	input.SetBodyBytes(x.answer)
	if err := openapi3filter.ValidateResponse(context.Background(), input); err != nil || x.status == http.StatusNoContent {
		return err
	}
	return onlyDeclaredProperties(x)
}

// onlyDeclaredProperties is stricter than the schema, in which every property
// may be absent or null, and others may be added.
func onlyDeclaredProperties(x *exchange) error {
	response := x.input.Route.Operation.Responses.Status(x.status).Value
	declared := response.Content.Get("application/json").Schema.Value.Properties
	var properties map[string]json.RawMessage
	if err := json.Unmarshal(x.answer, &properties); err != nil {
		return err
	}
	for name, value := range properties {
		if declared[name] == nil || string(value) == "null" && x.operation == operationID {
			return fmt.Errorf("the answer has %s as %.40q", name, value)
		}
	}
	if len(properties) != len(declared) {
		return fmt.Errorf("the answer has %d properties of %d", len(properties), len(declared))
	}
	return nil
}

func (c *contract) checkError(x *exchange) error {
	var body map[string]any
	if err := json.Unmarshal(x.answer, &body); err != nil {
		return fmt.Errorf("the error body: %w", err)
	}
	if err := c.errorShape.VisitJSON(body, openapi3.MultiErrors()); err != nil {
		return fmt.Errorf("the error body: %w", err)
	}
	code, hasCode := body["code"].(float64)
	moreInfo, hasMoreInfo := body["more_info"].(string)
	switch {
	case body["status"] != float64(x.status):
		return fmt.Errorf("status %v in the error body of status %d", body["status"], x.status)
	case hasCode != hasMoreInfo || hasCode && !strings.HasSuffix(moreInfo, "/"+strconv.Itoa(int(code))):
		return fmt.Errorf("code %v and more_info %q do not belong together", body["code"], moreInfo)
	case x.status == http.StatusUnauthorized && !strings.HasPrefix(x.answerHeader.Get("WWW-Authenticate"), "Basic "):
		return errors.New("status 401 without the challenge that RFC 9110 demands")
	case x.status == http.StatusMethodNotAllowed && x.answerHeader.Get("Allow") != http.MethodPost:
		return errors.New("status 405 without the allowed methods that RFC 9110 demands")
	}
	return nil
}
