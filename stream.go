package twiliosync

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"iter"
	"net/url"
	"slices"
	"strconv"
	"time"
)

// StreamService manages the Message Streams that messages are published to. It
// is the Streams field of a [Client], and safe for concurrent use.
//
// In every method serviceSID is the SID ("IS…") or unique name of the Sync
// service, such as "default"; sid the SID ("TO…") or unique name of the stream;
// opts change settings for this call alone.
//
// Twilio limits the creation of Sync objects to 20 a second for each service; a
// 429 is obeyed as for messages, but pauses nothing else.
//
// Source: https://www.twilio.com/docs/sync/api/stream-resource
type StreamService struct {
	sender *sender
}

// CreateSyncStreamParams describes a new stream. Nil: one without a name that never expires.
type CreateSyncStreamParams struct {
	// UniqueName has at most 320 characters; empty: the stream has its SID only.
	UniqueName string `url:"UniqueName,omitempty"`
	// TTL is when the stream expires, in whole seconds, at most 365 days. Nil and 0: never.
	TTL *time.Duration `url:"-"`
}

// UpdateSyncStreamParams changes a stream.
type UpdateSyncStreamParams struct {
	// TTL is when the stream expires, counted from now, in whole seconds, at most 365 days. 0: never.
	TTL *time.Duration `url:"-"`
}

// ListSyncStreamParams says which page of a list is wanted. Nil: the first.
type ListSyncStreamParams struct {
	// PageSize is how many streams a page has, 1 to 100. 0: Twilio's default of 50.
	PageSize int `url:"PageSize,omitempty"`
	// Page and PageToken come from Next of the page before.
	Page      int    `url:"Page,omitempty"`
	PageToken string `url:"PageToken,omitempty"`
}

// ListSyncStreamResponse is one page of a list.
type ListSyncStreamResponse struct {
	// Streams are those of the page.
	Streams []*SyncV1ServiceSyncStream
	// Next asks for the page after it; nil: this is the last.
	Next *ListSyncStreamParams
}

// Create makes a stream. params are its name and time to live.
//
// With a unique name the creation is repeated after an unknown outcome: a
// second stream of that name can't be. If the name then exists, the stream is
// fetched and returned; who made it can't be told. A name that exists at once is
// [ErrAlreadyExists]. Without a name an unknown outcome stays unknown, as for a
// message.
//
// Operation: POST /v1/Services/{ServiceSid}/Streams
//
// Source: https://www.twilio.com/docs/sync/api/stream-resource#create-a-stream-resource
func (s *StreamService) Create(ctx context.Context, serviceSID string, params *CreateSyncStreamParams, opts ...CallOption) (*SyncV1ServiceSyncStream, *Response, error) {
	params = cmp.Or(params, &CreateSyncStreamParams{})
	op := newStreamOperation("CreateSyncStream", "POST", serviceSID, params.UniqueName)
	op.to("Services", serviceSID, "Streams")
	op.subject, op.proof = "the creation of the stream", 201
	op.refusal = cmp.Or(identifierRefusal("serviceSID", serviceSID), op.setForm(ttlForm{params.UniqueName, seconds(params.TTL)}), ttlRefusal(params.TTL))
	if params.UniqueName != "" {
		op.mayRepeat, op.doneBy = true, 409
		op.refusal = cmp.Or(op.refusal, identifierRefusal("params", params.UniqueName))
	}
	stream, response, err := s.send(ctx, op, opts)
	if err != nil || stream.SID != "" {
		return stream, response, err
	}
	stream, response, err = s.Fetch(ctx, serviceSID, params.UniqueName, opts...) // it exists
	if failure := asError(err); failure != nil {
		unread := *failure // a tracer may have the other
		unread.Outcome, unread.subject = OutcomeAccepted, op.subject
		err = &unread
	}
	return stream, response, err
}

// Fetch gets a stream. It is repeated after an unknown outcome, as are Update,
// Delete and List.
//
// Operation: GET /v1/Services/{ServiceSid}/Streams/{Sid}
//
// Source: https://www.twilio.com/docs/sync/api/stream-resource#fetch-a-stream-resource
func (s *StreamService) Fetch(ctx context.Context, serviceSID, sid string, opts ...CallOption) (*SyncV1ServiceSyncStream, *Response, error) {
	return s.send(ctx, operationOnStream("FetchSyncStream", "GET", serviceSID, sid, readsOnly), opts)
}

// Update sets the time to live of a stream, counted from now. params must have
// it.
//
// Operation: POST /v1/Services/{ServiceSid}/Streams/{Sid}
//
// Source: https://www.twilio.com/docs/sync/api/stream-resource#update-a-stream-resource
func (s *StreamService) Update(ctx context.Context, serviceSID, sid string, params *UpdateSyncStreamParams, opts ...CallOption) (*SyncV1ServiceSyncStream, *Response, error) {
	op := operationOnStream("UpdateSyncStream", "POST", serviceSID, sid, "the update of the stream")
	if params = cmp.Or(params, &UpdateSyncStreamParams{}); params.TTL == nil {
		op.refusal = cmp.Or(op.refusal, &ParameterError{Parameter: "params", Reason: "there is no TTL to set; pass one, 0 for a stream that never expires"})
	}
	op.refusal = cmp.Or(op.refusal, op.setForm(ttlForm{"", seconds(params.TTL)}), ttlRefusal(params.TTL))
	return s.send(ctx, op, opts)
}

// Delete removes a stream. If an attempt with an unknown outcome is followed by
// a 404, the stream is gone and the call has succeeded; the [Response] is that
// 404.
//
// Operation: DELETE /v1/Services/{ServiceSid}/Streams/{Sid}
//
// Source: https://www.twilio.com/docs/sync/api/stream-resource#delete-a-stream-resource
func (s *StreamService) Delete(ctx context.Context, serviceSID, sid string, opts ...CallOption) (*Response, error) {
	op := operationOnStream("DeleteSyncStream", "DELETE", serviceSID, sid, "the deletion of the stream")
	op.proof, op.doneBy, op.answer = 204, 404, noContent{}
	_, response, err := s.send(ctx, op, opts)
	return response, err
}

// List gets one page of a service's streams. params say which.
//
// Operation: GET /v1/Services/{ServiceSid}/Streams
//
// Source: https://www.twilio.com/docs/sync/api/stream-resource#read-multiple-stream-resources
func (s *StreamService) List(ctx context.Context, serviceSID string, params *ListSyncStreamParams, opts ...CallOption) (*ListSyncStreamResponse, *Response, error) {
	page := &streamPage{params: *cmp.Or(params, &ListSyncStreamParams{})}
	op := newStreamOperation("ListSyncStream", "GET", serviceSID, "")
	op.to("Services", serviceSID, "Streams")
	op.mayRepeat, op.answer, op.maxAnswer = true, page, 1<<20 // 100 streams of the longest names
	op.refusal = identifierRefusal("serviceSID", serviceSID)
	if p := page.params; op.refusal == nil && (p.PageSize < 0 || p.PageSize > 100 || p.Page < 0) {
		op.refusal = &ParameterError{Parameter: "params", Reason: "a PageSize is 1 to 100, 0 for the default of 50, and a Page is not negative"}
	}
	query, _ := encodeForm(page.params)
	op.query = string(query)
	_, response, err := s.send(ctx, op, opts)
	if err != nil {
		return nil, response, err
	}
	return &page.response, response, nil
}

// All yields every stream of a service, and gets each page when it is needed.
// The first error ends it.
func (s *StreamService) All(ctx context.Context, serviceSID string, params *ListSyncStreamParams, opts ...CallOption) iter.Seq2[*SyncV1ServiceSyncStream, error] {
	return func(yield func(*SyncV1ServiceSyncStream, error) bool) {
		seen := map[ListSyncStreamParams]bool{}
		for next := cmp.Or(params, &ListSyncStreamParams{}); next != nil; {
			place := *next
			if place.PageToken != "" {
				place.Page = 0 // the token says it all
			}
			if seen[place] {
				yield(nil, notSent(errors.New("the list of streams leads back to a page that it has had")))
				return
			}
			seen[place] = true
			page, _, err := s.List(ctx, serviceSID, next, opts...)
			if err != nil {
				yield(nil, err)
				return
			}
			for _, stream := range page.Streams {
				if !yield(stream, nil) {
					return
				}
			}
			next = page.Next
		}
	}
}

// Ensure returns the stream of a unique name, and makes it if it is missing,
// however many others do the same. With a TTL, that of an existing stream is
// set anew. It is Fetch, then Create or Update, and is traced as these; the
// [Response] is the last one's.
func (s *StreamService) Ensure(ctx context.Context, serviceSID, uniqueName string, params *UpdateSyncStreamParams, opts ...CallOption) (*SyncV1ServiceSyncStream, *Response, error) {
	params = cmp.Or(params, &UpdateSyncStreamParams{})
	op := operationOnStream("FetchSyncStream", "GET", serviceSID, uniqueName, readsOnly)
	op.refusal = cmp.Or(op.refusal, ttlRefusal(params.TTL))
	stream, response, err := s.send(ctx, op, opts)
	for range 3 { // others may delete it at the same time
		if err == nil && params.TTL != nil {
			stream, response, err = s.Update(ctx, serviceSID, uniqueName, params, opts...)
		}
		if OutcomeOf(err) != OutcomeRejected || !errors.Is(err, ErrNotFound) {
			break
		}
		stream, response, err = s.Create(ctx, serviceSID, &CreateSyncStreamParams{UniqueName: uniqueName, TTL: params.TTL}, opts...)
		exists := OutcomeOf(err) == OutcomeRejected && errors.Is(err, ErrAlreadyExists) || err != nil && OutcomeOf(err) == OutcomeAccepted
		if err == nil && params.TTL != nil && response.StatusCode == 200 {
			continue // somebody else may have made it
		}
		if !exists {
			break
		}
		stream, response, err = s.Fetch(ctx, serviceSID, uniqueName, opts...)
	}
	return stream, response, err
}

func (s *StreamService) send(ctx context.Context, op *streamOperation, opts []CallOption) (*SyncV1ServiceSyncStream, *Response, error) {
	response, failure := cmp.Or(s, &StreamService{}).sender.send(ctx, &op.operation, opts)
	if failure != nil {
		return nil, response, failure
	}
	return &op.stream, response, nil
}

// streamOperation is an operation with the stream that it answers.
type streamOperation struct {
	operation
	stream SyncV1ServiceSyncStream
}

func newStreamOperation(id, method, serviceSID, sid string) *streamOperation {
	op := &streamOperation{operation: operation{id: id, method: method, serviceSID: serviceSID, streamSID: sid, subject: readsOnly}}
	op.answer = op
	return op
}

// operationOnStream makes one of a stream that exists, which may be repeated.
func operationOnStream(id, method, serviceSID, sid, subject string) *streamOperation {
	op := newStreamOperation(id, method, serviceSID, sid)
	op.to("Services", serviceSID, "Streams", sid)
	op.mayRepeat, op.subject, op.refusal = true, subject, checkIdentifiers(serviceSID, sid)
	if op.refusal != nil && op.refusal.Parameter == "streamSID" {
		op.refusal.Parameter = "sid"
	}
	return op
}

// ttlForm is the form of a creation or an update. A nil TTL is left out, a zero is not.
type ttlForm struct {
	UniqueName string `url:"UniqueName,omitempty"`
	TTL        *int64 `url:"Ttl,omitempty"`
}

func seconds(ttl *time.Duration) *int64 {
	if ttl == nil {
		return nil
	}
	s := int64(*ttl / time.Second)
	return &s
}

func ttlRefusal(ttl *time.Duration) *ParameterError {
	if ttl == nil || *ttl >= 0 && *ttl <= 365*24*time.Hour && *ttl%time.Second == 0 {
		return nil
	}
	return &ParameterError{Parameter: "params", Reason: "a TTL is in whole seconds, from 0 (never expires) to 365 days"}
}

func (op *streamOperation) decode(body []byte) error {
	op.stream = SyncV1ServiceSyncStream{}
	if err := json.Unmarshal(body, &op.stream); err != nil || op.stream.SID == "" {
		return undecodable(body, "a stream")
	}
	return nil
}

// noContent is the answer of a deletion.
type noContent struct{}

func (noContent) decode(body []byte) error {
	if len(body) > 0 {
		return errors.New("the answer is not empty, as that of a deletion is")
	}
	return nil
}

// streamPage is the answer of a list.
type streamPage struct {
	params   ListSyncStreamParams
	response ListSyncStreamResponse
}

// decode reads of next_page_url nothing but Page and PageToken: credentials
// never go where an answer points to.
func (p *streamPage) decode(body []byte) error {
	var answer struct {
		Streams *[]*SyncV1ServiceSyncStream `json:"streams"`
		Meta    struct {
			Next string `json:"next_page_url"`
		} `json:"meta"`
	}
	if err := json.Unmarshal(body, &answer); err != nil || answer.Streams == nil {
		return undecodable(body, "a list of streams")
	}
	if slices.ContainsFunc(*answer.Streams, func(s *SyncV1ServiceSyncStream) bool { return s == nil || s.SID == "" }) {
		return errors.New("the answer has a stream without a sid")
	}
	p.response = ListSyncStreamResponse{Streams: *answer.Streams}
	if answer.Meta.Next == "" {
		return nil
	}
	address, err := url.Parse(answer.Meta.Next)
	if err != nil {
		return errors.New("the answer's next_page_url is not a URL")
	}
	query := address.Query()
	page, _ := strconv.Atoi(query.Get("Page"))
	next := ListSyncStreamParams{PageSize: p.params.PageSize, Page: max(0, page), PageToken: query.Get("PageToken")}
	if next.Page == 0 && next.PageToken == "" {
		return errors.New("the answer's next_page_url has neither a Page nor a PageToken")
	}
	p.response.Next = &next
	return nil
}
