package twiliosynctest

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
)

const (
	defaultPageSize = 50
	maxPageSize     = 100
)

// page is the part of a list that a request asks for.
type page struct {
	size   int
	index  int    // for the client: what comes is up to the token
	token  string // as it came
	before bool   // the page ends before the stream of this number, instead of beginning after it
	number int
}

// tokenPattern is the form of a PageToken: "PA" for a page that begins after a stream, "PB" for one that ends before it,
// and the number of the stream. So a page stays where it is when streams come and go.
var tokenPattern = regexp.MustCompile(`^P([AB])([0-9a-f]{8})$`)

func pageToken(direction string, number int) string { return fmt.Sprintf("P%s%08x", direction, number) }

func (x *exchange) readPage() *answer {
	query := x.r.URL.Query()
	p := page{size: defaultPageSize}
	var err error
	if query.Has("PageSize") {
		p.size, err = strconv.Atoi(query.Get("PageSize"))
		if err != nil || p.size < 1 || p.size > maxPageSize {
			return refusal(http.StatusBadRequest, 54454)
		}
	}
	if query.Has("Page") {
		p.index, err = strconv.Atoi(query.Get("Page"))
		if err != nil || p.index < 0 {
			return refusal(http.StatusBadRequest, 54453)
		}
	}
	if p.token = query.Get("PageToken"); p.token != "" {
		parts := tokenPattern.FindStringSubmatch(p.token)
		if parts == nil {
			return refusal(http.StatusBadRequest, 54453)
		}
		p.before = parts[1] == "B"
		number, _ := strconv.ParseUint(parts[2], 16, 32) // it has eight digits
		p.number = int(number)
	}
	x.params.page = p
	return nil
}

// meta says where a page is, and where its neighbours are.
type meta struct {
	Key             string  `json:"key"`
	Page            int     `json:"page"`
	PageSize        int     `json:"page_size"`
	FirstPageURL    string  `json:"first_page_url"`
	PreviousPageURL *string `json:"previous_page_url"`
	URL             string  `json:"url"`
	NextPageURL     *string `json:"next_page_url"`
}

func (x *exchange) listSyncStream() *answer {
	p, streams := x.params.page, x.service.list(x.now)
	begin, end := p.in(streams)
	list := struct {
		Streams []representation `json:"streams"`
		Meta    meta             `json:"meta"`
	}{
		Streams: []representation{},
		Meta: meta{
			Key:          "streams",
			Page:         p.index,
			PageSize:     p.size,
			FirstPageURL: x.pageURL(0, ""),
			URL:          x.pageURL(p.index, p.token),
		},
	}
	for _, stream := range streams[begin:end] {
		list.Streams = append(list.Streams, x.represent(stream))
	}
	if begin > 0 {
		url := x.pageURL(max(0, p.index-1), pageToken("B", streams[begin-1].number+1))
		list.Meta.PreviousPageURL = &url
	}
	if end < len(streams) {
		url := x.pageURL(p.index+1, pageToken("A", streams[end].number-1))
		list.Meta.NextPageURL = &url
	}
	return &answer{status: http.StatusOK, body: mustMarshal(list)}
}

// in returns the bounds of the page in all streams, which are in order of their numbers.
func (p page) in(streams []*stream) (begin, end int) {
	if p.before {
		end = firstAt(p.number, streams)
		return max(0, end-p.size), end
	}
	begin = firstAt(p.number+1, streams)
	return begin, min(begin+p.size, len(streams))
}

// firstAt returns the index of the first stream with at least this number.
func firstAt(number int, streams []*stream) int {
	i, _ := slices.BinarySearchFunc(streams, number, func(st *stream, number int) int { return st.number - number })
	return i
}

func (x *exchange) pageURL(index int, token string) string {
	url := fmt.Sprintf("%s?PageSize=%d&Page=%d", x.streamsURL(), x.params.page.size, index)
	if token != "" {
		url += "&PageToken=" + token
	}
	return url
}
