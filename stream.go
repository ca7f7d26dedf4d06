package twiliosync

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"iter"
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
	// Page comes from Next of the page before.
	Page int `url:"Page,omitempty"`
	// PageToken comes from Next of the page before.
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
// second stream of that name cannot exist. If the name then exists, the stream is
// fetched and returned; who made it can't be told. A name that exists at once is
// [ErrAlreadyExists]. Without a name an unknown outcome stays unknown, as for a
// message.
//
// Operation: POST /v1/Services/{ServiceSid}/Streams
// Source: https://www.twilio.com/docs/sync/api/stream-resource#create-a-stream-resource
func (s *StreamService) Create(ctx context.Context, serviceSID string, params *CreateSyncStreamParams, opts ...CallOption) (*SyncV1ServiceSyncStream, *Response, error) {
	params = cmp.Or(params, &CreateSyncStreamParams{})
	op := newStreamOperation("CreateSyncStream", "POST", "the creation of the stream", serviceSID, params.UniqueName)
	op.proof = 201
	if params.UniqueName != "" {
		op.mayRepeat, op.doneBy = true, 409
		op.refusal = cmp.Or(op.refusal, uniqueNameRefusal("params.UniqueName", params.UniqueName))
	}
	describeStream(op, params.UniqueName, params.TTL)
	stream, response, err := s.send(ctx, op, opts)
	if err != nil || stream.SID != "" {
		return stream, response, err
	}
	stream, response, err = s.Fetch(ctx, serviceSID, params.UniqueName, opts...) // it exists
	return stream, response, asAccepted(err, op.subject)
}

// Fetch gets a stream. It is repeated after an unknown outcome, as are Update,
// Delete and List.
//
// Operation: GET /v1/Services/{ServiceSid}/Streams/{Sid}
// Source: https://www.twilio.com/docs/sync/api/stream-resource#fetch-a-stream-resource
func (s *StreamService) Fetch(ctx context.Context, serviceSID, sid string, opts ...CallOption) (*SyncV1ServiceSyncStream, *Response, error) {
	return s.send(ctx, operationOnStream("FetchSyncStream", "GET", readsOnly, serviceSID, "sid", sid), opts)
}

// Update sets the time to live of a stream, counted from now. params must have
// it.
//
// Operation: POST /v1/Services/{ServiceSid}/Streams/{Sid}
// Source: https://www.twilio.com/docs/sync/api/stream-resource#update-a-stream-resource
func (s *StreamService) Update(ctx context.Context, serviceSID, sid string, params *UpdateSyncStreamParams, opts ...CallOption) (*SyncV1ServiceSyncStream, *Response, error) {
	op := operationOnStream("UpdateSyncStream", "POST", "the update of the stream", serviceSID, "sid", sid)
	if params = cmp.Or(params, &UpdateSyncStreamParams{}); params.TTL == nil {
		op.refusal = cmp.Or(op.refusal, &ParameterError{Parameter: "params.TTL", Reason: "there is none to set; pass one, 0 for a stream that never expires"})
	}
	describeStream(op, "", params.TTL)
	return s.send(ctx, op, opts)
}

// Delete removes a stream. If an attempt with an unknown outcome is followed by
// a 404, the stream is gone and the call has succeeded; the [Response] is that
// 404.
//
// Operation: DELETE /v1/Services/{ServiceSid}/Streams/{Sid}
// Source: https://www.twilio.com/docs/sync/api/stream-resource#delete-a-stream-resource
func (s *StreamService) Delete(ctx context.Context, serviceSID, sid string, opts ...CallOption) (*Response, error) {
	op := operationOnStream("DeleteSyncStream", "DELETE", "the deletion of the stream", serviceSID, "sid", sid)
	op.proof, op.doneBy, op.answer = 204, 404, noContent{}
	_, response, err := s.send(ctx, op, opts)
	return response, err
}

// List gets one page of a service's streams. params say which.
//
// Operation: GET /v1/Services/{ServiceSid}/Streams
// Source: https://www.twilio.com/docs/sync/api/stream-resource#read-multiple-stream-resources
func (s *StreamService) List(ctx context.Context, serviceSID string, params *ListSyncStreamParams, opts ...CallOption) (*ListSyncStreamResponse, *Response, error) {
	params, page := cmp.Or(params, &ListSyncStreamParams{}), &ListSyncStreamResponse{}
	op := newStreamOperation("ListSyncStream", "GET", readsOnly, serviceSID, "")
	op.mayRepeat, op.answer, op.maxAnswer = true, page, 1<<20 // 100 streams of the longest names
	if params.PageSize < 0 || params.PageSize > 100 || params.Page < 0 {
		op.refusal = cmp.Or(op.refusal, &ParameterError{Parameter: "params.PageSize", Reason: "it is 1 to 100, or 0 for the default of 50, and a Page is not negative"})
	}
	query, _ := encodeForm(*params)
	op.query = string(query)
	_, response, err := s.send(ctx, op, opts)
	if err != nil {
		return nil, response, err
	}
	if page.Next != nil {
		page.Next.PageSize = params.PageSize
	}
	return page, response, nil
}

// All yields every stream of a service, and gets each page when it is needed.
// The first error ends it.
func (s *StreamService) All(ctx context.Context, serviceSID string, params *ListSyncStreamParams, opts ...CallOption) iter.Seq2[*SyncV1ServiceSyncStream, error] {
	return func(yield func(*SyncV1ServiceSyncStream, error) bool) {
		seen := map[string]bool{}
		for next := cmp.Or(params, &ListSyncStreamParams{}); next != nil; {
			place := cmp.Or(next.PageToken, "page "+strconv.Itoa(next.Page)) // the token says it all
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
// set anew. It is Fetch, then Create or Update, and once more Fetch if somebody
// else was faster. It is traced as these; the [Response] is the last one's.
func (s *StreamService) Ensure(ctx context.Context, serviceSID, uniqueName string, params *UpdateSyncStreamParams, opts ...CallOption) (*SyncV1ServiceSyncStream, *Response, error) {
	params = cmp.Or(params, &UpdateSyncStreamParams{})
	op := operationOnStream("FetchSyncStream", "GET", readsOnly, serviceSID, "uniqueName", uniqueName)
	op.refusal = cmp.Or(op.refusal, uniqueNameRefusal("uniqueName", uniqueName), ttlRefusal(params.TTL))
	stream, response, err := s.send(ctx, op, opts)
	for range 3 { // others may delete it at the same time
		if err == nil && params.TTL != nil {
			stream, response, err = s.Update(ctx, serviceSID, uniqueName, params, opts...)
		}
		if OutcomeOf(err) != OutcomeRejected || !errors.Is(err, ErrNotFound) {
			break
		}
		stream, response, err = s.Create(ctx, serviceSID, &CreateSyncStreamParams{UniqueName: uniqueName, TTL: params.TTL}, opts...)
		if errors.Is(err, ErrAlreadyExists) || err != nil && OutcomeOf(err) == OutcomeAccepted {
			stream, response, err = s.Fetch(ctx, serviceSID, uniqueName, opts...)
		} else if err != nil || response.StatusCode == 201 {
			break // else somebody else may have made it
		}
	}
	return stream, response, err
}

func (s *StreamService) send(ctx context.Context, op *operation, opts []CallOption) (*SyncV1ServiceSyncStream, *Response, error) {
	response, failure := cmp.Or(s, &StreamService{}).sender.send(ctx, op, opts)
	if failure != nil {
		return nil, response, failure
	}
	stream, _ := op.answer.(*SyncV1ServiceSyncStream)
	return stream, response, nil
}

// newStreamOperation makes one of a service's streams as a whole. sid is for traces.
func newStreamOperation(id, method, subject, serviceSID, sid string) *operation {
	op := &operation{id: id, method: method, serviceSID: serviceSID, streamSID: sid, subject: subject, answer: &SyncV1ServiceSyncStream{}}
	op.to("Services", serviceSID, "Streams")
	op.refusal = identifierRefusal("serviceSID", serviceSID)
	return op
}

// operationOnStream makes one of a stream that exists, which may be repeated.
func operationOnStream(id, method, subject, serviceSID, parameter, sid string) *operation {
	op := newStreamOperation(id, method, subject, serviceSID, sid)
	op.to("Services", serviceSID, "Streams", sid)
	op.mayRepeat, op.refusal = true, checkIdentifiers(serviceSID, parameter, sid)
	return op
}

// describeStream sets the form of op. A nil TTL is left out, a zero is not.
func describeStream(op *operation, uniqueName string, ttl *time.Duration) {
	form := struct {
		UniqueName string `url:"UniqueName,omitempty"`
		TTL        *int64 `url:"Ttl,omitempty"`
	}{UniqueName: uniqueName}
	if ttl != nil {
		seconds := int64(*ttl / time.Second)
		form.TTL = &seconds
	}
	op.refusal = cmp.Or(op.refusal, ttlRefusal(ttl), op.setForm(form))
}

func ttlRefusal(ttl *time.Duration) *ParameterError {
	if ttl == nil || *ttl >= 0 && *ttl <= 365*24*time.Hour && *ttl%time.Second == 0 {
		return nil
	}
	return &ParameterError{Parameter: "params.TTL", Reason: "it is in whole seconds, from 0 (never expires) to 365 days"}
}

func (s *SyncV1ServiceSyncStream) decode(body []byte) error {
	*s = SyncV1ServiceSyncStream{}
	if err := json.Unmarshal(body, s); err != nil || s.SID == "" {
		return undecodable(body, "a stream")
	}
	return nil
}

func (r *ListSyncStreamResponse) decode(body []byte) error {
	var answer struct {
		Streams *[]*SyncV1ServiceSyncStream `json:"streams"`
		Meta    pageMeta                    `json:"meta"`
	}
	if err := json.Unmarshal(body, &answer); err != nil || answer.Streams == nil {
		return undecodable(body, "a list of streams")
	}
	if slices.ContainsFunc(*answer.Streams, func(s *SyncV1ServiceSyncStream) bool { return s == nil || s.SID == "" }) {
		return errors.New("the answer has a stream without a sid")
	}
	*r = ListSyncStreamResponse{Streams: *answer.Streams}
	page, token, err := answer.Meta.next()
	if err == nil && (page > 0 || token != "") {
		r.Next = &ListSyncStreamParams{Page: page, PageToken: token}
	}
	return err
}
