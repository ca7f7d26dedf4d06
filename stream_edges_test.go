package twiliosync_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twiliosync/twiliosync-go"
	"github.com/twiliosync/twiliosync-go/twiliosynctest"
)

func TestAPageOfTheLongestNamesIsRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		srv := twiliosynctest.NewServer(t, twiliosynctest.WithStreams())
		for i := range 100 {
			name := strings.Repeat("語", 317) + fmt.Sprintf("%03d", i)
			_, _, err := srv.Client().Streams.Create(ctx, "default", &twiliosync.CreateSyncStreamParams{UniqueName: name})
			require.NoError(t, err)
		}
		page, _, err := srv.Client().Streams.List(ctx, "default", &twiliosync.ListSyncStreamParams{PageSize: 100})
		require.NoError(t, err)
		assert.Len(t, page.Streams, 100)
	})
}

func TestEnsureWhereTheCreationIsInDoubt(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		ttl    time.Duration
		script func(twiliosynctest.Fault)
		want   []string
	}{
		{"its answer is lost, so that another one's stream may need the TTL", time.Hour, twiliosynctest.Fault.LoseAnswer,
			[]string{"FetchSyncStream 404", "CreateSyncStream 0", "CreateSyncStream 409", "FetchSyncStream 200", "UpdateSyncStream 200"}},
		{"its answer is cut, so that the stream exists", 0, twiliosynctest.Fault.CutBody,
			[]string{"FetchSyncStream 404", "CreateSyncStream 201", "FetchSyncStream 200", "UpdateSyncStream 200"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				srv := twiliosynctest.NewServer(t, twiliosynctest.WithStreams())
				test.script(srv.Next(1).ToOperation("CreateSyncStream"))
				_, _, err := srv.Client().Streams.Ensure(context.Background(), "default", "orders", &twiliosync.UpdateSyncStreamParams{TTL: &test.ttl})
				require.NoError(t, err)
				var got []string
				for _, request := range srv.Requests() {
					got = append(got, fmt.Sprint(request.Operation, " ", request.Status))
				}
				assert.Equal(t, test.want, got)
			})
		})
	}
}

func TestEnsureRefusesATTLBeforeItFetches(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		srv := twiliosynctest.NewServer(t)
		negative := -time.Second
		_, _, err := srv.Client().Streams.Ensure(context.Background(), "default", "orders", &twiliosync.UpdateSyncStreamParams{TTL: &negative})
		assert.ErrorIs(t, err, twiliosync.ErrInvalidParameter)
		assert.Empty(t, srv.Requests())
	})
}

func TestNextPagesThatLeadNowhere(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, streams, nextPageURL string }{
		{"a token that is repeated with another page", "", "https://sync.twilio.com/?PageToken=PA1&Page=%d"},
		{"an address that is none", "", "https://[%d"},
		{"neither page nor token", "", "https://sync.twilio.com/?PageSize=%d"},
		{"a stream that is null", "null", "https://sync.twilio.com/?Page=%d"},
		{"a stream without a sid", "{}", "https://sync.twilio.com/?Page=%d"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				srv := twiliosynctest.NewServer(t)
				for page := range 10 {
					srv.Next(1).Optional().Respond(200, fmt.Sprintf(`{"streams":[%s],"meta":{"next_page_url":%q}}`, test.streams, fmt.Sprintf(test.nextPageURL, page+1)))
				}
				var last error
				for _, err := range srv.Client().Streams.All(context.Background(), "default", nil) {
					last = err
				}
				assert.Error(t, last)
				assert.Less(t, len(srv.Requests()), 4)
			})
		})
	}
}
