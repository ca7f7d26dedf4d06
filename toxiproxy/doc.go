// Package toxiproxy puts a network that misbehaves between the SDK and the fake
// service of twiliosynctest, by means of Shopify's Toxiproxy: latency, silence,
// resets, data that ends early, comes in slices or trickles. Whatever the
// network does, no message may be called something that it is not, and no
// goroutine may be left over.
//
// It is a module of its own, so that users of the SDK never see Toxiproxy among
// their dependencies, and has nothing but tests. All of it runs in the process
// of the test, on loopback:
//
//	go test -v ./...
//
// With -v each toxic reports how many calls it met and what became of them.
package toxiproxy
