package conformance

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twiliosync/twiliosync-go"
	"github.com/twiliosync/twiliosync-go/twiliosynctest"
)

// TestStreamsOfSDKAndFake sends each of the five operations through the proxy,
// with every name that a stream may have.
func TestStreamsOfSDKAndFake(t *testing.T) {
	t.Parallel()
	contract := readContract(t)
	tally := newTally(t)
	for _, name := range uniqueNames {
		t.Run(name.name, func(t *testing.T) {
			t.Parallel()
			fake, proxy := setup(t, contract, tally, twiliosynctest.WithStreams())
			streams := proxy.client(fake).Streams
			ctx, hour := context.Background(), time.Hour

			created, _, err := streams.Create(ctx, "default", &twiliosync.CreateSyncStreamParams{UniqueName: name.id, TTL: &hour})
			require.NoError(t, err)
			_, _, err = streams.Create(ctx, "default", nil)
			require.NoError(t, err)
			for _, sid := range []string{name.id, created.SID} {
				stream, _, err := streams.Fetch(ctx, "default", sid)
				require.NoError(t, err)
				assert.Equal(t, created, stream)
				_, _, err = streams.Update(ctx, "default", sid, &twiliosync.UpdateSyncStreamParams{TTL: new(time.Duration)})
				require.NoError(t, err)
				_, _, err = streams.Update(ctx, "default", sid, &twiliosync.UpdateSyncStreamParams{TTL: &hour})
				require.NoError(t, err)
				created, _, err = streams.Fetch(ctx, "default", sid)
				require.NoError(t, err)
			}
			listed := 0
			for stream, err := range streams.All(ctx, "default", &twiliosync.ListSyncStreamParams{PageSize: 1}) {
				require.NoError(t, err)
				assert.NotEmpty(t, stream.SID)
				listed++
			}
			assert.Equal(t, 2, listed)
			_, err = streams.Delete(ctx, "default", name.id)
			require.NoError(t, err)
			_, err = streams.Delete(ctx, "default", name.id)
			require.ErrorIs(t, err, twiliosync.ErrNotFound)

			seen := map[string]bool{}
			for _, x := range proxy.all() {
				require.NoError(t, x.requestErr, x.operation)
				require.NoError(t, x.answerErr, x.operation)
				seen[x.operation] = true
			}
			assert.Len(t, seen, 5)
		})
	}
}
