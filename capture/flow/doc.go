// Package flow puts the segments of each connection in order, the way the
// server's kernel did, and says where that is in doubt.
package flow
