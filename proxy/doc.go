// Package proxy owns the clients' side: the socket, connections and their handshake and limits, calls in flight, streams
// and their credit, requests from workers to clients, drain. It reads heads and passes payloads on undecoded.
package proxy
