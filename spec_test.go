package twiliosync_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twiliosync/twiliosync-go"
)

// The place of Twilio's OpenAPI description, which is not part of this
// repository, and of a table of the facts in it that the tests need: paths,
// parameters, properties, types. Where the description is absent, the table
// stands for it; where it is there, the two are compared.
// Source: https://github.com/twilio/twilio-oai/blob/main/spec/json/twilio_sync_v1.json
const (
	specFile  = "../shared/spec/twilio_sync_v1.json"
	specFacts = "testdata/operations.json"
)

// specOperation is the operation that messages are published by, whose request
// and answer these tests compare. Those of the others are compared in stream_test.go
// and, with the whole description, in conformance.
const specOperation = "CreateStreamMessage"

// specImplemented are the operations that this module implements.
var specImplemented = []string{specOperation, "CreateSyncStream", "FetchSyncStream", "UpdateSyncStream", "DeleteSyncStream", "ListSyncStream"}

// specOutOfScope is every other operation of the description, sorted: this
// module publishes messages to streams and does nothing else.
var specOutOfScope = []string{
	"CreateDocument",
	"CreateService",
	"CreateSyncList",
	"CreateSyncListItem",
	"CreateSyncMap",
	"CreateSyncMapItem",
	"DeleteDocument",
	"DeleteDocumentPermission",
	"DeleteService",
	"DeleteSyncList",
	"DeleteSyncListItem",
	"DeleteSyncListPermission",
	"DeleteSyncMap",
	"DeleteSyncMapItem",
	"DeleteSyncMapPermission",
	"FetchDocument",
	"FetchDocumentPermission",
	"FetchService",
	"FetchSyncList",
	"FetchSyncListItem",
	"FetchSyncListPermission",
	"FetchSyncMap",
	"FetchSyncMapItem",
	"FetchSyncMapPermission",
	"ListDocument",
	"ListDocumentPermission",
	"ListService",
	"ListSyncList",
	"ListSyncListItem",
	"ListSyncListPermission",
	"ListSyncMap",
	"ListSyncMapItem",
	"ListSyncMapPermission",
	"UpdateDocument",
	"UpdateDocumentPermission",
	"UpdateService",
	"UpdateSyncList",
	"UpdateSyncListItem",
	"UpdateSyncListPermission",
	"UpdateSyncMap",
	"UpdateSyncMapItem",
	"UpdateSyncMapPermission",
}

// The parts of an OpenAPI 3 document that the tests look at.
type (
	specDocument struct {
		Paths      map[string]map[string]json.RawMessage
		Components struct {
			Schemas         map[string]specSchema
			SecuritySchemes map[string]struct{ Type, Scheme string }
		}
	}
	specMethod struct {
		OperationID string
		Parameters  []struct {
			Name, In string
			Required bool
		}
		RequestBody struct{ Content map[string]specContent }
		Responses   map[string]specResponse
		Security    []map[string][]string
	}
	specResponse struct{ Content map[string]specContent }
	specContent  struct {
		Schema   specSchema
		Examples map[string]struct{ Value json.RawMessage }
	}
	specSchema struct {
		Ref        string `json:"$ref"`
		Properties map[string]struct{ Nullable bool }
		Required   []string
	}
)

// readSpec returns the description, or the table.
func readSpec(t *testing.T) specDocument {
	t.Helper()
	if spec, ok := readSpecFile(t, specFile); ok {
		return spec
	}
	facts, ok := readSpecFile(t, specFacts)
	require.True(t, ok)
	return facts
}

func readSpecFile(t *testing.T, file string) (spec specDocument, ok bool) {
	t.Helper()
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return spec, false
	}
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &spec))
	return spec, true
}

func TestSpecTableOfFactsIsThatOfTheDescription(t *testing.T) {
	t.Parallel()
	spec, ok := readSpecFile(t, specFile)
	if !ok {
		place, _ := filepath.Abs(specFile)
		t.Skipf("Twilio's OpenAPI description is not there; looked for %s (%s)", specFile, place)
	}
	facts, _ := readSpecFile(t, specFacts)
	require.Len(t, facts.Paths, 3)
	for path := range facts.Paths {
		want := spec.methods(t, path)
		for name, method := range facts.methods(t, path) {
			assert.Equal(t, want[name].withoutExamples(), method.withoutExamples(), "%s %s", name, path)
		}
		assert.JSONEq(t, string(spec.Paths[path]["servers"]), string(facts.Paths[path]["servers"]))
	}
	for name, schema := range facts.Components.Schemas {
		assert.Equal(t, spec.Components.Schemas[name], schema, name)
	}
	assert.Equal(t, spec.Components.SecuritySchemes, facts.Components.SecuritySchemes)
}

func (operation specMethod) withoutExamples() specMethod {
	operation.RequestBody.Content = withoutExamples(operation.RequestBody.Content)
	responses := operation.Responses
	operation.Responses = map[string]specResponse{}
	for status, response := range responses {
		operation.Responses[status] = specResponse{Content: withoutExamples(response.Content)}
	}
	return operation
}

func withoutExamples(contents map[string]specContent) map[string]specContent {
	plain := map[string]specContent{}
	for kind, content := range contents {
		plain[kind] = specContent{Schema: content.Schema}
	}
	return plain
}

// methods returns the operations of a path by HTTP method.
func (spec specDocument) methods(t *testing.T, path string) map[string]specMethod {
	t.Helper()
	methods := map[string]specMethod{}
	for name, text := range spec.Paths[path] {
		switch name {
		case "get", "put", "post", "delete", "options", "head", "patch", "trace":
			var method specMethod
			require.NoError(t, json.Unmarshal(text, &method), "%s %s", name, path)
			methods[strings.ToUpper(name)] = method
		}
	}
	return methods
}

// operation returns the one that this module implements, with its path, its
// HTTP method and the servers of the path.
func (spec specDocument) operation(t *testing.T) (path, method string, operation specMethod, servers []string) {
	t.Helper()
	for candidate := range spec.Paths {
		for name, details := range spec.methods(t, candidate) {
			if details.OperationID != specOperation {
				continue
			}
			require.Empty(t, path, "%s is there twice", specOperation)
			path, method, operation = candidate, name, details
		}
	}
	require.NotEmpty(t, path, "the description has no operation %s", specOperation)
	var list []struct{ URL string }
	require.NoError(t, json.Unmarshal(spec.Paths[path]["servers"], &list))
	for _, server := range list {
		servers = append(servers, server.URL)
	}
	return path, method, operation, servers
}

// success returns the only answer that the operation declares.
func (operation specMethod) success(t *testing.T) (status int, content specContent) {
	t.Helper()
	require.Equal(t, []string{"201"}, slices.Collect(maps.Keys(operation.Responses)))
	response := operation.Responses["201"]
	require.Equal(t, []string{"application/json"}, slices.Collect(maps.Keys(response.Content)))
	return http.StatusCreated, response.Content["application/json"]
}

func TestSpecEveryOperationIsCoveredOrOutOfScope(t *testing.T) {
	t.Parallel()
	spec, ok := readSpecFile(t, specFile)
	if !ok {
		t.Skip("Twilio's OpenAPI description, with all its operations, is not there")
	}
	var operations []string
	for path := range spec.Paths {
		for _, method := range spec.methods(t, path) {
			operations = append(operations, method.OperationID)
		}
	}
	slices.Sort(operations)

	require.True(t, slices.IsSorted(specOutOfScope), "specOutOfScope is not sorted")
	known := slices.Concat(specImplemented, specOutOfScope)
	slices.Sort(known)
	assert.Equal(t, operations, known, "expected: the description; actual: specImplemented and specOutOfScope")
}

func TestSpecRequestOnTheWire(t *testing.T) {
	t.Parallel()
	path, method, operation, servers := readSpec(t).operation(t)
	arguments := map[string]string{"ServiceSid": "the-service", "StreamSid": "the-stream"}
	client, server := setup(t)
	_, _, err := client.StreamMessages.Create(context.Background(), arguments["ServiceSid"], arguments["StreamSid"], map[string]any{"a": 1})
	require.NoError(t, err)
	require.Len(t, server.all(), 1)
	sent := server.all()[0]

	t.Run("method and path, with each path parameter where it belongs", func(t *testing.T) {
		for _, parameter := range operation.Parameters {
			require.Equal(t, "path", parameter.In, parameter.Name)
			require.Contains(t, arguments, parameter.Name)
			path = strings.Replace(path, "{"+parameter.Name+"}", arguments[parameter.Name], 1)
		}
		require.NotContains(t, path, "{", "not every parameter of the path is declared")
		assert.Equal(t, method+" /prefix"+path, sent.method+" "+sent.requestURI)
	})

	t.Run("server", func(t *testing.T) {
		var host string
		transport := roundTripFunc(func(req *http.Request) (*http.Response, error) {
			host = req.URL.Scheme + "://" + req.URL.Host
			return nil, errors.New("the network is not used")
		})
		client, err := twiliosync.NewClient(twiliosync.BasicAuth(testUser, testSecret), twiliosync.WithHTTPClient(&http.Client{Transport: transport}))
		require.NoError(t, err)
		_, _, err = publish(client)
		require.Error(t, err)
		assert.Equal(t, servers, []string{host})
	})

	t.Run("content type and form fields", func(t *testing.T) {
		require.Equal(t, slices.Collect(maps.Keys(operation.RequestBody.Content)), sent.header["Content-Type"])
		form, err := url.ParseQuery(sent.body)
		require.NoError(t, err)
		schema := operation.RequestBody.Content[sent.header.Get("Content-Type")].Schema
		assert.ElementsMatch(t, slices.Collect(maps.Keys(schema.Properties)), slices.Collect(maps.Keys(form)))
		for name, values := range form {
			assert.Len(t, values, 1, name)
		}
	})

	t.Run("Accept is the content type of the answer", func(t *testing.T) {
		status, _ := operation.success(t)
		assert.Equal(t, slices.Collect(maps.Keys(operation.Responses[strconv.Itoa(status)].Content)), sent.header["Accept"])
	})
}

func TestSpecSecurityScheme(t *testing.T) {
	t.Parallel()
	spec := readSpec(t)
	_, _, operation, _ := spec.operation(t)
	client, server := setup(t)
	_, _, err := publish(client)
	require.NoError(t, err)

	require.Equal(t, []map[string][]string{{"accountSid_authToken": {}}}, operation.Security)
	scheme := spec.Components.SecuritySchemes["accountSid_authToken"]
	require.Equal(t, "http", scheme.Type)
	kind, _, _ := strings.Cut(server.all()[0].header.Get("Authorization"), " ")
	assert.Equal(t, scheme.Scheme, strings.ToLower(kind))
	username, password, ok := (&http.Request{Header: server.all()[0].header}).BasicAuth()
	assert.True(t, ok)
	assert.Equal(t, testUser, username)
	assert.Equal(t, testSecret, password)
}

func TestSpecRequiredParametersAreRefusedWhenEmpty(t *testing.T) {
	t.Parallel()
	_, _, operation, _ := readSpec(t).operation(t)
	var required []string
	for _, parameter := range operation.Parameters {
		if parameter.Required {
			required = append(required, parameter.Name)
		}
	}
	for _, content := range operation.RequestBody.Content {
		required = append(required, content.Schema.Required...)
	}
	client, server := setup(t)

	var refused []string
	for _, leaveOut := range required {
		arguments := map[string]any{"ServiceSid": "default", "StreamSid": "orders", "Data": map[string]any{"a": 1}}
		require.Contains(t, arguments, leaveOut)
		arguments[leaveOut] = reflect.Zero(reflect.TypeOf(arguments[leaveOut])).Interface()
		_, _, err := client.StreamMessages.Create(context.Background(), arguments["ServiceSid"].(string), arguments["StreamSid"].(string), arguments["Data"])
		var parameter *twiliosync.ParameterError
		require.ErrorAs(t, err, &parameter, leaveOut)
		assert.True(t, strings.EqualFold(leaveOut, parameter.Parameter), "%s was left out, but refused was %s", leaveOut, parameter.Parameter)
		refused = append(refused, leaveOut)
	}
	assert.ElementsMatch(t, []string{"ServiceSid", "StreamSid", "Data"}, refused)
	assert.Empty(t, server.all())
}

// TestSpecStreamHasEveryPropertyAndNoOther compares the model of a stream.
func TestSpecStreamHasEveryPropertyAndNoOther(t *testing.T) {
	t.Parallel()
	schema := readSpec(t).Components.Schemas["sync.v1.service.sync_stream"]
	model := reflect.TypeFor[twiliosync.SyncV1ServiceSyncStream]()
	var names []string
	for _, field := range reflect.VisibleFields(model) {
		names = append(names, field.Tag.Get("json"))
	}
	require.NotEmpty(t, schema.Properties)
	assert.ElementsMatch(t, slices.Collect(maps.Keys(schema.Properties)), names)
	for name, property := range schema.Properties {
		assert.True(t, property.Nullable, name)
		stream := twiliosync.SyncV1ServiceSyncStream{}
		require.NoError(t, json.Unmarshal([]byte(`{"`+name+`":null}`), &stream))
		assert.Zero(t, stream)
	}
}

// specModel is the schema of the answer and the Go type for it, by JSON name.
func specModel(t *testing.T, spec specDocument) (schema specSchema, fields map[string]reflect.StructField) {
	t.Helper()
	_, _, operation, _ := spec.operation(t)
	_, content := operation.success(t)
	name, isComponent := strings.CutPrefix(content.Schema.Ref, "#/components/schemas/")
	require.True(t, isComponent, content.Schema.Ref)
	schema = spec.Components.Schemas[name]

	model := reflect.TypeFor[twiliosync.SyncV1ServiceSyncStreamStreamMessage]()
	words := strings.FieldsFunc(name, func(r rune) bool { return r == '.' || r == '_' })
	for i, word := range words {
		words[i] = strings.ToUpper(word[:1]) + word[1:]
	}
	require.Equal(t, strings.Join(words, ""), model.Name())

	fields = map[string]reflect.StructField{}
	for field := range model.NumField() {
		tag, _, _ := strings.Cut(model.Field(field).Tag.Get("json"), ",")
		fields[tag] = model.Field(field)
	}
	return schema, fields
}

func TestSpecModelHasEveryPropertyAndNoOther(t *testing.T) {
	t.Parallel()
	schema, fields := specModel(t, readSpec(t))
	assert.ElementsMatch(t, slices.Collect(maps.Keys(schema.Properties)), slices.Collect(maps.Keys(fields)))
}

func TestSpecNullablePropertiesDecodeFromNull(t *testing.T) {
	t.Parallel()
	schema, fields := specModel(t, readSpec(t))
	nullable := 0
	for name, property := range schema.Properties {
		if !property.Nullable {
			continue
		}
		nullable++
		message := twiliosync.SyncV1ServiceSyncStreamStreamMessage{SID: "before", Data: json.RawMessage(`"before"`)}
		require.NoError(t, json.Unmarshal([]byte(`{"`+name+`":null}`), &message), name)
		assert.True(t, reflect.ValueOf(message).FieldByIndex(fields[name].Index).IsZero(), "null leaves %s in place", name)
	}
	assert.Positive(t, nullable)

	client, server := setup(t)
	server.answer = answer(http.StatusCreated, `{"sid":"`+testSID+`","data":null}`)
	message, _, err := publish(client)
	require.NoError(t, err)
	assert.Nil(t, message.Data)
}

func TestSpecExamples(t *testing.T) {
	t.Parallel()
	_, _, operation, _ := readSpec(t).operation(t)
	status, content := operation.success(t)
	require.NotEmpty(t, content.Examples)
	for name, example := range content.Examples {
		t.Run("answer "+name, func(t *testing.T) {
			type model twiliosync.SyncV1ServiceSyncStreamStreamMessage // without UnmarshalJSON, which ignores unknown fields
			var strict model
			decoder := json.NewDecoder(bytes.NewReader(example.Value))
			decoder.DisallowUnknownFields()
			require.NoError(t, decoder.Decode(&strict))

			client, server := setup(t)
			server.answer = answer(status, string(example.Value))
			message, response, err := publish(client)
			require.NoError(t, err)
			assert.Equal(t, status, response.StatusCode)
			assert.Equal(t, twiliosync.SyncV1ServiceSyncStreamStreamMessage(strict), *message)
			again, err := json.Marshal(message)
			require.NoError(t, err)
			assert.JSONEq(t, string(example.Value), string(again))
		})
	}

	for contentType, content := range operation.RequestBody.Content {
		require.NotEmpty(t, content.Examples, contentType)
		for name, example := range content.Examples {
			t.Run("request "+name, func(t *testing.T) {
				var fields map[string]string
				require.NoError(t, json.Unmarshal(example.Value, &fields))
				client, server := setup(t)
				_, _, err := client.StreamMessages.Create(context.Background(), "default", "orders", json.RawMessage(fields["Data"]))
				require.NoError(t, err)
				form := url.Values{}
				for field, value := range fields {
					form.Set(field, value)
				}
				assert.Equal(t, form.Encode(), server.all()[0].body)
			})
		}
	}
}
