package main

import (
	"database/sql"
	"encoding/json"
	"strings"

	wmsql "github.com/ThreeDotsLabs/watermill-sql/v4/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/message"
)

// schema keeps messages in a table of SQLite for each topic, whose names are the program's own.
type schema struct{}

func messagesTable(topic string) string { return `"outbox_` + topic + `"` }
func offsetsTable(topic string) string  { return `"outbox_offsets_` + topic + `"` }

func (schema) SchemaInitializingQueries(p wmsql.SchemaInitializingQueriesParams) ([]wmsql.Query, error) {
	return []wmsql.Query{{Query: "CREATE TABLE IF NOT EXISTS " + messagesTable(p.Topic) +
		" (offset INTEGER PRIMARY KEY AUTOINCREMENT, uuid TEXT NOT NULL, payload BLOB NOT NULL, metadata TEXT NOT NULL)"}}, nil
}

func (schema) InsertQuery(p wmsql.InsertQueryParams) (wmsql.Query, error) {
	var args []any
	for _, m := range p.Msgs {
		metadata, err := json.Marshal(m.Metadata)
		if err != nil {
			return wmsql.Query{}, err
		}
		args = append(args, m.UUID, []byte(m.Payload), string(metadata))
	}
	rows := strings.TrimSuffix(strings.Repeat("(?, ?, ?),", len(p.Msgs)), ",")
	return wmsql.Query{Query: "INSERT INTO " + messagesTable(p.Topic) + " (uuid, payload, metadata) VALUES " + rows, Args: args}, nil
}

func (schema) SelectQuery(p wmsql.SelectQueryParams) (wmsql.Query, error) {
	next, err := p.OffsetsAdapter.NextOffsetQuery(wmsql.NextOffsetQueryParams{Topic: p.Topic, ConsumerGroup: p.ConsumerGroup})
	if err != nil {
		return wmsql.Query{}, err
	}
	return wmsql.Query{Query: "SELECT offset, uuid, payload, metadata FROM " + messagesTable(p.Topic) +
		" WHERE offset > (" + next.Query + ") ORDER BY offset LIMIT 1", Args: next.Args}, nil
}

func (schema) UnmarshalMessage(p wmsql.UnmarshalMessageParams) (wmsql.Row, error) {
	var row wmsql.Row
	if err := p.Row.Scan(&row.Offset, &row.UUID, &row.Payload, &row.Metadata); err != nil {
		return row, err
	}
	row.Msg = message.NewMessage(string(row.UUID), row.Payload)
	return row, json.Unmarshal(row.Metadata, &row.Msg.Metadata)
}

func (schema) SubscribeIsolationLevel() sql.IsolationLevel { return sql.LevelDefault }

// offsets keeps how far each group of consumers is.
type offsets struct{}

func (offsets) SchemaInitializingQueries(p wmsql.OffsetsSchemaInitializingQueriesParams) ([]wmsql.Query, error) {
	return []wmsql.Query{{Query: "CREATE TABLE IF NOT EXISTS " + offsetsTable(p.Topic) + " (consumer TEXT PRIMARY KEY, acked INTEGER NOT NULL)"}}, nil
}

func (offsets) NextOffsetQuery(p wmsql.NextOffsetQueryParams) (wmsql.Query, error) {
	return wmsql.Query{Query: "SELECT COALESCE((SELECT acked FROM " + offsetsTable(p.Topic) + " WHERE consumer = ?), 0)", Args: []any{p.ConsumerGroup}}, nil
}

func (offsets) AckMessageQuery(p wmsql.AckMessageQueryParams) (wmsql.Query, error) {
	return wmsql.Query{Query: "INSERT INTO " + offsetsTable(p.Topic) + " VALUES (?, ?) ON CONFLICT (consumer) DO UPDATE SET acked = excluded.acked",
		Args: []any{p.ConsumerGroup, p.LastRow.Offset}}, nil
}

func (offsets) ConsumedMessageQuery(wmsql.ConsumedMessageQueryParams) (wmsql.Query, error) {
	return wmsql.Query{}, nil
}

func (offsets) BeforeSubscribingQueries(wmsql.BeforeSubscribingQueriesParams) ([]wmsql.Query, error) {
	return nil, nil
}
