// Package metrics owns what is counted: the metrics' names, how they are counted without cost to a call, those that workers add, and the text
// that Prometheus reads. What a scrape asks of others, such as the number of sessions, it is given; it serves nothing.
package metrics
